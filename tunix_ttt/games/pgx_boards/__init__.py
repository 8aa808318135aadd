"""Board games of pgx by name, such as Hex and Othello."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition


def define(name: str, *, thoughts: bool = True) -> "definition.Definition":
  """Returns a game of pgx with its text.

  Raises:
    errors.UserError: if there is no such game, or it does not fit.
  """
  from tunix_ttt import errors
  from tunix_ttt.games import catalog
  from tunix_ttt.games import definition
  from tunix_ttt.games.pgx_boards import pgx_games
  from tunix_ttt.games.pgx_boards import pgx_text

  try:
    game = pgx_games.PgxGame(name)
  except errors.UserError as error:
    here = ", ".join(catalog.names())
    raise errors.UserError(f"none of {here}; {error}") from None
  return definition.Definition(
    name=name,
    game=game,
    text=pgx_text.pgx_text(game, thoughts=thoughts),
    thoughts=thoughts,
    is_enumerable=False,
  )
