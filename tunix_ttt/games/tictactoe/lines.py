"""Games of a greedy policy on every line of play.

A greedy policy always gives the same answer to the same board and history, so
the opponent's moves alone determine a game: 384 lines of replies if the policy
is X, 945 if it is O. Games here are `rollout.trajectory.Trajectory`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver


def starts(mark: int) -> env_lib.State:
  """Returns the first states of every line against the random opponent, [N]."""
  seeds = jnp.asarray(opponents.enumerate_opponent_seeds(mark))
  return jax.jit(jax.vmap(env_lib.TicTacToe().init, (0, None)))(seeds, mark)


def distinct(games: Any) -> np.ndarray:
  """Returns the index of each distinct game; lines that end early coincide."""
  first: dict[Any, int] = {}
  for n in range(len(games.ending)):
    played = np.asarray(games.turn_mask[n])
    boards = np.asarray(games.states.board[n])[played].tolist()
    first.setdefault((*boards, int(games.state.board[n])), n)
  return np.array(list(first.values()))


def optimal_over_random(games: Any) -> np.ndarray:
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
