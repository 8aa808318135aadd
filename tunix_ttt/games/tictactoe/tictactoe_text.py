"""The text of tic-tac-toe in slots, equal to `text_formats.render_observation`."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import tictactoe_game

_ROW = 3


class TicTacToeText:
  """The last move, the rows, the free cells of each row and the mark.

  The slots end where the symbols of `tokenizers.SYMBOLS` do.
  """

  seats = ("X", "O")
  actions = tuple((name, name.lower()) for name in text_formats.COORDINATES)

  def __init__(self, *, thoughts: bool = True):
    """Asks for a thought before each move if `thoughts` is set."""
    self.rules = text_formats.system_prompt(thoughts=thoughts)
    board = text_formats.BOARD
    last_moves = (
      f"{text_formats.LAST_MOVE}{name}.\n{board}"
      for name in text_formats.COORDINATES
    )
    first, later = text_formats.MOVES, text_formats.MOVE_SEPARATOR
    self.segments = (
      (board, *last_moves),
      tuple(_rows(0, text_formats.ROW_SEPARATOR)),
      tuple(_rows(1, text_formats.ROW_SEPARATOR)),
      tuple(_rows(2, "")),
      (first, *_free_cells(0, first)),
      (*_free_cells(1, ""), *_free_cells(1, later)),
      (*_free_cells(2, ""), *_free_cells(2, later)),
      tuple(text_formats.TO_MOVE.values()),
    )

  def show(self, state: tictactoe_game.State, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows to a seat, -1 for none: int32 [8].

    The last move is shown to the seat that did not make it.
    """
    rows = jnp.arange(3)
    marks = state.board // (3**_ROW) ** rows % 3**_ROW
    legal = jnp.asarray(rules.legal_masks())[state.board].astype(jnp.int32)
    free = legal >> _ROW * rows & 2**_ROW - 1
    is_later = legal & (1 << _ROW * rows) - 1 != 0
    lists = jnp.where(free > 0, free - 1 + (2**_ROW - 1) * is_later, -1)
    # The first slot also has a text for no free cells.
    lists = lists.at[0].set(free[0])
    is_next = jnp.asarray(rules.num_marks())[state.board] % 2 == seat
    last_move = jnp.where(is_next, state.last_move, -1).astype(jnp.int32)
    return jnp.concatenate(
      [last_move[None] + 1, marks, lists, jnp.asarray(seat, jnp.int32)[None]]
    )


def _rows(row: int, after: str) -> Iterator[str]:
  """Yields the 27 texts of a row before `after`."""
  for marks in rules.cells()[: 3**_ROW, :_ROW].tolist():
    yield text_formats.render_row(row, marks) + after


def _free_cells(row: int, before: str) -> Iterator[str]:
  """Yields the lists of one or more cells of a row after `before`."""
  names = text_formats.COORDINATES[_ROW * row :]
  for mask in range(1, 2**_ROW):
    cells = (names[cell] for cell in rules.mask_to_cells(mask))
    yield before + text_formats.MOVE_SEPARATOR.join(cells)
