"""Minimal automata over the bytes of answers that spell one of many actions.

Answers share the states of their ends. Offsets of the transitions add up to the
rank of a spelling among all spellings in byte order (Lucchesi and Kowaltowski,
1993), so one state stands for the end of all answers.
"""

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from tunix_ttt import errors

# A state without an answer, the first state, the end of a turn after an answer,
# and a complete answer.
DEAD, START, ENDED, WHOLE = range(4)
WHITESPACE = b" \t\n\r\f\v"
# Replaces the thoughts of past answers in the context `truncated`.
TRUNCATED = "[TRUNCATED]"
# Precedes an observation after an unreadable answer.
REJECTION = "That is not an answer of the required format.\n"


def render_answer(spelling: str, thought: str | None = None) -> str:
  """Returns the answer that plays an action, after a thought if not None."""
  move = f"<move>{spelling}</move>"
  return move if thought is None else f"<think>{thought}</think>\n{move}"


def ask(example: str, *, thoughts: bool) -> str:
  """Returns the sentence that asks for one move, after a thought if set."""
  move = f"exactly one move such as {render_answer(example)}."
  if thoughts:
    return f" Think between <think> and </think>, then give {move}"
  return f" Answer with {move}"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Automaton:
  """A deterministic automaton over bytes with S states and N spellings.

  Each state comes after the states of its transitions, except that the states
  of a thought, `START` and whitespace lead to states in any order.

  Attributes:
    next_state: Next state by byte and state, int32 [256, S].
    offset: Increase of the rank by byte and state, int32 [256, S].
    num_spellings: Number of spellings that can follow a state, int32 [S].
    spellings: Spelling of each rank.
    actions: Action of each rank, int32 [N].
  """

  next_state: np.ndarray
  offset: np.ndarray
  num_spellings: np.ndarray
  spellings: tuple[str, ...]
  actions: np.ndarray

  def read(self, text: str) -> int:
    """Returns the action of an answer; -1 if it is not of the format."""
    state, rank = START, 0
    for byte in text.encode():
      rank += int(self.offset[byte, state])
      state = int(self.next_state[byte, state])
    return int(self.actions[rank]) if state == WHOLE else -1

  def texts(self) -> list[str] | None:
    """Returns the answer with each rank, without whitespace around it.

    None if answers are without number, such as those with thoughts.
    """
    result = [""] * len(self.spellings)
    stack = [(START, 0, b"")]
    while stack:
      state, rank, text = stack.pop()
      if state == WHOLE:
        result[rank] = text.decode()
        continue
      if len(text) > len(self.num_spellings):
        # More bytes than states: a cycle.
        return None
      after = self.next_state[:, state]
      for byte in np.flatnonzero((after != DEAD) & (after != state)).tolist():
        total = rank + int(self.offset[byte, state])
        stack.append((int(after[byte]), total, text + bytes([byte])))
    return result


def build(
  actions: Sequence[Sequence[str]],
  *,
  opening: str,
  closing: str,
  thought_tags: tuple[str, str] | None,
) -> Automaton:
  """Returns the automaton of answers; see `answers.compile_answers`.

  Raises:
    errors.UserError: if an action has no spelling, or if spellings cannot be
      told apart.
  """
  action_of_spelling = _action_of_spelling(actions)
  words = sorted(
    (f"{opening}{spelling}{closing}".encode(), spelling)
    for spelling in action_of_spelling
  )
  for (word, spelling), (later, longer) in itertools.pairwise(words):
    if later.startswith(word):
      raise errors.UserError(
        f"the spelling {longer!r} of an action starts with the spelling"
        f" {spelling!r}; end spellings with a closing tag"
      )
  if words[0][0][:1].isspace() or words[-1][0][:1].isspace():
    raise errors.UserError(
      "an answer must not start with whitespace; start spellings with an"
      " opening tag"
    )
  builder = _Builder()
  state = START
  if thought_tags is not None:
    state = builder.add_thought(*thought_tags, num_spellings=len(words))
  builder.connect(state, builder.suffixes([word for word, _ in words]))
  spellings = tuple(spelling for _, spelling in words)
  return Automaton(
    next_state=np.array(builder.next_state, np.int32).T,
    offset=np.array(builder.offset, np.int32).T,
    num_spellings=np.array(builder.num_spellings, np.int32),
    spellings=spellings,
    actions=np.array([action_of_spelling[s] for s in spellings], np.int32),
  )


def _action_of_spelling(actions: Sequence[Sequence[str]]) -> dict[str, int]:
  result: dict[str, int] = {}
  for action, names in enumerate(actions):
    if not names:
      raise errors.UserError(f"action {action} has no spelling; add one")
    for name in names:
      if name in result:
        raise errors.UserError(
          f"actions {result[name]} and {action} are both spelled {name!r};"
          " remove one of the spellings"
        )
      result[name] = action
  if not result:
    raise errors.UserError("the game has no actions; add their spellings")
  return result


# Next states by byte, in byte order.
_Edges = tuple[tuple[int, int], ...]


class _Builder:
  """Builds an automaton state by state."""

  def __init__(self):
    self.next_state: list[np.ndarray] = []
    self.offset: list[np.ndarray] = []
    self.num_spellings: list[int] = []
    self._states: dict[_Edges, int] = {}
    for num_spellings in (0, 0, 1, 1):
      self.add(num_spellings)
    for state in (START, WHOLE):
      self._skip_whitespace(state)

  def add(self, num_spellings: int) -> int:
    """Adds a state whose bytes all lead to `DEAD`."""
    self.next_state.append(np.full(256, DEAD, np.int32))
    self.offset.append(np.zeros(256, np.int32))
    self.num_spellings.append(num_spellings)
    return len(self.next_state) - 1

  def _skip_whitespace(self, state: int) -> None:
    self.next_state[state][list(WHITESPACE)] = state

  def connect(self, state: int, edges: _Edges) -> None:
    """Adds the transitions of a state."""
    total = 0
    for byte, after in edges:
      self.next_state[state][byte] = after
      self.offset[state][byte] = total
      total += self.num_spellings[after]
    self.num_spellings[state] = total

  def suffixes(self, words: Sequence[bytes]) -> _Edges:
    """Returns the transitions to states that read words.

    `words` are sorted, not empty, and none starts with another one. States that
    read the same words are one state.
    """
    edges, first = [], 0
    while first < len(words):
      byte, last = words[first][0], first
      while last < len(words) and words[last][0] == byte:
        last += 1
      edges.append((byte, self._state([w[1:] for w in words[first:last]])))
      first = last
    return tuple(edges)

  def _state(self, words: Sequence[bytes]) -> int:
    if words == [b""]:
      return WHOLE
    edges = self.suffixes(words)
    if edges not in self._states:
      self._states[edges] = self.add(0)
      self.connect(self._states[edges], edges)
    return self._states[edges]

  def add_thought(
    self, opening: str, closing: str, *, num_spellings: int
  ) -> int:
    """Reads a thought and whitespace; returns the state after them."""
    state = START
    for byte in opening.encode():
      after = self.add(num_spellings)
      self.next_state[state][byte] = after
      state = after
    # Reads bytes up to the first closing tag (Knuth-Morris-Pratt).
    text = closing.encode()
    matched = [state, *(self.add(num_spellings) for _ in text)]
    for length in range(len(text)):
      for byte in range(256):
        read = text[:length] + bytes([byte])
        length_after = max(
          k for k in range(length + 2) if read.endswith(text[:k])
        )
        self.next_state[matched[length]][byte] = matched[length_after]
    self.num_spellings[START] = num_spellings
    self._skip_whitespace(matched[-1])
    return matched[-1]
