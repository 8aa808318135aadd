"""The text of Leduc poker."""

import jax
import jax.numpy as jnp

from tunix_ttt.games.leduc_poker import leduc_game

_CARDS = tuple(
  f"{rank} of {suit}"
  for rank in ("jack", "queen", "king")
  for suit in ("hearts", "spades")
)
# Byte-level tokenizers merge a period with the newline after it, so lines end
# with both.
_MOVES = tuple(
  f"{move}.\n"
  for move in (
    "You fold",
    "You call",
    "You raise",
    "Your opponent folds",
    "Your opponent calls",
    "Your opponent raises",
  )
)


class LeducPokerText:
  """A seat's card, each round's moves, a line each, and the legal actions."""

  rules = (
    "You are playing Leduc poker. The cards are two jacks, two queens and two"
    " kings. Each player pays 1 chip and gets one card. After a round of bets a"
    " public card is shown, and a second round follows. In turn a player folds,"
    " calls or raises; a raise is 2 chips in the first round and 4 in the"
    " second, and there are at most two a round. At the end a pair with the"
    " public card wins, else the higher rank. Answer with exactly one move such"
    " as <move>call</move>."
  )
  seats = ("first player", "second player")
  segments = (
    tuple(f"Your card: {card}.\n" for card in _CARDS),
    *(_MOVES for _ in range(4)),
    tuple(f"Public card: {card}.\n" for card in _CARDS),
    *(_MOVES for _ in range(4)),
    (
      "Call?",
      "Fold or call?",
      "Call or raise?",
      "Fold, call or raise?",
    ),
  )
  actions = (("fold",), ("call", "check"), ("raise", "bet"))

  def show(self, state: leduc_game.State, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows to a seat, -1 for none: int32 [11]."""
    game = leduc_game.LeducPoker()
    moves = state.moves.astype(jnp.int32)
    by_opponent = jnp.arange(moves.shape[1]) % 2 != seat
    lines = jnp.where(moves >= 0, moves + 3 * by_opponent, -1)
    legal = game.legal(state)
    question = legal[leduc_game.FOLD] + 2 * legal[leduc_game.RAISE]
    question = jnp.where(game.to_act(state) == seat, question, -1)
    private, public = state.cards[seat], state.cards[leduc_game.PUBLIC]
    return jnp.concatenate(
      [private[None], lines[0], public[None], lines[1], question[None]]
    )
