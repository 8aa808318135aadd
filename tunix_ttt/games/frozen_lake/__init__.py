"""Frozen Lake, the slippery puzzle of Gymnasium."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "Frozen Lake"
# Imports are lazy: parts of a game are used without JAX.


def define(*, max_moves: int = 100) -> "definition.Definition":
  """Returns the game with its text."""
  from tunix_ttt.games import definition
  from tunix_ttt.games.frozen_lake import lake_game
  from tunix_ttt.games.frozen_lake import lake_text

  return definition.Definition(
    name="frozen_lake",
    game=lake_game.FrozenLake(max_moves=max_moves),
    text=lake_text.FrozenLakeText(max_moves=max_moves),
    low=0.0,
  )
