"""Exact and sampled win, draw and loss rates of a policy.

A greedy policy always gives the same answer to the same board and history, so
the opponent's moves alone determine a game: 384 lines of replies if the policy
is X, 945 if it is O. Playing every line gives the policy's exact rates against
a random and an optimal opponent, and its worst result against any opponent.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from tunix_ttt import streams
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
  """A comparison of paired right (1) and wrong (0) answers.

  Attributes:
    count: Number of items.
    before: Mean score before.
    before_std: Sample standard deviation before; 0 for a single item.
    after: Mean score after.
    after_std: Sample standard deviation after; 0 for a single item.
    change: `after - before`.
    low: Lower end of the change's 95% confidence interval.
    high: Upper end of the change's 95% confidence interval.
    p_value: P-value of the exact McNemar test for no change.
    gained: Number of items wrong before and right after.
    lost: Number of items right before and wrong after.
  """

  count: int
  before: float
  before_std: float
  after: float
  after_std: float
  change: float
  low: float
  high: float
  p_value: float
  gained: int
  lost: int


def compare(before: Sequence[int], after: Sequence[int]) -> Paired:
  """Compares scores of the same items in the same order.

  Raises:
    ValueError: If there are no scores, or their numbers differ.
  """
  if len(before) != len(after) or not before:
    raise ValueError(f"{len(before)} scores before, {len(after)} after")
  b, a = np.asarray(before), np.asarray(after)
  gained, lost = int(((b == 0) & (a == 1)).sum()), int((b > a).sum())
  both = int((b * a).sum())
  low, high = change_interval(both, gained, lost, len(b) - both - gained - lost)
  return Paired(
    count=len(b),
    before=float(b.mean()),
    before_std=_std(b),
    after=float(a.mean()),
    after_std=_std(a),
    change=float(a.mean() - b.mean()),
    low=low,
    high=high,
    p_value=mcnemar(gained, lost),
    gained=gained,
    lost=lost,
  )


def _std(values: np.ndarray) -> float:
  return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def mcnemar(gained: int, lost: int) -> float:
  """Returns the two-sided p-value of the exact McNemar test (1947)."""
  if gained + lost == 0:
    return 1.0
  return float(stats.binomtest(gained, gained + lost).pvalue)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
  """Returns the 95% score interval of a proportion (Wilson, 1927)."""
  test = stats.binomtest(right, count)
  interval = test.proportion_ci(CONFIDENCE, method="wilson")
  return float(interval.low), float(interval.high)


def change_interval(
  both: int, gained: int, lost: int, neither: int
) -> tuple[float, float]:
  """Returns the 95% interval of the change of a paired proportion.

  Newcombe (1998), "Improved confidence intervals for the difference between
  binomial proportions based on paired data", method 10: combines the Wilson
  intervals of both proportions with their continuity-corrected correlation.

  Args:
    both: Number of items right before and after.
    gained: Number of items right only after.
    lost: Number of items right only before.
    neither: Number of items wrong before and after.
  """
  n = both + gained + lost + neither
  after, before = (both + gained) / n, (both + lost) / n
  after_low, after_high = wilson_interval(both + gained, n)
  before_low, before_high = wilson_interval(both + lost, n)
  marginals = (
    (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
  )
  phi = 0.0
  if marginals:
    cross = both * neither - gained * lost
    if cross > 0:
      cross = max(cross - n / 2, 0)
    phi = cross / math.sqrt(marginals)

  def join(up: float, down: float) -> float:
    return math.sqrt(max(up * up - 2 * phi * up * down + down * down, 0.0))

  change = after - before
  low = change - join(after - after_low, before_high - before)
  high = change + join(after_high - after, before - before_low)
  return max(low, -1.0), min(high, 1.0)


Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
# (keys [B], initial states of B games) -> trajectories of B games.
Play = Callable[[jax.Array, env_lib.State], Trajectory]

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


def play_every_line(
  play: Play, agent: int, batch_size: int = 512
) -> Trajectory:
  """Plays a greedy policy on every line; returns one game a line, on the host.

  `play` must have the opponent `opponents.uniform_random`. Repeated games fill
  the last batch.
  """
  opponent_seeds = opponents.enumerate_opponent_seeds(agent)
  init = env_lib.TicTacToe().init
  total, batches = len(opponent_seeds), []
  for first in range(0, total, batch_size):
    numbers = jnp.arange(first, first + batch_size) % total
    marks = jnp.full(batch_size, agent, jnp.int8)
    states = jax.vmap(init)(jnp.asarray(opponent_seeds)[numbers], marks)
    # Greedy decoding ignores the keys, but `play` requires them.
    keys = streams.keys(0, streams.Stream.GREEDY, last=numbers)
    batches.append(jax.device_get(play(keys, states)))
  return jax.tree.map(lambda *rows: np.concatenate(rows)[:total], *batches)


def exact(games: Trajectory) -> Exact:
  """Computes exact results from the games of `play_every_line`."""
  distinct = distinct_games(games)
  order = list(RATES.values())
  endings = [Ending(int(e)) for e in np.asarray(games.ending)[distinct]]
  worst = max(endings, key=order.index)
  uniform = np.ones(len(games.ending))
  return Exact(
    lines=len(distinct),
    lines_lost=sum(e not in (Ending.WIN, Ending.DRAW) for e in endings),
    worst=worst.name.lower(),
    random=_rates(games, uniform),
    optimal=_rates(games, _optimal_over_random(games)),
    optimal_move_rate=_optimal_move_rate(games),
  )


def sampled(games: Trajectory) -> Sampled:
  """Computes rates and confidence intervals from sampled games."""
  total = len(games.ending)
  rates = _rates(games, np.ones(total))
  return Sampled(
    games=total,
    rates=rates,
    intervals={
      name: wilson_interval(round(rate * total), total)
      for name, rate in rates.items()
    },
    optimal_move_rate=_optimal_move_rate(games),
  )


def distinct_games(games: Trajectory) -> np.ndarray:
  """Returns the index of each distinct game; lines that end early coincide."""
  first: dict[Any, int] = {}
  for n in range(len(games.ending)):
    played = np.asarray(games.turn_mask[n])
    boards = np.asarray(games.boards[n])[played].tolist()
    first.setdefault((*boards, int(games.board[n])), n)
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
  boards, moves = np.asarray(games.boards), np.asarray(games.moves)
  played = np.asarray(games.turn_mask)
  for n in range(len(ratio)):
    if games.agent[n] == rules.O:
      # X opens before the agent's first turn.
      ratio[n] *= _reply_ratio(rules.EMPTY_BOARD, int(boards[n, 0]))
    for t in np.flatnonzero(played[n] & (moves[n] >= 0)):
      before = rules.successors()[boards[n, t], moves[n, t]]
      has_next = t + 1 < played.shape[1] and played[n, t + 1]
      after = boards[n, t + 1] if has_next else games.board[n]
      # An illegal move and the last move of a game have no reply.
      if before < 0 or before == after:
        continue
      ratio[n] *= _reply_ratio(int(before), int(after))
  return ratio


def _reply_ratio(before: int, after: int) -> float:
  (cell,) = np.flatnonzero(rules.cells()[before] != rules.cells()[after])
  legal, best = rules.legal_masks()[before], solver.solve().optimal[before]
  if not best >> cell & 1:
    return 0.0
  return float(rules.mask_sizes()[legal] / rules.mask_sizes()[best])
