"""The rules of Frozen Lake, as in Gymnasium's `FrozenLake-v1` with its 4x4 map.

A player on ice walks to the goal and must not fall into a hole. The ice is
slippery: each move goes the intended way or at a right angle to it, to either
side, with equal probability. A move off the map leaves the player in place.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games import game as game_lib

LEFT, DOWN, RIGHT, UP = range(4)
# Start, frozen, hole and goal.
MAP = ("SFFF", "FHFH", "FFFH", "HFFG")
_SIZE = len(MAP)
_CELLS = "".join(MAP)
_MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])


@struct.dataclass
class State:
  """State of one game.

  Attributes:
    cell: Cell of the player, row by row from the top left, int8 [].
    intended: Direction of a move whose slip is to be drawn, else -1, int8 [].
    moves_left: Number of moves before the game ends, int16 [].
  """

  cell: jax.Array
  intended: jax.Array
  moves_left: jax.Array


class FrozenLake:
  """Frozen Lake for one seat; a chance node follows each move.

  Outcome 0, 1 or 2 of chance turns the intended direction by -1, 0 or 1 in the
  order LEFT, DOWN, RIGHT, UP.
  """

  num_seats = 1
  num_actions = 4

  def __init__(self, *, max_moves: int = 100):
    """Ends a game after `max_moves` moves; Gymnasium's limit is 100."""
    self.max_moves = max_moves
    self.max_plies = 2 * max_moves

  def init(self, key: jax.Array) -> State:
    """Returns the start; ignores the key."""
    del key
    return State(
      cell=jnp.int8(_CELLS.index("S")),
      intended=jnp.int8(-1),
      moves_left=jnp.int16(self.max_moves),
    )

  def to_act(self, state: State) -> jax.Array:
    """Returns seat 0, `CHANCE` or `OVER`: int32 []."""
    is_end = jnp.array([kind in "HG" for kind in _CELLS])[state.cell]
    is_over = is_end | (state.moves_left == 0) & (state.intended < 0)
    node = jnp.where(state.intended >= 0, game_lib.CHANCE, 0)
    return jnp.where(is_over, game_lib.OVER, node)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal actions, all directions: bool [4]."""
    return jnp.full(4, self.to_act(state) == 0)

  def chance(self, state: State) -> jax.Array:
    """Returns the probability of each slip: float32 [3]."""
    del state
    return jnp.full(3, 1 / 3, jnp.float32)

  def step(self, state: State, action: jax.Array) -> State:
    """Intends the move `action` or draws its slip; a finished game stays."""
    to_act = self.to_act(state)
    direction = (state.intended + action - 1) % 4
    row_and_column = jnp.stack(jnp.divmod(state.cell, _SIZE))
    moved = row_and_column + jnp.asarray(_MOVES, jnp.int8)[direction]
    row, column = jnp.clip(moved, 0, _SIZE - 1)
    is_move, is_slip = to_act == 0, to_act == game_lib.CHANCE
    intended = jnp.where(
      is_move, action, jnp.where(is_slip, -1, state.intended)
    )
    return dataclasses.replace(
      state,
      cell=jnp.where(is_slip, row * _SIZE + column, state.cell),
      intended=intended.astype(jnp.int8),
      moves_left=state.moves_left - is_move.astype(jnp.int16),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns 1 at the goal, else 0: float32 [1]."""
    return (state.cell == _CELLS.index("G")).astype(jnp.float32)[None]
