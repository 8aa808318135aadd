"""The rules of Kuhn poker for two players, as in OpenSpiel's `kuhn_poker`.

Each player antes 1 and gets one of three cards. A player may bet 1; if the other
bets too, the higher card wins 2, else the bettor wins 1. Without a bet the
higher card wins 1.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import cards
from tunix_ttt.games import game as game_lib

PASS, BET = 0, 1
NUM_CARDS = 3
_NUM_MOVES = 3


@struct.dataclass
class State:
  """State of one game; -1 for cards and moves that are yet to come.

  Attributes:
    cards: Card of each seat, 0 (lowest) to 2, int8 [2].
    moves: PASS or BET of each turn, int8 [3].
  """

  cards: jax.Array
  moves: jax.Array


class KuhnPoker:
  """Kuhn poker; chance first deals seat 0's card, then seat 1's."""

  # Name of the same game in OpenSpiel.
  open_spiel = "kuhn_poker"
  num_seats = 2
  num_actions = 2
  max_plies = 2 + _NUM_MOVES

  def init(self, key: jax.Array) -> State:
    """Returns the state before the deal; ignores the key."""
    del key
    return State(
      cards=jnp.full(2, -1, jnp.int8), moves=jnp.full(_NUM_MOVES, -1, jnp.int8)
    )

  def to_act(self, state: State) -> jax.Array:
    """Returns the seat to act, `CHANCE` or `OVER`: int32 []."""
    num_moves = _num_moves(state)
    is_answered = (state.moves[0] == PASS) & (state.moves[1] == BET)
    is_over = (num_moves == 3) | (num_moves == 2) & ~is_answered
    seat = jnp.where(is_over, game_lib.OVER, num_moves % 2)
    return jnp.where(state.cards[1] < 0, game_lib.CHANCE, seat)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal actions, PASS and BET: bool [2]."""
    return jnp.full(2, self.to_act(state) >= 0)

  def chance(self, state: State) -> jax.Array:
    """Returns the probability of each card to be dealt next: float32 [3]."""
    return cards.odds(state.cards, NUM_CARDS)

  def step(self, state: State, action: jax.Array) -> State:
    """Deals the card or plays the move `action`; a finished game stays."""
    to_act = self.to_act(state)
    dealt = cards.deal(state.cards, action)
    moved = state.moves.at[_num_moves(state)].set(
      action.astype(jnp.int8), mode="drop"
    )
    return dataclasses.replace(
      state,
      cards=jnp.where(to_act == game_lib.CHANCE, dealt, state.cards),
      moves=jnp.where(to_act >= 0, moved, state.moves),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns the chips that each seat won, 0 before the end: float32 [2]."""
    last = _num_moves(state) - 1
    stake = jnp.where(state.moves[last] == BET, 2, 1)
    has_higher = state.cards[0] > state.cards[1]
    # The last to move passed to a bet and loses, or both reveal their cards.
    is_fold = (state.moves[last - 1] == BET) & (state.moves[last] == PASS)
    is_won = jnp.where(is_fold, last % 2 == 1, has_higher)
    won = jnp.where(is_won, stake, -stake)
    is_over = self.to_act(state) == game_lib.OVER
    return jnp.where(is_over, jnp.stack([won, -won]), 0).astype(jnp.float32)

  def observe(self, state: State, seat: jax.Array) -> tuple[jax.Array, ...]:
    """Returns what a seat knows: its card, int8 [], and all moves, int8 [3]."""
    return state.cards[seat], state.moves


def _num_moves(state: State) -> jax.Array:
  return (state.moves >= 0).sum(dtype=jnp.int32)
