"""Opponents: functions from a game's seed and a board to a legal cell.

The seed is uniform over uint32 and fixed for the whole game, so games with
equal seeds meet the same opponent. Any jittable function of this signature is
an opponent. On a finished board the result is ignored.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

# Base of the digits of a script: a cell plus 1, or 0 for no cell.
_SCRIPT_BASE = 10
# (uint32 opponent_seed [], int32 board []) -> int32 cell [] of the side to move.
Opponent = Callable[[jax.Array, jax.Array], jax.Array]


def legal_mask(board: jax.Array) -> jax.Array:
  """Returns the 9-bit mask of legal cells, 0 after the game's end: int32."""
  return jnp.asarray(rules.status())[board].astype(jnp.int32) & rules.ALL_CELLS


def uniform_random(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every legal move with equal probability (to 1 in 100,000).

  The seed is a fraction of 2^32 in mixed radix. Each digit is the choice of one
  turn, and its radix is the number of free cells at that turn.
  """
  mask = legal_mask(board)
  size = jax.lax.population_count(mask).astype(jnp.uint32)
  # Remove the digits of earlier turns; uint32 arithmetic wraps around.
  rest = opponent_seed.astype(jnp.uint32) * jnp.asarray(_num_choices())[size]
  # The shift by four bits makes room for a product with up to nine cells.
  return _nth_cell(mask, ((rest >> 4) * size >> 28).astype(jnp.int32))


def enumerate_opponent_seeds(mark: int) -> np.ndarray:
  """Returns one seed for each line of play of `uniform_random`.

  A line is the opponent's choice at each of its turns. All lines are equally
  likely. Against an agent of `mark` X there are 8 * 6 * 4 * 2 lines from the empty
  board, against O 9 * 7 * 5 * 3 * 1: uint32 [384] or [945].
  """
  total = math.prod(range(rules.NUM_CELLS - (mark == rules.X), 0, -2))
  # The middle of each line's interval is far from its rounding errors.
  middles = [(2 * n + 1) * 2**31 // total for n in range(total)]
  return np.array(middles, np.uint32)


def _num_choices() -> np.ndarray:
  """Number of choices in a side's earlier turns, by free cells: uint32 [10]."""
  choices = np.ones(rules.NUM_CELLS + 1, np.uint32)
  for size in range(rules.NUM_CELLS - 2, 0, -1):
    choices[size] = choices[size + 2] * (size + 2)
  return choices


def optimal(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every minimax-optimal move with equal probability."""
  return choose(
    key_of(opponent_seed, board), jnp.asarray(solver.solve().optimal)[board]
  )


def preferred(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the solver's preferred move; ignores the seed."""
  del opponent_seed
  return jnp.asarray(solver.solve().preferred)[board].astype(jnp.int32)


def key_of(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Returns the key of an opponent's move."""
  return streams.key(opponent_seed, streams.Stream.OPPONENT_MOVES, board)


def choose(key: jax.Array, mask: jax.Array) -> jax.Array:
  """Draws a random cell of a 9-bit mask."""
  size = jax.lax.population_count(mask).astype(jnp.int32)
  return _nth_cell(mask, jax.random.randint(key, (), 0, jnp.maximum(size, 1)))


def _nth_cell(mask: jax.Array, n: jax.Array) -> jax.Array:
  # A lookup with one index is faster than with two.
  table = jnp.asarray(rules.nth_cell().ravel())
  return table[mask * rules.NUM_CELLS + n].astype(jnp.int32)


def epsilon_optimal(epsilon: float) -> Opponent:
  """Returns an opponent that plays a random move with probability `epsilon`.

  Raises:
    ValueError: if `epsilon` is not a probability.
  """
  if not 0.0 <= epsilon <= 1.0:
    raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")

  def play(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
    slip_key, move_key = jax.random.split(key_of(opponent_seed, board))
    mask = jnp.where(
      jax.random.uniform(slip_key) < epsilon,
      legal_mask(board),
      jnp.asarray(solver.solve().optimal)[board],
    )
    return choose(move_key, mask)

  return play


def scripted(line: Sequence[int]) -> Opponent:
  """Returns an opponent that plays the cells of `line` in order.

  If the next cell is taken or the line has ended, the opponent plays the first
  legal cell.

  Raises:
    ValueError: if `line` is empty, longer than five or not cells 0 to 8.
  """
  if not line:
    raise ValueError("a scripted line holds cells 0 to 8, got none")
  opponent_seed = jnp.uint32(encode_script(line))
  return lambda _, board: scripted_from_seed(opponent_seed, board)


def scripted_from_seed(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the cells that `encode_script` encoded in the seed.

  If the next cell is taken or the script has ended, plays the first legal cell.
  """
  # The side to move has made half of all moves, rounded down.
  turn = jnp.asarray(rules.num_marks())[board].astype(jnp.int32) // 2
  legal = legal_mask(board)
  digits = opponent_seed.astype(jnp.uint32) // (
    _SCRIPT_BASE ** turn.astype(jnp.uint32)
  )
  cell = (digits % _SCRIPT_BASE).astype(jnp.int32) - 1
  first = jnp.asarray(rules.nth_cell())[legal, 0].astype(jnp.int32)
  is_usable = (cell >= 0) & (legal >> jnp.maximum(cell, 0) & 1).astype(bool)
  return jnp.where(is_usable, cell, first)


def encode_script(line: Sequence[int]) -> int:
  """Returns the seed with which `scripted_from_seed` plays a line.

  Raises:
    ValueError: if `line` is longer than five or not cells 0 to 8.
  """
  if len(line) > 5 or not all(0 <= cell < rules.NUM_CELLS for cell in line):
    raise ValueError(
      f"a scripted line holds cells 0 to 8, five at the most, got {list(line)}"
    )
  return sum((cell + 1) * _SCRIPT_BASE**turn for turn, cell in enumerate(line))


def mixture(
  others: Sequence[Opponent],
  shares: jax.Array,
  tables: jax.Array,
  opponent_seed: jax.Array,
  board: jax.Array,
) -> jax.Array:
  """Plays each game as one opponent, drawn from several.

  Args:
    others: M opponents.
    shares: Unnormalized probabilities of these and of K tabular opponents,
      float32 [M + K].
    tables: Cell that each tabular opponent plays on each board, int8 [K, 3^9].
      A random cell replaces an illegal one.
    opponent_seed: Random seed of the game's opponent.
    board: Index of the board.
  """
  key = streams.key(opponent_seed, streams.Stream.OPPONENT_KINDS)
  drawn = jax.random.uniform(key)
  kind = jnp.argmax(jnp.cumsum(shares) > drawn * shares.sum())
  at_random = uniform_random(opponent_seed, board)
  moves = jnp.stack([other(opponent_seed, board) for other in others])
  if not len(tables):
    return moves[kind]
  listed = tables[:, board].astype(jnp.int32)
  is_legal = (legal_mask(board) >> jnp.maximum(listed, 0) & 1).astype(bool)
  listed = jnp.where(is_legal & (listed >= 0), listed, at_random)
  return jnp.concatenate([moves, listed])[kind]


def random_position(
  board_key: jax.Array, last_key: jax.Array, agent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Draws a reachable board on which `agent` moves, and the move before.

  Each of the two keys is consumed. The result is the board and the opponent's
  last move, -1 for none: int32 [] each.
  """
  boards = [rules.positions(mark) for mark in (rules.X, rules.O)]
  size = jnp.array([len(b) for b in boards])[agent - rules.X]
  table = np.stack([np.resize(b, max(map(len, boards))) for b in boards])
  n = jax.random.randint(board_key, (), 0, size)
  board = jnp.asarray(table)[agent - rules.X, n]
  cells = jnp.asarray(rules.cells())[board]
  is_opponent = (cells != rules.EMPTY) & (cells != agent)
  mask = (is_opponent << jnp.arange(rules.NUM_CELLS)).sum()
  return board, choose(last_key, mask)


def from_name(name: str) -> Opponent:
  """Returns the opponent with a name from a config or flag.

  Names are `random`, `optimal`, `epsilon-optimal:EPSILON`,
  `scripted:CELL,CELL,…` with cells from 0 to 8, and `package.module:function`;
  others raise a `ValueError`.
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
  if custom.is_reference(name):
    return check_traceable(custom.resolve(name, "opponent"), name)
  raise ValueError(
    f"there is no opponent {name!r}; use random, optimal, epsilon-optimal:0.3,"
    " scripted:4,0 or package.module:function"
  )


def check_traceable(opponent: Opponent, name: str) -> Opponent:
  """Returns an opponent, after checking that JAX can compile it; `name` is for messages.

  Raises:
    errors.UserError: if it cannot be traced, or returns no integer.
  """
  seed = jax.ShapeDtypeStruct((), jnp.uint32)
  board = jax.ShapeDtypeStruct((), jnp.int32)
  try:
    cell = jax.eval_shape(opponent, seed, board)
  except Exception as error:
    reason = str(error).partition("\n")[0]
    raise errors.UserError(
      f"opponent {name}: JAX cannot trace this function"
      f" ({type(error).__name__}: {reason}); write it with jax.numpy, without if"
      " and for on its arguments"
    ) from error
  if getattr(cell, "shape", None) != () or cell.dtype.kind not in "iu":
    raise errors.UserError(
      f"opponent {name}: must return one integer, a cell from 0 to 8, found"
      f" {cell}"
    )
  return opponent
