"""The text of High Card Duel."""

import jax
import jax.numpy as jnp

from tunix_ttt.games.high_card_duel import duel_game


class HighCardDuelText:
  """One sentence, which does not name the card."""

  rules = (
    "You are playing High Card Duel. Each player has one hidden card and reveals"
    " it. The higher card wins: 2 is the lowest, an ace beats a king, and a"
    " joker beats all. Answer with exactly one move, <move>reveal</move>."
  )
  seats = ("first player", "second player")
  segments = (("High Card Duel: You have 1 hidden card. Action: reveal.",),)
  actions = (("reveal",),)

  def show(self, state: duel_game.State, seat: jax.Array) -> jax.Array:
    """Returns 0 if it is the seat's turn, else -1: int32 [1]."""
    is_turn = duel_game.HighCardDuel().to_act(state) == seat
    return jnp.where(is_turn, 0, -1)[None]
