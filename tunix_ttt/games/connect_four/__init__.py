"""Connect Four: pgx's rules and its text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "Connect Four"
# Imports are lazy: parts of a game are used without JAX.


def define(*, thoughts: bool = True) -> "definition.Definition":
  """Returns the game with its text."""
  from tunix_ttt.games import definition
  from tunix_ttt.games.connect_four import connect_four_text
  from tunix_ttt.games.pgx_boards import pgx_games

  game = pgx_games.PgxGame("connect_four")
  return definition.Definition(
    name="connect_four",
    game=game,
    text=connect_four_text.connect_four_text(game, thoughts=thoughts),
    thoughts=thoughts,
    is_enumerable=False,
  )
