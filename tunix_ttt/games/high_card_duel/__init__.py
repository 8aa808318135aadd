"""High Card Duel, the smallest card game of UNGAR."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "High Card Duel"
# Imports are lazy: parts of a game are used without JAX.


def define() -> "definition.Definition":
  """Returns the game with its text."""
  from tunix_ttt.games import definition
  from tunix_ttt.games.high_card_duel import duel_game
  from tunix_ttt.games.high_card_duel import duel_text
  from tunix_ttt.games.high_card_duel import duel_traces

  return definition.Definition(
    name="high_card_duel",
    game=duel_game.HighCardDuel(),
    text=duel_text.HighCardDuelText(),
    traces=duel_traces.rows,
  )
