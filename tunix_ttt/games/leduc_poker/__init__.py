"""Leduc poker (Southey et al., 2005): two rounds of bets and a public card."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "Leduc poker"
# Imports are lazy: parts of a game are used without JAX.


def define() -> "definition.Definition":
  """Returns the game with its text."""
  from tunix_ttt.games import definition
  from tunix_ttt.games.leduc_poker import leduc_game
  from tunix_ttt.games.leduc_poker import leduc_text

  return definition.Definition(
    name="leduc_poker",
    game=leduc_game.LeducPoker(),
    text=leduc_text.LeducPokerText(),
    low=-13.0,
    high=13.0,
  )
