"""The token prefixes of all answers as a tree, for one pass of a model."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from tunix_ttt.text import answers as answers_lib


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AnswerTree:
  """The R distinct prefixes of answers, the empty one first.

  A prefix comes after its parent, the prefix without its last token.

  Attributes:
    tokens: Last token of each prefix, 0 for the empty one, int32 [R].
    parents: Parent of each prefix, 0 for the empty one, int32 [R].
    depths: Number of tokens of each prefix, int32 [R].
    is_read: Whether each prefix reads each prefix: itself and those that it
      starts with, bool [R, R].
    states: State of the grammar after each prefix, int32 [R].
    ranks: Rank of the grammar after each prefix, int32 [R].
    ends: Mask of the tokens that end an answer after each prefix, bool [R, V].
    strays: Mask of the tokens that lead neither to a prefix nor to an end, but
      can be completed, bool [R, V].
    actions: Action of the answer that ends after each prefix, -1 if none does,
      int32 [R].
  """

  tokens: np.ndarray
  parents: np.ndarray
  depths: np.ndarray
  is_read: np.ndarray
  states: np.ndarray
  ranks: np.ndarray
  ends: np.ndarray
  strays: np.ndarray
  actions: np.ndarray

  def __len__(self) -> int:
    """Returns R."""
    return len(self.tokens)


def build(
  table: answers_lib.AnswerTable, answers: Sequence[Sequence[int]]
) -> AnswerTree:
  """Returns the tree of answers, each the tokens before its end token."""
  numbers: dict[tuple[int, ...], int] = {(): 0}
  for answer in answers:
    for length in range(1, len(answer) + 1):
      numbers.setdefault(tuple(answer[:length]), len(numbers))
  size = len(numbers)
  tokens, parents, depths = np.zeros((3, size), np.int32)
  states, ranks = np.zeros((2, size), np.int32)
  states[0] = answers_lib.START
  is_read = np.eye(size, dtype=bool)
  token_class = np.asarray(table.token_class).astype(np.int32)
  next_state = np.asarray(table.next_state).astype(np.int32)
  offset = np.asarray(table.offset).astype(np.int32)
  for prefix, number in numbers.items():
    if not prefix:
      continue
    parent, token = numbers[prefix[:-1]], prefix[-1]
    step = states[parent], token_class[token]
    tokens[number], parents[number], depths[number] = token, parent, len(prefix)
    states[number], ranks[number] = (
      next_state[step],
      ranks[parent] + offset[step],
    )
    is_read[number] |= is_read[parent]
  after = next_state[states][:, token_class]
  ends = after == answers_lib.ENDED
  strays = ~ends & (after != answers_lib.DEAD)
  strays[parents[1:], tokens[1:]] = False
  actions = np.full(size, -1, np.int32)
  for number in np.flatnonzero(ends.any(axis=1)):
    # All tokens that end an answer are of one class.
    step = states[number], token_class[ends[number].argmax()]
    actions[number] = np.asarray(table.actions)[ranks[number] + offset[step]]
  return AnswerTree(
    tokens=tokens,
    parents=parents,
    depths=depths,
    is_read=is_read,
    states=states,
    ranks=ranks,
    ends=ends,
    strays=strays,
    actions=actions,
  )
