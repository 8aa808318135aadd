"""The rules of tic-tac-toe as arithmetic on board indices and small tables.

A board is an integer below 3^9: digit `c` in base 3 is the mark on cell `c`
(0 empty, 1 X, 2 O); cells run row by row from the top left. A set of cells is
a 9-bit mask. Tables are NumPy arrays, built once on first use, so that this
module neither starts a JAX backend nor knows one; indexing them inside a
jitted function turns them into constants of the program.
"""

import functools

import numpy as np

EMPTY, X, O = 0, 1, 2
NUM_CELLS = 9
NUM_BOARDS = 3**NUM_CELLS
ALL_CELLS = (1 << NUM_CELLS) - 1
EMPTY_BOARD = 0

# Entries of `winners()`: nobody yet, X, O, or a full board without a line.
NO_WINNER, DRAWN = 0, 3

POWERS = 3 ** np.arange(NUM_CELLS, dtype=np.int32)
LINES = (
  (0, 1, 2),
  (3, 4, 5),
  (6, 7, 8),
  (0, 3, 6),
  (1, 4, 7),
  (2, 5, 8),
  (0, 4, 8),
  (2, 4, 6),
)


def place(board, cell, mark):
  """Returns the index of `board` with `mark` put on the empty `cell`.

  Works on integers, NumPy arrays and (through `jax.numpy`) tracers.
  """
  return board + mark * POWERS[cell]


def board_from_cells(cells) -> int:
  """Returns the index of a board given as 9 marks, row by row."""
  return int(np.dot(np.asarray(cells, dtype=np.int32), POWERS))


@functools.cache
def cells() -> np.ndarray:
  """The marks of every board: int8 [NUM_BOARDS, 9]."""
  boards = np.arange(NUM_BOARDS)[:, None]
  return (boards // POWERS % 3).astype(np.int8)


@functools.cache
def num_marks() -> np.ndarray:
  """Number of marks on every board: int8 [NUM_BOARDS]."""
  return (cells() != EMPTY).sum(axis=1).astype(np.int8)


@functools.cache
def side_to_move() -> np.ndarray:
  """The mark to move next, X after equally many of each: int8 [NUM_BOARDS]."""
  return np.where(num_marks() % 2 == 0, X, O).astype(np.int8)


@functools.cache
def winners() -> np.ndarray:
  """NO_WINNER, X, O or DRAWN for every board: int8 [NUM_BOARDS].

  A board that no game reaches may hold lines of both; it counts as X's.
  """
  winner = np.where(num_marks() == NUM_CELLS, DRAWN, NO_WINNER).astype(np.int8)
  for mark in (O, X):
    on_line = (cells()[:, LINES] == mark).all(axis=2).any(axis=1)
    winner[on_line] = mark
  return winner


@functools.cache
def legal_masks() -> np.ndarray:
  """The legal cells of every board, none once it is over: int16 [NUM_BOARDS]."""
  bits = 1 << np.arange(NUM_CELLS)
  empty = ((cells() == EMPTY) * bits).sum(axis=1)
  return np.where(winners() == NO_WINNER, empty, 0).astype(np.int16)


@functools.cache
def status() -> np.ndarray:
  """`legal_masks` and, above those nine bits, `winners`: int16 [NUM_BOARDS].

  One lookup on a device costs half of two.
  """
  return legal_masks() | winners().astype(np.int16) << NUM_CELLS


@functools.cache
def reachable() -> np.ndarray:
  """Whether some game from the empty board passes a board: bool [NUM_BOARDS]."""
  seen = np.zeros(NUM_BOARDS, dtype=bool)
  frontier = np.array([EMPTY_BOARD])
  while frontier.size:
    seen[frontier] = True
    frontier = np.unique(successors()[frontier])
    frontier = frontier[frontier >= 0]
  return seen


def positions(mark: int | None = None) -> np.ndarray:
  """Lists the reachable boards that are not over, in ascending order.

  Args:
    mark: only those on which this side is to move; all of them where None.
  """
  ongoing = reachable() & (legal_masks() > 0)
  if mark is not None:
    ongoing &= side_to_move() == mark
  return np.flatnonzero(ongoing).astype(np.int32)


@functools.cache
def successors() -> np.ndarray:
  """The board after each move of the side to move: int32 [NUM_BOARDS, 9].

  An illegal move has the successor -1.
  """
  boards = np.arange(NUM_BOARDS, dtype=np.int32)[:, None]
  after = boards + side_to_move()[:, None] * POWERS
  return np.where(mask_to_bool(legal_masks()), after, -1).astype(np.int32)


def mask_to_bool(mask) -> np.ndarray:
  """Unpacks 9-bit cell masks: bool [..., 9]."""
  bits = np.asarray(mask)[..., None] >> np.arange(NUM_CELLS)
  return (bits & 1).astype(bool)


def mask_to_cells(mask: int) -> tuple[int, ...]:
  """Lists the cells of one 9-bit mask in ascending order."""
  return tuple(c for c in range(NUM_CELLS) if mask >> c & 1)


@functools.cache
def nth_cell() -> np.ndarray:
  """The n-th cell of a mask, or -1 past its end: int8 [512, 9]."""
  table = np.full((1 << NUM_CELLS, NUM_CELLS), -1, dtype=np.int8)
  for mask in range(1 << NUM_CELLS):
    members = mask_to_cells(mask)
    table[mask, : len(members)] = members
  return table


@functools.cache
def mask_sizes() -> np.ndarray:
  """Number of cells in every mask: int8 [512]."""
  return (nth_cell() >= 0).sum(axis=1).astype(np.int8)


@functools.cache
def symmetries() -> np.ndarray:
  """The eight rotations and reflections as cell permutations: int8 [8, 9].

  Cell `c` of the turned board shows what cell `symmetries()[s, c]` showed.
  """
  grid = np.arange(NUM_CELLS, dtype=np.int8).reshape(3, 3)
  turned = [np.rot90(g, k) for g in (grid, grid.T) for k in range(4)]
  return np.stack([t.ravel() for t in turned])


@functools.cache
def canonical() -> np.ndarray:
  """The smallest index among a board's eight symmetric forms: int32 [NUM_BOARDS]."""
  turned = cells()[:, symmetries()].astype(np.int32) @ POWERS
  return turned.min(axis=1).astype(np.int32)
