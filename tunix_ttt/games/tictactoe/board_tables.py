"""Tokenizes every observation of the game into lookup tables.

There are about 15,000 pairs of a board and the opponent's last move. Each is
rendered and tokenized once, so games need no text and no tokenizer.
"""

from collections.abc import Callable
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat
from tunix_ttt.text import segments
from tunix_ttt.text import spellings


class Observations(NamedTuple):
  """Lookup tables of a text format and tokenizer.

  Attributes:
    rows: Row of a board and of the opponent's last cell plus 1 (0 for none),
      int32 [3^9, 10]; -1 for pairs that do not occur.
    begin: First chunks of a conversation, N rows.
    follow: Chunks after an answer, N rows.
    retry: Chunks after an unreadable answer, N rows.
    answers: Replacements of past answers in the context `truncated`, by cell;
      row 9 replaces an unreadable answer.
  """

  rows: np.ndarray
  begin: segments.Chunks
  follow: segments.Chunks
  retry: segments.Chunks
  answers: segments.Chunks

  @property
  def max_begin(self) -> int:
    """Maximum length of the first chunk of a conversation."""
    return int(self.begin.lengths.max())

  @property
  def prefix(self) -> tuple[int, ...]:
    """Tokens with which every first chunk of a conversation begins."""
    ids = np.asarray(self.begin.ids)[:, : self.begin.lengths.min() - 1]
    is_same = (ids == ids[0]).all(axis=0)
    return tuple(ids[0, : np.cumprod(is_same).sum()].tolist())

  def chunks(
    self, name: Literal["begin", "follow", "retry"], states: env_lib.State
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the chunks of B states and their mask, [B, L]."""
    rows = jnp.asarray(self.rows)[states.board, states.last_move + 1]
    return getattr(self, name).take(rows)


# A run builds the same tables for its rollouts and for its evaluation.
@functools.lru_cache(maxsize=2)
def build(
  text_format: text_formats.TextFormat, tokenizer: chat.ChatTokenizer
) -> Observations:
  """Renders and tokenizes every observation into read-only tables."""
  index = np.full((rules.NUM_BOARDS, rules.NUM_CELLS + 1), -1, np.int32)
  pairs = []
  for board in rules.positions().tolist():
    cells = rules.cells()[board]
    opponent = rules.X + rules.O - int(rules.side_to_move()[board])
    for cell in (-1, *np.flatnonzero(cells == opponent).tolist()):
      index[board, cell + 1] = len(pairs)
      pairs.append((board, None if cell < 0 else cell))
  texts = [text_format.observation(board, cell) for board, cell in pairs]

  def chunks(encode: Callable[[str], list[int]]) -> segments.Chunks:
    return segments.pad([encode(text) for text in texts], tokenizer.pad_id())

  answers = [
    text_format.answer(cell, spellings.TRUNCATED, tokenizer)
    for cell in (*range(rules.NUM_CELLS), None)
  ]
  return Observations(
    rows=segments.read_only(index),
    begin=chunks(lambda text: text_format.begin(text, tokenizer)),
    follow=chunks(lambda text: text_format.follow(text, tokenizer)),
    retry=chunks(lambda text: text_format.follow(text, tokenizer, retry=True)),
    answers=segments.pad(answers, tokenizer.pad_id()),
  )
