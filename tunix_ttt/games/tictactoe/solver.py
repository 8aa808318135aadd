"""Exact minimax solution of tic-tac-toe for every board.

Every value is for the side to move: a value of 1 on a board where O moves is a
win for O. Values are computed from full boards back to the empty board.
Unreachable boards have value 0 and no optimal moves.
"""

import functools
from typing import NamedTuple

import numpy as np

from tunix_ttt.games.tictactoe import rules

WIN, DRAW, LOSS = 1, 0, -1

# Order in which `preferred` breaks ties: center, corners, edges.
_TIE_ORDER = np.array([4, 0, 2, 6, 8, 1, 3, 5, 7])
_LONGEST = rules.NUM_CELLS + 1


class Solution(NamedTuple):
  """Minimax tables for the side to move; [NUM_BOARDS] or [NUM_BOARDS, 9].

  Attributes:
    value: WIN, DRAW or LOSS under perfect play of both sides, int8.
    move_values: Value of each legal move for the side that makes it, int8
      [NUM_BOARDS, 9]; LOSS - 1 for illegal moves.
    optimal: 9-bit mask of the moves that keep `value`, int16.
    plies: Number of moves until the end of the game, with the fastest wins and
      the slowest losses, int8.
    preferred: Optimal move that leads to the end in `plies` moves, int8. Ties
      go to the center, then corners, then edges; -1 if the game is over.
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
  # The side that completed the line has just moved: the side to move lost.
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
    # Prefer the fastest win, but the slowest draw or loss.
    length = np.where(is_best, plies[after], 0) + 1
    sign = np.where(best == WIN, 1, -1)[:, None]
    rank = np.where(is_best, sign * length, _LONGEST)
    choice = _TIE_ORDER[rank[:, _TIE_ORDER].argmin(axis=1)]

    value[boards] = best
    move_values[boards] = values
    optimal[boards] = (is_best * bits).sum(axis=1)
    preferred[boards] = choice
    plies[boards] = length[np.arange(len(boards)), choice]
  return Solution(value, move_values, optimal, plies, preferred)


def optimal_cells(board: int) -> tuple[int, ...]:
  """Returns the optimal moves on a board."""
  return rules.mask_to_cells(int(solve().optimal[board]))
