"""Tic-tac-toe as a `Game` over the tables of `rules`."""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import game as game_lib
from tunix_ttt.games.tictactoe import rules


@struct.dataclass
class State:
  """State of one game.

  Attributes:
    board: Index of the board, int32 [].
    last_move: Cell of the last move, -1 before the first, int8 [].
  """

  board: jax.Array
  last_move: jax.Array


class TicTacToe:
  """Tic-tac-toe; seat 0 plays X, seat 1 plays O, actions are cells."""

  num_seats = 2
  num_actions = rules.NUM_CELLS
  max_plies = rules.NUM_CELLS

  def init(self, key: jax.Array) -> State:
    """Returns the empty board; ignores the key."""
    del key
    return State(board=jnp.int32(rules.EMPTY_BOARD), last_move=jnp.int8(-1))

  def to_act(self, state: State) -> jax.Array:
    """Returns the seat to act or `OVER`: int32 []."""
    legal, _ = _status(state)
    side = jnp.asarray(rules.side_to_move())[state.board].astype(jnp.int32)
    return jnp.where(legal == 0, game_lib.OVER, side - rules.X)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of free cells, none after the end: bool [9]."""
    legal, _ = _status(state)
    return (legal >> jnp.arange(rules.NUM_CELLS) & 1).astype(bool)

  def chance(self, state: State) -> jax.Array:
    """Returns no probabilities: float32 [0]."""
    del state
    return jnp.zeros(0, jnp.float32)

  def step(self, state: State, action: jax.Array) -> State:
    """Marks the cell `action`; a finished game stays."""
    mark = jnp.asarray(rules.side_to_move())[state.board].astype(jnp.int32)
    after = state.board + mark * jnp.asarray(rules.POWERS)[action]
    is_over = self.to_act(state) == game_lib.OVER
    last_move = jnp.where(is_over, state.last_move, action)
    return dataclasses.replace(
      state,
      board=jnp.where(is_over, state.board, after),
      last_move=last_move.astype(jnp.int8),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns 1 for a win, -1 for a loss, else 0: float32 [2]."""
    _, winner = _status(state)
    won = (winner == rules.X).astype(jnp.int32) - (winner == rules.O)
    return jnp.stack([won, -won]).astype(jnp.float32)


def _status(state: State) -> tuple[jax.Array, jax.Array]:
  """Returns the mask of legal cells and the winner: int16 [] each."""
  status = jnp.asarray(rules.status())[state.board]
  return status & rules.ALL_CELLS, status >> rules.NUM_CELLS
