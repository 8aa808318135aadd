"""The text of Kuhn poker."""

import jax
import jax.numpy as jnp

from tunix_ttt.games.kuhn_poker import kuhn_game

# Byte-level tokenizers merge a period with the newline after it, so lines end
# with both.
_MOVES = (
  "You pass.\n",
  "You bet.\n",
  "Your opponent passes.\n",
  "Your opponent bets.\n",
)


class KuhnPokerText:
  """A seat's card and the moves so far, a line each."""

  rules = (
    "You are playing Kuhn poker. The cards are a jack, a queen and a king. Each"
    " player pays 1 chip and gets one card. In turn a player passes or bets 1"
    " chip. If a player passes after a bet, the bettor wins the chips; else the"
    " higher card wins them. Answer with exactly one move, <move>pass</move> or"
    " <move>bet</move>."
  )
  seats = ("first player", "second player")
  segments = (
    ("Your card: jack.\n", "Your card: queen.\n", "Your card: king.\n"),
    *(_MOVES for _ in range(3)),
    ("Pass or bet?",),
  )
  actions = (("pass", "check", "fold"), ("bet", "call"))

  def show(self, state: kuhn_game.State, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows to a seat, -1 for none: int32 [5]."""
    moves = state.moves.astype(jnp.int32)
    by_opponent = jnp.arange(len(moves)) % 2 != seat
    lines = jnp.where(moves >= 0, moves + 2 * by_opponent, -1)
    question = jnp.where(kuhn_game.KuhnPoker().to_act(state) == seat, 0, -1)
    return jnp.concatenate([state.cards[seat][None], lines, question[None]])
