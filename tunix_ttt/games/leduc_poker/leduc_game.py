"""The rules of Leduc poker for two players, as in OpenSpiel's `leduc_poker`.

Six cards have three ranks, two cards each. Each player antes 1 and gets one
card. A round of bets with raises of 2 is followed by a public card and a round
with raises of 4; at most two raises a round. A pair with the public card wins,
else the higher rank.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import cards
from tunix_ttt.games import game as game_lib

FOLD, CALL, RAISE = 0, 1, 2
NUM_CARDS, NUM_RANKS = 6, 3
PUBLIC = 2
_MAX_RAISES = 2
# The longest round: call, raise, raise, call.
_NUM_MOVES = 4
_RAISES = (2, 4)


@struct.dataclass
class State:
  """State of one game; -1 for cards and moves that are yet to come.

  Attributes:
    cards: Card of each seat and the public card, int8 [3]; cards 2r and 2r + 1
      have rank r.
    moves: FOLD, CALL or RAISE of each turn of each round, int8 [2, 4].
    paid: Chips that each seat has paid, int8 [2].
  """

  cards: jax.Array
  moves: jax.Array
  paid: jax.Array


class LeducPoker:
  """Leduc poker; chance deals seat 0's, seat 1's and the public card."""

  # Name of the same game in OpenSpiel.
  open_spiel = "leduc_poker"
  num_seats = 2
  num_actions = 3
  max_plies = 3 + 2 * _NUM_MOVES

  def init(self, key: jax.Array) -> State:
    """Returns the state before the deal; ignores the key."""
    del key
    return State(
      cards=jnp.full(3, -1, jnp.int8),
      moves=jnp.full((2, _NUM_MOVES), -1, jnp.int8),
      paid=jnp.ones(2, jnp.int8),
    )

  def to_act(self, state: State) -> jax.Array:
    """Returns the seat to act, `CHANCE` or `OVER`: int32 []."""
    stage, num_moves, last = _turn(state)
    # A call ends a round unless it opens it.
    is_closed = (num_moves > 1) & (last == CALL)
    is_over = (last == FOLD) | is_closed & (stage == 1)
    is_chance = (state.cards[1] < 0) | is_closed
    seat = jnp.where(is_chance, game_lib.CHANCE, num_moves % 2)
    return jnp.where(is_over, game_lib.OVER, seat)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal actions, FOLD, CALL and RAISE: bool [3]."""
    stage, _, _ = _turn(state)
    can_fold = state.paid[0] != state.paid[1]
    can_raise = (state.moves[stage] == RAISE).sum() < _MAX_RAISES
    legal = jnp.stack([can_fold, jnp.bool_(True), can_raise])
    return legal & (self.to_act(state) >= 0)

  def chance(self, state: State) -> jax.Array:
    """Returns the probability of each card to be dealt next: float32 [6]."""
    return cards.odds(state.cards, NUM_CARDS)

  def step(self, state: State, action: jax.Array) -> State:
    """Deals the card or plays the move `action`; a finished game stays."""
    to_act = self.to_act(state)
    stage, num_moves, _ = _turn(state)
    dealt = cards.deal(state.cards, action)
    moved = state.moves.at[stage, num_moves].set(
      action.astype(jnp.int8), mode="drop"
    )
    owed = state.paid.max() + (action == RAISE) * jnp.int8(_RAISES)[stage]
    paid = state.paid.at[to_act].set(owed)
    return dataclasses.replace(
      state,
      cards=jnp.where(to_act == game_lib.CHANCE, dealt, state.cards),
      moves=jnp.where(to_act >= 0, moved, state.moves),
      paid=jnp.where((to_act >= 0) & (action != FOLD), paid, state.paid),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns the chips that each seat won, 0 before the end: float32 [2]."""
    _, num_moves, last = _turn(state)
    ranks = state.cards // 2
    ranks = jnp.where(ranks == ranks[PUBLIC], NUM_RANKS, ranks)
    # Seat 0 wins if seat 1 is the last to move and folds.
    by_fold = jnp.where(num_moves % 2 == 0, 1, -1)
    sign = jnp.where(last == FOLD, by_fold, jnp.sign(ranks[0] - ranks[1]))
    won = sign * state.paid.min()
    is_over = self.to_act(state) == game_lib.OVER
    return jnp.where(is_over, jnp.stack([won, -won]), 0).astype(jnp.float32)

  def observe(self, state: State, seat: jax.Array) -> tuple[jax.Array, ...]:
    """Returns what a seat knows.

    Its card, int8 [], the public card, int8 [], all moves, int8 [2, 4], who is to
    act, int32 [], and the returns, float32 [2].
    """
    return (
      state.cards[seat],
      state.cards[PUBLIC],
      state.moves,
      self.to_act(state),
      self.returns(state),
    )


def _turn(state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the round, its number of moves and its last move, -1 for none."""
  stage = (state.cards[PUBLIC] >= 0).astype(jnp.int32)
  moves = state.moves[stage]
  num_moves = (moves >= 0).sum(dtype=jnp.int32)
  last = jnp.where(num_moves > 0, moves[num_moves - 1], -1)
  return stage, num_moves, last
