"""Draws the rows that are held out: none of them has its like among the rest.

Rows that are alike stay together: those of one text or, as `data.held_out_by`
may ask, those that answer one position.
"""

from collections.abc import Hashable, Iterable, Sequence
import hashlib

import numpy as np

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.data import row_formats


def by_text(samples: Iterable[row_formats.Sample]) -> list[Hashable]:
  """Returns a key for each sample: its whole text or, of a pair, its prompt."""

  def key(sample: row_formats.Sample) -> bytes:
    is_pair = isinstance(sample, row_formats.Preference)
    text = repr(sample.prompt if is_pair else sample)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

  return list(map(key, samples))


def by_position(
  samples: Iterable[row_formats.Sample], where: str
) -> list[Hashable]:
  """Returns a key for each sample: the board that it answers.

  Boards that are rotations or reflections of each other have one key. Earlier
  boards of a conversation, whose answers are not trained on, do not count.

  Args:
    samples: rows of which each answers one board.
    where: the name of the data, for messages.

  Raises:
    errors.UserError: if a row answers no board, or several.
  """
  # Imported lazily: builds the tables of the rules.
  from tunix_ttt.data import checks
  from tunix_ttt.games.tictactoe import rules

  forms, keys = rules.canonical(), []
  for number, sample in enumerate(samples, start=1):
    if isinstance(sample, row_formats.Preference):
      answer, _ = sample.answers()
    else:
      assert not isinstance(sample, row_formats.Prompt)
      answer = sample
    boards = [decision.shown.board for decision in checks.decisions(answer)]
    if len(boards) != 1:
      raise errors.UserError(
        f"data.held_out_by: position needs rows that answer one board each, and"
        f" row {number:,} of {where} answers {len(boards) or 'none'}; use the"
        " context board, or held_out_by: text"
      )
    keys.append(int(forms[boards[0]]))
  return keys


def draw(keys: Sequence[Hashable], share: float, seed: int) -> set[int]:
  """Draws rows to hold out, in whole groups of equal keys.

  Groups come in a random order; one that would exceed the share is left out. So
  fewer rows than the share are drawn where no group fits, and at least one row
  is left.

  Args:
    keys: a key for each row.
    share: the share of all rows to draw.
    seed: the seed of the order.

  Returns:
    The indices of the rows that are drawn.
  """
  room = min(int(np.ceil(len(keys) * share)), len(keys) - 1)
  groups: dict[Hashable, list[int]] = {}
  for row, key in enumerate(keys):
    groups.setdefault(key, []).append(row)
  members, drawn = [*groups.values()], set[int]()
  rng = streams.generator(seed, streams.Stream.HELD_OUT_ROWS)
  for number in rng.permutation(len(members)):
    if len(drawn) + len(members[number]) <= room:
      drawn.update(members[number])
  return drawn
