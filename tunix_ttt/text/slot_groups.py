"""Joins neighboring slots of a text where a tokenizer merges their text.

Groups of joined slots are tokenized separately; their tokens, concatenated,
equal those of the whole text.
"""

from collections.abc import Callable, Iterable, Sequence
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from tunix_ttt import errors

# Bounds of the texts of a group, and of the pairs of texts that are checked.
MAX_TEXTS = 1 << 16
MAX_PAIRS = 1 << 14


class Piece(NamedTuple):
  """Tokens of a group of slots.

  Attributes:
    rows: Tokens of each text of the group: of the product of its slots' texts,
      where each slot first shows nothing and then its texts.
    strides: Distance between the rows of consecutive texts of a slot, int32
      [K]; 0 for the slots of other groups.
  """

  rows: list[list[int]]
  strides: np.ndarray


class Groups:
  """Groups of neighboring parts of a text, joined until no tokens span two.

  The first and the last part are fixed; each part between is a slot.
  """

  def __init__(
    self,
    options: Sequence[Sequence[str]],
    encode: Callable[[str], list[int]],
  ):
    """Starts with a group for each part; `options` has the texts of each."""
    self._options = options
    self._encode_whole = encode
    self._encode = functools.cache(lambda text: encode(text) if text else [])
    self._groups = [(i, i + 1) for i in range(len(options))]

  def join_pairs(self, is_optional: np.ndarray) -> None:
    """Joins parts of which two texts merge when they are neighbors.

    `is_optional` has the parts that can show nothing between two others.
    """
    for i, j in itertools.combinations(range(len(self._options)), 2):
      pair = self._options[i], self._options[j]
      if (
        is_optional[i + 1 : j].all()
        and math.prod(map(len, pair)) <= MAX_PAIRS
        and any(map(self._merges, itertools.product(*pair)))
      ):
        self._join(i, j)

  def join_observations(self, choices: np.ndarray) -> bool:
    """Joins parts until their tokens are those of each observation's text.

    `choices` int [S, P] has the text of each part. Returns whether parts were
    joined, which can change the tokens of observations that were compared.
    """
    is_changed = False
    for choice in choices.tolist():
      texts = [t[int(n)] for t, n in zip(self._options, choice, strict=True)]
      whole = self._encode_whole("".join(texts))
      while whole != self._concatenate(pieces := self._pieces(texts)):
        self._join(*self._smallest_merge(pieces))
        is_changed = True
    return is_changed

  def tokenize(self) -> list[Piece]:
    """Returns the tokens of all texts of each group, and its strides."""
    result = []
    for start, stop in self._groups:
      options = self._options[start:stop]
      rows = [self._encode("".join(t)) for t in itertools.product(*options)]
      sizes = np.array([len(texts) for texts in options], np.int32)
      strides = np.zeros(len(self._options), np.int32)
      strides[start:stop] = len(rows) // np.cumprod(sizes)
      result.append(Piece(rows, strides[1:-1]))
    return result

  def _pieces(self, texts: Sequence[str]) -> list[str]:
    return ["".join(texts[start:stop]) for start, stop in self._groups]

  def _concatenate(self, pieces: Iterable[str]) -> list[int]:
    return [*itertools.chain.from_iterable(map(self._encode, pieces))]

  def _merges(self, pieces: Sequence[str]) -> bool:
    return self._encode_whole("".join(pieces)) != self._concatenate(pieces)

  def _smallest_merge(self, pieces: Sequence[str]) -> tuple[int, int]:
    """Returns the first and the last part of groups that merge."""
    count = len(pieces)
    for width in range(2, count + 1):
      for i in range(count - width + 1):
        if self._merges(pieces[i : i + width]):
          return self._groups[i][0], self._groups[i + width - 1][1] - 1
    raise AssertionError("a single group has the tokens of the whole text")

  def _join(self, first: int, last: int) -> None:
    """Joins the groups of two parts and those between."""
    joined = [g for g in self._groups if g[0] <= last and g[1] > first]
    start, stop = joined[0][0], joined[-1][1]
    size = math.prod(map(len, self._options[start:stop]))
    if size > MAX_TEXTS:
      slots = range(max(start, 1), min(stop, len(self._options) - 1))
      examples = ", ".join(repr(self._options[slot][-1]) for slot in slots[:3])
      raise errors.UserError(
        f"the tokenizer merges the text of slots {slots[0]} to {slots[-1]} of"
        f" the observation ({examples}, ...), which have {size:,} texts"
        f" together, more than {MAX_TEXTS:,}; end or start slots with text that"
        " it does not merge, such as a newline, or train the tokenizer with"
        " tokenizer.split_by_whitespace=true"
      )
    position = self._groups.index(joined[0])
    self._groups[position : position + len(joined)] = [(start, stop)]
