"""Random games of Connect Four on bitboards, the values of a fast tree search.

A player's discs are two words of 4 columns each, a to d and d to g, which share
the middle column. A column has 7 bits, from the lowest row to a bit that is
always 0, so that no line continues from the top of a column to the next one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games import mcts
from tunix_ttt.games.pgx_boards import pgx_games

_ROWS, _COLUMNS, _HEIGHT = 6, 7, 7
_HALF = 3  # First column of the second word.


def random_value(game: pgx_games.PgxGame, *, rollouts: int) -> mcts.Value:
  """Returns the mean return of the seat to act over random games.

  It has the distribution of `mcts.rollout_value`.

  Args:
    game: `PgxGame("connect_four")`.
    rollouts: Number of random games.
  """

  def value(key: jax.Array, state: pgx_games.State) -> jax.Array:
    board = game.marks(state).reshape(_ROWS, _COLUMNS)
    mover = state.player.astype(jnp.int32) + 1
    shape = (_ROWS * _COLUMNS, rollouts)
    # Products with the number of free columns fit into 32 bits.
    numbers = jax.random.bits(key, shape, jnp.uint32) >> 16
    mine, others = (
      words(board == mover),
      words((board > 0) & (board != mover)),
    )

    def ply(carry: Any, numbers: jax.Array) -> tuple[Any, None]:
      mine, others, sign, result = carry
      mine = _drop(mine, others, numbers)
      is_live = result == 0
      result = jnp.where(is_live & has_four(mine), sign, result)
      return (others, mine, -sign, result), None

    boards = jax.tree.map(
      lambda word: jnp.broadcast_to(word, (rollouts,)), (mine, others)
    )
    start = (*boards, jnp.int32(1), jnp.zeros(rollouts, jnp.int32))
    (*_, result), _ = jax.lax.scan(ply, start, numbers)
    return result.mean(dtype=jnp.float32)

  return value


def words(discs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the two words, uint32 [], of discs, bool [6, 7] from the top row."""
  row, column = np.mgrid[_ROWS - 1 : -1 : -1, :4]
  bits = jnp.asarray(1 << (column * _HEIGHT + row), jnp.uint32)
  left, right = discs[:, :4], discs[:, _HALF:]
  return (left * bits).sum(dtype=jnp.uint32), (right * bits).sum(
    dtype=jnp.uint32
  )


def _drop(
  mine: tuple[jax.Array, jax.Array],
  others: tuple[jax.Array, jax.Array],
  numbers: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Drops a disc of `mine` into a random column that is not full.

  `numbers`, uint32 below 2^16, select the column. A full board stays unchanged.
  """
  left, right = mine[0] | others[0], mine[1] | others[1]
  column = (1 << _ROWS) - 1
  # Free cells on top of the discs, in their columns.
  place_left = (left + _repeat(1, 4)) & _repeat(column, 4)
  place_right = (right + _repeat(1, 4)) & _repeat(column, 4)
  is_free = [
    (word >> (_HEIGHT * at) & column) != 0
    for word, at in (
      *((place_left, at) for at in range(4)),
      *((place_right, at) for at in range(1, 4)),
    )
  ]
  count = sum(free.astype(jnp.uint32) for free in is_free)
  rest = (numbers * count) >> 16
  chosen_left = chosen_right = jnp.zeros_like(left)
  for at, free in enumerate(is_free):
    is_chosen = free & (rest == 0)
    # Past the chosen column, `rest` wraps around and is never 0 again.
    rest = rest - free.astype(jnp.uint32)
    if at < 4:
      mask = jnp.uint32(column << (_HEIGHT * at))
      chosen_left = jnp.where(is_chosen, mask, chosen_left)
    if at >= _HALF:
      mask = jnp.uint32(column << (_HEIGHT * (at - _HALF)))
      chosen_right = jnp.where(is_chosen, mask, chosen_right)
  return mine[0] | place_left & chosen_left, mine[
    1
  ] | place_right & chosen_right


def _repeat(bits: int, columns: int) -> np.uint32:
  return np.uint32(sum(bits << (_HEIGHT * at) for at in range(columns)))


def has_four(words: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Returns whether four discs are in a row, a column or a diagonal."""
  left, right = words
  result = jnp.zeros_like(left)
  for word in words:
    pairs = word & word >> 1
    result |= pairs & pairs >> 2
  for rise in (-1, 0, 1):
    distance = _HEIGHT + rise
    pairs_left, pairs_right = left & left >> distance, right & right >> distance
    # Pairs that start in columns a to d, and those two columns further right.
    near = pairs_left | pairs_right << (3 * _HEIGHT)
    far = pairs_left >> (2 * _HEIGHT) | pairs_right << _HEIGHT
    far = far >> (2 * rise) if rise >= 0 else far << (-2 * rise)
    result |= near & far
  return result != 0
