"""Opponents: functions from a key and a board to a legal cell.

They are traced into the program that plays against them, so a new opponent is
any function of this signature. On a board that is over, what they return is
ignored. Each consumes the key it is given.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.game import rules
from tunix_ttt.game import solver

# (key, int32 board []) -> int32 cell [], for the side to move.
Opponent = Callable[[jax.Array, jax.Array], jax.Array]


def choose(key: jax.Array, mask: jax.Array) -> jax.Array:
  """Draws a cell of a 9-bit `mask` uniformly; int32 [], -1 from no cells."""
  return pick(jax.random.uniform(key), mask)


def pick(uniform: jax.Array, mask: jax.Array) -> jax.Array:
  """Turns a number drawn uniformly from [0, 1) into a cell of `mask`.

  Shapes broadcast; the cell is int32, -1 from no cells.
  """
  size = jnp.asarray(rules.mask_sizes())[mask].astype(jnp.int32)
  n = (uniform * size).astype(jnp.int32)
  return jnp.asarray(rules.nth_cell())[mask, n].astype(jnp.int32)


def uniform_random(key: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every legal move with equal probability."""
  return choose(key, jnp.asarray(rules.legal_masks())[board])


def optimal(key: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every minimax-optimal move with equal probability."""
  return choose(key, jnp.asarray(solver.solve().optimal)[board])


def preferred(key: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the solver's one preferred move; the key is not used."""
  del key
  return jnp.asarray(solver.solve().preferred)[board].astype(jnp.int32)


def epsilon_optimal(epsilon: float) -> Opponent:
  """Returns an opponent that is random with probability `epsilon`.

  Raises:
    ValueError: if `epsilon` is not a probability.
  """
  if not 0.0 <= epsilon <= 1.0:
    raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")

  def play(key: jax.Array, board: jax.Array) -> jax.Array:
    slip_key, move_key = jax.random.split(key)
    mask = jnp.where(
      jax.random.uniform(slip_key) < epsilon,
      jnp.asarray(rules.legal_masks())[board],
      jnp.asarray(solver.solve().optimal)[board],
    )
    return choose(move_key, mask)

  return play


def scripted(line: Sequence[int]) -> Opponent:
  """Returns an opponent that plays the cells of `line` one after the other.

  Where its next cell is taken or the line has run out, it plays the first
  legal cell, so that a line is always played to the end of a game.

  Raises:
    ValueError: if `line` is empty or holds anything but cells 0 to 8.
  """
  if not line or not all(0 <= cell < rules.NUM_CELLS for cell in line):
    raise ValueError(f"a scripted line holds cells 0 to 8, got {list(line)}")
  cells = jnp.asarray(line, jnp.int32)

  def play(key: jax.Array, board: jax.Array) -> jax.Array:
    del key
    # The side to move has made half of the moves so far, rounded down.
    turn = jnp.asarray(rules.num_marks())[board].astype(jnp.int32) // 2
    legal = jnp.asarray(rules.legal_masks())[board].astype(jnp.int32)
    cell = cells[jnp.minimum(turn, len(line) - 1)]
    first = jnp.asarray(rules.nth_cell())[legal, 0].astype(jnp.int32)
    usable = (turn < len(line)) & (legal >> cell & 1).astype(bool)
    return jnp.where(usable, cell, first)

  return play


def from_name(name: str) -> Opponent:
  """Returns the opponent that a config or flag names.

  Args:
    name: `random`, `optimal`, `epsilon-optimal:EPSILON` or
      `scripted:CELL,CELL,…`, cells as numbers from 0 to 8.

  Raises:
    ValueError: if there is no such opponent.
  """
  kind, _, setting = name.partition(":")
  plain = {"random": uniform_random, "optimal": optimal}
  if name in plain:
    return plain[name]
  try:
    if kind == "epsilon-optimal":
      return epsilon_optimal(float(setting))
    if kind == "scripted":
      return scripted([int(cell) for cell in setting.split(",")])
  except ValueError as error:
    raise ValueError(f"opponent {name!r}: {error}") from None
  raise ValueError(
    f"there is no opponent {name!r}; there are random, optimal,"
    " epsilon-optimal:0.3 and scripted:4,0"
  )


def num_lines(mark: int) -> int:
  """Returns how many lines the opponent of `mark` has; see `line`.

  That is 8 * 6 * 4 * 2 against X and 9 * 7 * 5 * 3 * 1 against O.
  """
  return math.prod(range(rules.NUM_CELLS - (mark == rules.X), 0, -2))


def line(number: jax.Array, board: jax.Array) -> jax.Array:
  """Plays a numbered line, in place of a key.

  The number's digits are the choices, each among as many cells as are free at
  that turn, the first turn's the least significant.
  """
  mask = jnp.asarray(rules.legal_masks())[board]
  size = jnp.asarray(rules.mask_sizes())[mask].astype(jnp.int32)
  choice = number // jnp.asarray(_line_units())[size] % jnp.maximum(size, 1)
  return jnp.asarray(rules.nth_cell())[mask, choice].astype(jnp.int32)


def _line_units() -> np.ndarray:
  """What a line's digit counts by, where so many cells are free: int32 [10]."""
  units = np.ones(rules.NUM_CELLS + 1, np.int32)
  for size in range(rules.NUM_CELLS - 2, 0, -1):
    units[size] = units[size + 2] * (size + 2)
  return units
