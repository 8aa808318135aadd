"""Games of a greedy policy on every line of play.

A greedy policy always gives the same answer to the same board and history, so
the opponent's moves alone determine a game: 384 lines of replies if the policy
is X, 945 if it is O. The module is a `line_play.LinePlay`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats


def starts(seat: int) -> env_lib.State:
  """Returns the first states of every line, [384] or [945]."""
  mark = seat + rules.X
  return _begin(opponents.enumerate_opponent_seeds(mark), mark)


@jax.jit
def _begin(opponent_seeds: jax.Array, mark: jax.Array) -> env_lib.State:
  return jax.vmap(env_lib.TicTacToe().init, (0, None))(opponent_seeds, mark)


def distinct(games: Any) -> np.ndarray:
  """Returns the index of each distinct game; lines that end early coincide."""
  first: dict[Any, int] = {}
  for n in range(len(games.ending)):
    played = np.asarray(games.turn_mask[n])
    boards = np.asarray(games.states.board[n])[played].tolist()
    first.setdefault((*boards, int(games.state.board[n])), n)
  return np.array(list(first.values()))


def optimal_weights(games: Any) -> np.ndarray:
  """Returns importance weights of the optimal over the random opponent.

  Every line has the same probability under the random opponent, so these
  weights, float [B], give exact expectations under the optimal opponent.
  """
  ratio = np.ones(len(games.ending))
  boards, moves = np.asarray(games.states.board), np.asarray(games.moves)
  played = np.asarray(games.turn_mask)
  for n in range(len(ratio)):
    if games.state.agent[n] == rules.O:
      # X opens before the agent's first turn.
      ratio[n] *= _reply_ratio(rules.EMPTY_BOARD, int(boards[n, 0]))
    for t in np.flatnonzero(played[n] & (moves[n] >= 0)):
      before = rules.successors()[boards[n, t], moves[n, t]]
      has_next = t + 1 < played.shape[1] and played[n, t + 1]
      after = boards[n, t + 1] if has_next else games.state.board[n]
      # An illegal move and the last move of a game have no reply.
      if before >= 0 and before != after:
        ratio[n] *= _reply_ratio(int(before), int(after))
  return ratio


def _reply_ratio(before: int, after: int) -> float:
  (cell,) = np.flatnonzero(rules.cells()[before] != rules.cells()[after])
  legal, best = rules.legal_masks()[before], solver.solve().optimal[before]
  if not best >> cell & 1:
    return 0.0
  return float(rules.mask_sizes()[legal] / rules.mask_sizes()[best])


def opening_states(seat: int, numbers: jax.Array) -> env_lib.State:
  """Returns the empty board, for O after each move of X in turn, [B]."""
  # One line for each move of X, in the order of the cells.
  lines = opponents.enumerate_opponent_seeds(rules.O)
  seeds = jnp.asarray(lines[:: len(lines) // rules.NUM_CELLS])
  return _begin(seeds[numbers % rules.NUM_CELLS], seat + rules.X)


def count_openings(games: Sequence[Any]) -> dict[str, Any]:
  """Returns counts of the first moves as X, and as O by the cell X has taken."""
  counts = np.zeros((rules.NUM_CELLS + 1, rules.NUM_CELLS + 1), int)
  for each in games:
    before, moves = each.states.last_move[:, 0], each.moves[:, 0]
    # -1, for no cell, indexes the last row and the last column.
    np.add.at(counts, (before, np.where(moves == before, -1, moves)), 1)
  by_cell = zip(text_formats.COORDINATES, counts[:-1].tolist(), strict=True)
  return {"x": counts[-1].tolist(), "o": dict(by_cell)}
