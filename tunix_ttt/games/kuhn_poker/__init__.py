"""Kuhn poker (Kuhn, 1950): one card and one bet."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "Kuhn poker"
# Imports are lazy: parts of a game are used without JAX.


def define() -> "definition.Definition":
  """Returns the game with its text."""
  from tunix_ttt.games import definition
  from tunix_ttt.games.kuhn_poker import kuhn_game
  from tunix_ttt.games.kuhn_poker import kuhn_text

  return definition.Definition(
    name="kuhn_poker",
    game=kuhn_game.KuhnPoker(),
    text=kuhn_text.KuhnPokerText(),
    low=-2.0,
    high=2.0,
  )
