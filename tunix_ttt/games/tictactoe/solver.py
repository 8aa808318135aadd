"""The exact solution of tic-tac-toe, one entry a board.

Every answer is for the side to move on that board: a value of 1 on a board
where O moves is a win for O. Values are worked out from full boards back to
the empty one, so nothing is cached under a key that forgets whose value it is.
Boards that no game reaches hold zeros and no optimal moves.
"""

import functools
from typing import NamedTuple

import numpy as np

from tunix_ttt.games.tictactoe import rules

WIN, DRAW, LOSS = 1, 0, -1

# Centre, corners, edges: the order in which `preferred` breaks ties.
_TIE_ORDER = np.array([4, 0, 2, 6, 8, 1, 3, 5, 7])
_LONGEST = rules.NUM_CELLS + 1


class Solution(NamedTuple):
  """Minimax tables for the side to move; [NUM_BOARDS] or [NUM_BOARDS, 9].

  Attributes:
    value: int8, WIN, DRAW or LOSS under perfect play of both sides.
    move_values: int8 [NUM_BOARDS, 9], the value after each legal move, still
      for the side that moved; LOSS - 1 where the move is illegal.
    optimal: int16, 9-bit mask of the moves that keep `value`.
    plies: int8, moves until the end when wins are taken as soon as possible
      and losses put off as long as possible.
    preferred: int8, the one optimal move that does so, ties going to the
      centre, then corners, then edges; -1 where the game is over.
  """

  value: np.ndarray
  move_values: np.ndarray
  optimal: np.ndarray
  plies: np.ndarray
  preferred: np.ndarray


@functools.cache
def solve() -> Solution:
  """Returns the solution of every reachable board."""
  n = rules.NUM_BOARDS
  value = np.zeros(n, np.int8)
  move_values = np.full((n, rules.NUM_CELLS), LOSS - 1, np.int8)
  optimal = np.zeros(n, np.int16)
  plies = np.zeros(n, np.int8)
  preferred = np.full(n, -1, np.int8)
  bits = (1 << np.arange(rules.NUM_CELLS)).astype(np.int16)

  ended = rules.legal_masks() == 0
  # Whoever completed the line has just moved, so the side to move has lost.
  value[ended & (rules.winners() != rules.DRAWN)] = LOSS
  value[~rules.reachable()] = 0

  for marks in range(rules.NUM_CELLS - 1, -1, -1):
    boards = np.flatnonzero(
      rules.reachable() & ~ended & (rules.num_marks() == marks)
    )
    after = rules.successors()[boards]
    legal = after >= 0
    values = np.where(legal, -value[after], LOSS - 1)
    best = values.max(axis=1)
    is_best = values == best[:, None]
    # Prefer the quickest win and the slowest anything else.
    length = np.where(is_best, plies[after], 0) + 1
    hurry = np.where(best == WIN, 1, -1)[:, None]
    rank = np.where(is_best, hurry * length, _LONGEST)
    choice = _TIE_ORDER[rank[:, _TIE_ORDER].argmin(axis=1)]

    value[boards] = best
    move_values[boards] = values
    optimal[boards] = (is_best * bits).sum(axis=1)
    preferred[boards] = choice
    plies[boards] = length[np.arange(len(boards)), choice]
  return Solution(value, move_values, optimal, plies, preferred)


def value_for(board: int, mark: int) -> int:
  """Returns the value of a reachable board as seen by the side `mark`."""
  value = int(solve().value[board])
  return value if rules.side_to_move()[board] == mark else -value


def optimal_cells(board: int) -> tuple[int, ...]:
  """Returns the moves of the side to move that keep the board's value."""
  return rules.mask_to_cells(int(solve().optimal[board]))
