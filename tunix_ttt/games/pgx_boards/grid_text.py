"""Text of board games on a grid of visible cells.

An observation has a slot for each cell, one for each move that is listed, and
fixed text between them::

    Board:
     a b c d e f g
     . . . . . . .
     . . . . . . .
     . . . . . . .
     . . . . . . .
     . . . X . . .
     . O . X O . .
    Available moves: a, b, c, d, e, f, g
    You are X. Your move?
"""

from collections.abc import Sequence
import dataclasses
import string

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games.pgx_boards import pgx_games

SEATS = ("X", "O")
_FREE = "."


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridText:
  """A `GameText` of a pgx game with R rows and C columns.

  Attributes:
    game: Rules of the game.
    rules: System prompt, with the format of moves.
    actions: Spellings of each action.
    columns: Name of each of the C columns.
    rows: Name of each of the R rows; empty strings for rows without names.
    slant: Whether each row is drawn half a cell further to the right.
    listed: Actions that the list of available moves names.
    moves: First entry of this list, which stands for all others; empty if all
      actions are listed.
    seats: Name of each seat, which is its mark on the board.
    segments: Texts of each slot.
  """

  game: pgx_games.PgxGame
  rules: str
  actions: Sequence[Sequence[str]]
  columns: Sequence[str]
  rows: Sequence[str]
  slant: bool = False
  listed: Sequence[int] = ()
  moves: str = ""
  seats: Sequence[str] = SEATS
  segments: Sequence[Sequence[str]] = dataclasses.field(init=False)

  def __post_init__(self):
    object.__setattr__(self, "segments", tuple(self._segments()))

  def show(self, state: pgx_games.State, seat: jax.Array) -> jax.Array:
    """Returns the text of each slot, -1 for none: int32 [K].

    Only the seat to act sees a list of moves and is asked for one.
    """
    is_turn = self.game.to_act(state) == seat
    fixed = jnp.zeros(1, jnp.int32)
    legal = self.game.legal(state)[np.array(self.listed, np.int32)] & is_turn
    # Entries are separated by commas.
    is_first = (jnp.cumsum(legal) == 1) & (not self.moves)
    return jnp.concatenate(
      [
        fixed,
        self.game.marks(state),
        jnp.where(is_turn, fixed, -1),
        jnp.where(legal, jnp.where(is_first, 0, 1), -1),
        jnp.where(is_turn, seat, -1)[None].astype(jnp.int32),
      ]
    )

  def _segments(self):
    width = max(map(len, self.rows))
    yield ("Board:\n" + " " * width + "".join(f" {c}" for c in self.columns),)
    for number, row in enumerate(self.rows):
      start = "\n" + " " * (number * self.slant) + row.ljust(width)
      for column in range(len(self.columns)):
        before = start if column == 0 else ""
        yield tuple(f"{before} {mark}" for mark in (_FREE, *self.seats))
    # Byte-level tokenizers would merge a colon with the newline after the list.
    yield ("\nAvailable moves" + (f": {self.moves}" if self.moves else ""),)
    for action in self.listed:
      name = self.actions[action][0]
      yield (f": {name}", f", {name}")
    yield tuple(f"\nYou are {name}. Your move?" for name in self.seats)


def coordinates(
  columns: Sequence[str], rows: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Returns the spellings of each cell, row by row: (`d3`, `D3`)."""
  return tuple(
    (column + row, column.upper() + row) for row in rows for column in columns
  )


def column_names(number: int) -> tuple[str, ...]:
  """Returns the letters from `a`."""
  return tuple(string.ascii_lowercase[:number])


def row_names(number: int) -> tuple[str, ...]:
  """Returns the numbers from 1, with leading zeros.

  All have the same length, so no cell's name is the beginning of another's.
  """
  width = len(str(number))
  return tuple(f"{row:0{width}}" for row in range(1, number + 1))
