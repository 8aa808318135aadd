"""Exact and sampled win, draw and loss rates of a policy.

A greedy policy always gives the same answer to the same board and history, so
the opponent's moves alone determine a game: 384 lines of replies if the policy
is X, 945 if it is O. Playing every line gives the policy's exact rates against
a random and an optimal opponent, and its worst result against any opponent.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
RATES = trajectory_lib.RATES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
  """A greedy policy's results with one mark, over every line.

  Attributes:
    lines: Number of distinct games.
    lines_lost: Number of distinct games that ended in a loss, an illegal move,
      a parse error or a truncation, or did not end.
    worst: Worst ending, a key of `RATES` without `_rate`.
    random: Rates of endings against a uniformly random opponent.
    optimal: Rates of endings against an opponent that plays uniformly at random
      among optimal moves.
    optimal_move_rate: Share of optimal moves among the policy's decisions
      against the random opponent.
  """

  lines: int
  lines_lost: int
  worst: str
  random: dict[str, float]
  optimal: dict[str, float]
  optimal_move_rate: float

  def against(self, opponent: str) -> dict[str, dict[str, float]]:
    """Returns the rates by opponent, whatever the config's `opponent`."""
    del opponent
    return {"random": self.random, "optimal": self.optimal}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """Results of sampled games with one mark.

  Attributes:
    games: Number of games.
    rates: Rate of each ending.
    intervals: 95% confidence intervals of the rates (Wilson, 1927).
    optimal_move_rate: Share of optimal moves among the policy's decisions.
  """

  games: int
  rates: dict[str, float]
  intervals: dict[str, tuple[float, float]]
  optimal_move_rate: float

  def against(self, opponent: str) -> dict[str, dict[str, float]]:
    """Returns the rates by opponent, the config's `opponent` alone."""
    return {opponent: self.rates}


def exact(games: Trajectory) -> Exact:
  """Computes exact results from the games on every line."""
  distinct = distinct_games(games)
  order = list(RATES.values())
  endings = [Ending(int(e)) for e in np.asarray(games.ending)[distinct]]
  return Exact(
    lines=len(distinct),
    lines_lost=sum(e not in (Ending.WIN, Ending.DRAW) for e in endings),
    worst=max(endings, key=order.index).name.lower(),
    random=_rates(games, np.ones(len(games.ending))),
    optimal=_rates(games, _optimal_over_random(games)),
    optimal_move_rate=_optimal_move_rate(games),
  )


def sampled(games: Trajectory) -> Sampled:
  """Computes rates and confidence intervals from sampled games."""
  rates, intervals = rates_of(np.asarray(games.ending))
  return Sampled(
    games=len(games.ending),
    rates=rates,
    intervals=intervals,
    optimal_move_rate=_optimal_move_rate(games),
  )


def rates_of(
  endings: np.ndarray,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
  """Returns the rates of endings, int [N], and their Wilson intervals."""
  rates, intervals = {}, {}
  for name, value in RATES.items():
    count = int((endings == value).sum())
    test = stats.binomtest(count, len(endings))
    low, high = test.proportion_ci(method="wilson")
    rates[name] = count / len(endings)
    intervals[name] = float(low), float(high)
  return rates, intervals


def distinct_games(games: Trajectory) -> np.ndarray:
  """Returns the index of each distinct game; lines that end early coincide."""
  first: dict[Any, int] = {}
  for n in range(len(games.ending)):
    played = np.asarray(games.turn_mask[n])
    boards = np.asarray(games.states.board[n])[played].tolist()
    first.setdefault((*boards, int(games.state.board[n])), n)
  return np.array(list(first.values()))


def _rates(games: Trajectory, weights: np.ndarray) -> dict[str, float]:
  ending = np.asarray(games.ending)
  total = weights.sum()
  return {
    name: float(weights[ending == value].sum() / total)
    for name, value in RATES.items()
  }


def _optimal_move_rate(games: Trajectory) -> float:
  optimal = trajectory_lib.optimal_moves(games).sum()
  turns = np.asarray(games.turn_mask).sum()
  return float(optimal / turns) if turns else 0.0


def _optimal_over_random(games: Trajectory) -> np.ndarray:
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
