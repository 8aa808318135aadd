"""Text of pgx's board games whose moves are cells."""

import dataclasses
from typing import Any

from tunix_ttt import errors
from tunix_ttt.games.pgx_boards import grid_text
from tunix_ttt.games.pgx_boards import pgx_games
from tunix_ttt.text import spellings


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Board:
  """The words of a game on a square board.

  Attributes:
    size: Number of rows and of columns.
    rules: Rules without names of cells and the format of answers.
    extra: Spelling of the action after the cells; empty for none.
    options: Settings of `GridText`.
  """

  size: int
  rules: str
  extra: str = ""
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


_BOARDS = {
  "go_9x9": _Board(
    size=9,
    rules=(
      "You are playing Go with area scoring and 7.5 points of komi for O. X moves"
      " first. Stones without liberties are captured; a move may neither capture"
      " its own stones alone nor retake a ko at once. You may pass; two passes or"
      " 162 moves end the game. Whoever repeats an earlier board loses."
    ),
    extra="pass",
    options={"listed": (81,), "moves": "free cells"},
  ),
  "hex": _Board(
    size=11,
    rules=(
      "You are playing Hex. X connects the top and the bottom, O the left and the"
      " right. A cell touches its two neighbors in its row, and in the rows above"
      " and below the two cells next to it as drawn. On its first move O may swap:"
      " the stone of X becomes one of O, mirrored at the diagonal from the top"
      " left."
    ),
    extra="swap",
    options={"listed": (121,), "moves": "free cells", "slant": True},
  ),
  "othello": _Board(
    size=8,
    rules=(
      "You are playing Othello. A disc must enclose discs of the opponent in a"
      " row, column or diagonal, and these turn over. Pass if you have no move."
      " Whoever has more discs at the end wins."
    ),
    extra="pass",
    options={"listed": range(65)},
  ),
  "tic_tac_toe": _Board(
    size=3,
    rules=(
      "You are playing tic-tac-toe. Three of your marks in a row, column or"
      " diagonal win."
    ),
    options={"listed": range(9)},
  ),
}


def pgx_text(
  game: pgx_games.PgxGame, *, thoughts: bool = True
) -> grid_text.GridText:
  """Returns the text of a game whose moves are cells.

  Cells are named by the letter of the column and the number of the row.

  Args:
    game: Rules of the game.
    thoughts: Whether the rules ask for a thought before each move.

  Raises:
    errors.UserError: if this module has no words for the game.
  """
  if game.name not in _BOARDS:
    raise errors.UserError(
      f"game {game.name}: its moves are not cells; use one of"
      f" {', '.join(_BOARDS)}"
    )
  board = _BOARDS[game.name]
  columns = grid_text.column_names(board.size)
  rows = grid_text.row_names(board.size)
  cells = grid_text.coordinates(columns, rows)
  places = (
    f" Columns are {columns[0]} to {columns[-1]} from the left, rows"
    f" {rows[0]} to {rows[-1]} from the top."
  )
  answers = spellings.ask(cells[board.size + 2][0], thoughts=thoughts)
  return grid_text.GridText(
    game=game,
    rules=board.rules + places + answers,
    actions=(*cells, *([(board.extra,)] if board.extra else [])),
    columns=columns,
    rows=rows,
    **board.options,
  )
