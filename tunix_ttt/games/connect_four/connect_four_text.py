"""Connect Four for language models: a move is the letter of a column."""

from tunix_ttt.games import grid_text
from tunix_ttt.games import pgx_games
from tunix_ttt.text import spellings

_ROWS, _COLUMNS = 6, 7
_RULES = (
  "You are playing Connect Four. Columns are a to g from the left. A disc falls"
  " to the lowest free cell of its column. Four of your discs in a row, column"
  " or diagonal win."
)


def connect_four_text(
  game: pgx_games.PgxGame, *, thoughts: bool = True
) -> grid_text.GridText:
  """Returns the text of `PgxGame("connect_four")`.

  Args:
    game: Rules of the game.
    thoughts: Whether the rules ask for a thought before each move.
  """
  columns = grid_text.column_names(_COLUMNS)
  return grid_text.GridText(
    game=game,
    rules=_RULES + spellings.ask("d", thoughts=thoughts),
    actions=tuple((column, column.upper()) for column in columns),
    columns=columns,
    rows=("",) * _ROWS,
    listed=range(_COLUMNS),
  )
