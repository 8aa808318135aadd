"""The rules of High Card Duel, as in UNGAR's `high_card_duel`.

Each player gets one of 52 cards and 4 jokers. Seat 0 reveals its card, then
seat 1. The higher rank wins: 2 is the lowest, an ace beats a king, and a joker
beats all. There is nothing to decide.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import cards
from tunix_ttt.games import game as game_lib

REVEAL = 0
NUM_CARDS = 56
_NUM_SUITS = 4


@struct.dataclass
class State:
  """State of one game.

  Attributes:
    cards: Card of each seat, -1 before it is dealt, int8 [2]; cards 4r to
      4r + 3 have rank r, from 0 (a two) to 12 (an ace) and 13 (a joker).
    num_revealed: Number of seats that have revealed their card, int8 [].
  """

  cards: jax.Array
  num_revealed: jax.Array


class HighCardDuel:
  """High Card Duel; chance first deals seat 0's card, then seat 1's."""

  num_seats = 2
  num_actions = 1
  max_plies = 4

  def init(self, key: jax.Array) -> State:
    """Returns the state before the deal; ignores the key."""
    del key
    return State(cards=jnp.full(2, -1, jnp.int8), num_revealed=jnp.int8(0))

  def to_act(self, state: State) -> jax.Array:
    """Returns the seat to act, `CHANCE` or `OVER`: int32 []."""
    num_revealed = state.num_revealed.astype(jnp.int32)
    seat = jnp.where(num_revealed == 2, game_lib.OVER, num_revealed)
    return jnp.where(state.cards[1] < 0, game_lib.CHANCE, seat)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal actions, REVEAL only: bool [1]."""
    return (self.to_act(state) >= 0)[None]

  def chance(self, state: State) -> jax.Array:
    """Returns the probability of each card to be dealt next: float32 [56]."""
    return cards.odds(state.cards, NUM_CARDS)

  def step(self, state: State, action: jax.Array) -> State:
    """Deals the card `action` or reveals one; a finished game stays."""
    to_act = self.to_act(state)
    dealt = cards.deal(state.cards, action)
    return dataclasses.replace(
      state,
      cards=jnp.where(to_act == game_lib.CHANCE, dealt, state.cards),
      num_revealed=state.num_revealed + (to_act >= 0).astype(jnp.int8),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns 1 for a win, 0 for a tie and -1 for a loss: float32 [2]."""
    ranks = state.cards // _NUM_SUITS
    won = jnp.sign(ranks - ranks[::-1])
    is_over = self.to_act(state) == game_lib.OVER
    return jnp.where(is_over, won, 0).astype(jnp.float32)

  def observe(self, state: State, seat: jax.Array) -> tuple[jax.Array, ...]:
    """Returns what a seat knows.

    The card of each seat, -1 if it is hidden, int8 [2], and the number of
    revealed cards, int8 [].
    """
    seats = jnp.arange(2)
    is_visible = (seats == seat) | (seats < state.num_revealed)
    return jnp.where(is_visible, state.cards, -1), state.num_revealed
