"""Opponents: functions from a game's opponent_seed and a board to a legal cell.

Luck is one number, drawn uniformly from all of uint32 and kept for the whole
game, so games that share it meet the same opponent whatever else differs
between them. Opponents are traced into the program that plays against them: a
new one is any function of this signature. On a board that is over, what they
return is ignored.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

# The digits of a opponent_seed that names cells: 1 to 9, and 0 for none.
_SCRIPT_BASE = 10
# (uint32 opponent_seed [], int32 board []) -> int32 cell [], for the side to move.
Opponent = Callable[[jax.Array, jax.Array], jax.Array]


def legal_mask(board: jax.Array) -> jax.Array:
  """Returns the legal cells, none once the game is over: int32, 9 bits."""
  return jnp.asarray(rules.status())[board].astype(jnp.int32) & rules.ALL_CELLS


def uniform_random(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every legal move with equal probability (to 1 in 100,000).

  Luck is read as a fraction of 2^32 in mixed radix: its digits are the choices,
  each among as many cells as are free at that turn.
  """
  mask = legal_mask(board)
  size = jax.lax.population_count(mask).astype(jnp.uint32)
  # What is left of the fraction after the turns before; uint32 wraps around.
  rest = opponent_seed.astype(jnp.uint32) * jnp.asarray(_num_choices())[size]
  # Nine cells fit into the four bits that are dropped.
  return _nth_cell(mask, ((rest >> 4) * size >> 28).astype(jnp.int32))


def enumerate_opponent_seeds(mark: int) -> np.ndarray:
  """Returns a opponent_seed for every line that a game of the agent of `mark` can take.

  A line is what `uniform_random` replies at each of its turns. From the empty
  board there are 8 * 6 * 4 * 2 against X and 9 * 7 * 5 * 3 * 1 against O, each
  as likely as any other: uint32 [384] or [945].
  """
  total = math.prod(range(rules.NUM_CELLS - (mark == rules.X), 0, -2))
  # The middle of each line's share, far from the next one's.
  middles = [(2 * n + 1) * 2**31 // total for n in range(total)]
  return np.array(middles, np.uint32)


def _num_choices() -> np.ndarray:
  """In how many ways one's turns so far went, by free cells: uint32 [10]."""
  choices = np.ones(rules.NUM_CELLS + 1, np.uint32)
  for size in range(rules.NUM_CELLS - 2, 0, -1):
    choices[size] = choices[size + 2] * (size + 2)
  return choices


def optimal(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays every minimax-optimal move with equal probability."""
  return choose(
    _key(opponent_seed, board), jnp.asarray(solver.solve().optimal)[board]
  )


def preferred(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the solver's one preferred move; opponent_seed does not matter."""
  del opponent_seed
  return jnp.asarray(solver.solve().preferred)[board].astype(jnp.int32)


def _key(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  return streams.key(opponent_seed, streams.Stream.OPPONENT_MOVES, board)


def choose(key: jax.Array, mask: jax.Array) -> jax.Array:
  """Draws a cell of a 9-bit mask."""
  size = jax.lax.population_count(mask).astype(jnp.int32)
  return _nth_cell(mask, jax.random.randint(key, (), 0, jnp.maximum(size, 1)))


def _nth_cell(mask: jax.Array, n: jax.Array) -> jax.Array:
  # One index is looked up faster than two.
  table = jnp.asarray(rules.nth_cell().ravel())
  return table[mask * rules.NUM_CELLS + n].astype(jnp.int32)


def epsilon_optimal(epsilon: float) -> Opponent:
  """Returns an opponent that is random with probability `epsilon`.

  Raises:
    ValueError: if `epsilon` is not a probability.
  """
  if not 0.0 <= epsilon <= 1.0:
    raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")

  def play(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
    slip_key, move_key = jax.random.split(_key(opponent_seed, board))
    mask = jnp.where(
      jax.random.uniform(slip_key) < epsilon,
      legal_mask(board),
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
  if not line:
    raise ValueError("a scripted line holds cells 0 to 8, got none")
  opponent_seed = jnp.uint32(encode_script(line))
  return lambda _, board: scripted_from_seed(opponent_seed, board)


def scripted_from_seed(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the cells that the game's opponent_seed names; see `encode_script`.

  Where the next one is taken or there is none, it plays the first legal cell.
  """
  # The side to move has made half of the moves so far, rounded down.
  turn = jnp.asarray(rules.num_marks())[board].astype(jnp.int32) // 2
  legal = legal_mask(board)
  digits = opponent_seed.astype(jnp.uint32) // (
    _SCRIPT_BASE ** turn.astype(jnp.uint32)
  )
  cell = (digits % _SCRIPT_BASE).astype(jnp.int32) - 1
  first = jnp.asarray(rules.nth_cell())[legal, 0].astype(jnp.int32)
  usable = (cell >= 0) & (legal >> jnp.maximum(cell, 0) & 1).astype(bool)
  return jnp.where(usable, cell, first)


def encode_script(line: Sequence[int]) -> int:
  """Returns the opponent_seed that has `scripted_from_seed` play the cells of a line, five at the most.

  Raises:
    ValueError: if it holds anything but cells 0 to 8, or more of them.
  """
  if len(line) > 5 or not all(0 <= cell < rules.NUM_CELLS for cell in line):
    raise ValueError(
      f"a scripted line holds cells 0 to 8, five at the most, got {list(line)}"
    )
  return sum((cell + 1) * _SCRIPT_BASE**turn for turn, cell in enumerate(line))


def mixture(
  shares: jax.Array,
  tables: jax.Array,
  opponent_seed: jax.Array,
  board: jax.Array,
) -> jax.Array:
  """Plays a whole game as one of several opponents.

  With `jax.tree_util.Partial(mixture, shares, tables)` as the opponent, both
  are inputs of a compiled program rather than parts of it.

  Args:
    shares: float32 [2 + K], how often the random, the optimal and each of K
      other opponents plays, up to a factor.
    tables: int8 [K, 3^9], the cell that each of the others takes on a board; a
      random one where that is not legal.
    opponent_seed: the game's.
    board: where it stands.
  """
  key = streams.key(opponent_seed, streams.Stream.OPPONENT_KINDS)
  drawn = jax.random.uniform(key)
  reached = jnp.cumsum(shares) > drawn * shares.sum()
  kind = jnp.argmax(reached)
  at_random = uniform_random(opponent_seed, board)
  moves = jnp.stack([at_random, optimal(opponent_seed, board)])
  others = tables[:, board].astype(jnp.int32)
  is_legal = (legal_mask(board) >> jnp.maximum(others, 0) & 1).astype(bool)
  others = jnp.where(is_legal & (others >= 0), others, at_random)
  return jnp.concatenate([moves, others])[kind]


def random_position(
  board_key: jax.Array, last_key: jax.Array, agent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Draws a reachable board on which `agent` is to move, and the move before.

  Args:
    board_key: Key of the board.
    last_key: Key of the move before.
    agent: X or O.

  Returns:
    int32 [] board and int32 [] cell, one of the opponent's, -1 for none.
  """
  boards = [rules.positions(mark) for mark in (rules.X, rules.O)]
  size = jnp.array([len(b) for b in boards])[agent - rules.X]
  table = np.stack([np.resize(b, max(map(len, boards))) for b in boards])
  n = jax.random.randint(board_key, (), 0, size)
  board = jnp.asarray(table)[agent - rules.X, n]
  cells = jnp.asarray(rules.cells())[board]
  theirs = (cells != rules.EMPTY) & (cells != agent)
  mask = (theirs << jnp.arange(rules.NUM_CELLS)).sum()
  return board, choose(last_key, mask)


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
