"""Every observation of the game as tokens, rendered once and looked up in play.

There are some fifteen thousand pairs of a board and the opponent's last move
on it. Each is put through the format, the chat template and the tokenizer
whole, so that during play no text is touched and nothing is tokenised again.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import numpy as np

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat


class Chunks(NamedTuple):
  """Token sequences of different lengths, padded at the end.

  Attributes:
    ids: int32 [N, L].
    lengths: int32 [N].
  """

  ids: np.ndarray
  lengths: np.ndarray


class Observations(NamedTuple):
  """The tables of a format and tokenizer.

  Attributes:
    rows: int32 [3^9, 10], the row of a board and of the cell that the
      opponent took last, plus 1 (0 for none); -1 where nobody is asked.
    begin: N rows, the chunks that begin a conversation.
    follow: N rows, the chunks after an answer.
    retry: N rows, the chunks after an answer that could not be parsed.
    answers: 10 rows, the chunks that replace a past answer in the context
      `truncated`: by its cell, or row 9 for an answer that was not parsed.
  """

  rows: np.ndarray
  begin: Chunks
  follow: Chunks
  retry: Chunks
  answers: Chunks


# A run asks for the same tables twice: for its rollouts and its evaluation.
@functools.lru_cache(maxsize=2)
def build(
  text_format: text_formats.TextFormat, tokenizer: chat.ChatTokenizer
) -> Observations:
  """Renders and tokenizes every observation.

  The tables of the last formats and tokenizers are kept; they are read-only.
  """
  index = np.full((rules.NUM_BOARDS, rules.NUM_CELLS + 1), -1, np.int32)
  pairs = []
  for board in rules.positions().tolist():
    cells = rules.cells()[board]
    theirs = rules.X + rules.O - int(rules.side_to_move()[board])
    for cell in (-1, *np.flatnonzero(cells == theirs).tolist()):
      index[board, cell + 1] = len(pairs)
      pairs.append((board, None if cell < 0 else cell))
  texts = [text_format.observation(board, cell) for board, cell in pairs]

  def chunks(encode: Callable[[str], list[int]]) -> Chunks:
    return _pad([encode(text) for text in texts], tokenizer.pad_id())

  answers = [
    text_format.answer(cell, text_formats.TRUNCATED, tokenizer)
    for cell in (*range(rules.NUM_CELLS), None)
  ]
  return Observations(
    rows=_read_only(index),
    begin=chunks(lambda text: text_format.begin(text, tokenizer)),
    follow=chunks(lambda text: text_format.follow(text, tokenizer)),
    retry=chunks(lambda text: text_format.follow(text, tokenizer, retry=True)),
    answers=_pad(answers, tokenizer.pad_id()),
  )


def _pad(rows: Sequence[list[int]], pad_id: int) -> Chunks:
  lengths = np.array([len(row) for row in rows], np.int32)
  ids = np.full((len(rows), int(lengths.max())), pad_id, np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
  return Chunks(*map(_read_only, (ids, lengths)))


def _read_only(array: np.ndarray) -> np.ndarray:
  array.flags.writeable = False
  return array
