"""The rules of tic-tac-toe as lookup tables over board indices.

A board is an integer below 3^9: digit `c` in base 3 is the mark on cell `c`
(0 empty, 1 X, 2 O). Cells are numbered row by row from the top left. A set of
cells is a 9-bit mask. Tables are NumPy arrays, built on first use, so importing
this module starts no JAX backend. A jitted function that indexes a table
compiles the table in as a constant.
"""

import functools

import numpy as np

EMPTY, X, O = 0, 1, 2
NUM_CELLS = 9
NUM_BOARDS = 3**NUM_CELLS
ALL_CELLS = (1 << NUM_CELLS) - 1
EMPTY_BOARD = 0
CENTER, CORNERS = 4, (0, 2, 6, 8)

# Values of `winners()` besides X and O: no line yet; a full board without one.
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
  """Returns `board` with `mark` on the empty `cell`; takes ints and arrays."""
  return board + mark * POWERS[cell]


def board_from_cells(cells) -> int:
  """Returns the index of a board with these 9 marks, row by row."""
  return int(np.dot(np.asarray(cells, dtype=np.int32), POWERS))


@functools.cache
def cells() -> np.ndarray:
  """Marks of every board: int8 [NUM_BOARDS, 9]."""
  boards = np.arange(NUM_BOARDS)[:, None]
  return (boards // POWERS % 3).astype(np.int8)


@functools.cache
def num_marks() -> np.ndarray:
  """Number of marks on every board: int8 [NUM_BOARDS]."""
  return (cells() != EMPTY).sum(axis=1).astype(np.int8)


@functools.cache
def side_to_move() -> np.ndarray:
  """Mark of the side to move, X if the counts are equal: int8 [NUM_BOARDS]."""
  return np.where(num_marks() % 2 == 0, X, O).astype(np.int8)


@functools.cache
def winners() -> np.ndarray:
  """NO_WINNER, X, O or DRAWN for every board: int8 [NUM_BOARDS].

  An unreachable board on which both sides have a line counts as a win for X.
  """
  winner = np.where(num_marks() == NUM_CELLS, DRAWN, NO_WINNER).astype(np.int8)
  for mark in (O, X):
    on_line = (cells()[:, LINES] == mark).all(axis=2).any(axis=1)
    winner[on_line] = mark
  return winner


@functools.cache
def legal_masks() -> np.ndarray:
  """Legal cells of every board, none after the game's end: int16 [NUM_BOARDS]."""
  bits = 1 << np.arange(NUM_CELLS)
  empty = ((cells() == EMPTY) * bits).sum(axis=1)
  return np.where(winners() == NO_WINNER, empty, 0).astype(np.int16)


@functools.cache
def status() -> np.ndarray:
  """`legal_masks` in nine bits and `winners` above them: int16 [NUM_BOARDS].

  One combined lookup on a device takes half the time of two.
  """
  return legal_masks() | winners().astype(np.int16) << NUM_CELLS


@functools.cache
def reachable() -> np.ndarray:
  """Whether a game can reach each board: bool [NUM_BOARDS]."""
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
    mark: Side to move on the boards; None for both sides.
  """
  ongoing = reachable() & (legal_masks() > 0)
  if mark is not None:
    ongoing &= side_to_move() == mark
  return np.flatnonzero(ongoing).astype(np.int32)


@functools.cache
def successors() -> np.ndarray:
  """Board after each move, -1 if the move is illegal: int32 [NUM_BOARDS, 9]."""
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

  Cell `c` of the transformed board has the mark of cell `symmetries()[s, c]`.
  """
  grid = np.arange(NUM_CELLS, dtype=np.int8).reshape(3, 3)
  turned = [np.rot90(g, k) for g in (grid, grid.T) for k in range(4)]
  return np.stack([t.ravel() for t in turned])


@functools.cache
def canonical() -> np.ndarray:
  """Smallest index among the eight symmetric boards: int32 [NUM_BOARDS]."""
  turned = cells()[:, symmetries()].astype(np.int32) @ POWERS
  return turned.min(axis=1).astype(np.int32)
