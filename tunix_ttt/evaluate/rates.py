"""Results of a policy's games: exact, or sampled with intervals."""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import stats

from tunix_ttt.evaluate import exact_play
from tunix_ttt.games import definition
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
RATES = trajectory_lib.RATES
# Rates of a policy's decisions in results, None where they are unknown.
OF_DECISIONS = (
  "optimal_move_rate",
  "thought_true_rate",
  "thought_no_claim_rate",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
  """A greedy policy's results in one seat, over every line of play.

  A line is everything that the others and chance may do in a game.

  Attributes:
    lines: Number of distinct games.
    lines_lost: Number of distinct games that ended in a loss, an illegal move,
      a parse error or a truncation, or did not end.
    worst: Worst ending, a key of `RATES` without `_rate`.
    random: Rates of endings against a uniformly random opponent.
    optimal: Rates of endings against an opponent that plays uniformly at random
      among optimal moves; None for games without an exact solver.
    optimal_move_rate: Share of optimal moves among the policy's decisions
      against the random opponent; None without a solver.
    thought_true_rate: Share of true reasons among the thoughts of these
      decisions that state one; None if none does.
    thought_no_claim_rate: Share of these decisions whose thought states no
      reason; None for games whose thoughts cannot be judged.
    returns: Expected return by opponent; a game that does not end by the rules
      has the least return. `worst` is the least that any opponent can bring
      about. Empty in files of older versions.
  """

  lines: int
  lines_lost: int
  worst: str
  random: dict[str, float]
  optimal: dict[str, float] | None = None
  optimal_move_rate: float | None = None
  thought_true_rate: float | None = None
  thought_no_claim_rate: float | None = None
  returns: dict[str, float] = dataclasses.field(default_factory=dict)

  def against(self, opponent: str) -> dict[str, dict[str, float]]:
    """Returns the rates by opponent, whatever the config's `opponent`."""
    del opponent
    if self.optimal is None:
      return {"random": self.random}
    return {"random": self.random, "optimal": self.optimal}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stochastic:
  """Results of a policy as it is sampled, in one seat, without sampled games.

  Attributes:
    temperature: Sampling temperature.
    random: Rates of endings against a uniformly random opponent.
    optimal: Rates of endings against an opponent that plays uniformly at random
      among optimal moves; None for games without an exact solver.
    worst: Rates of endings against the opponent that brings about the least
      expected return; None for games without an exact solver.
    optimal_move_rate: Expected share of optimal moves among the policy's
      decisions against the random opponent; None without a solver.
    returns: Expected return by opponent, `random`, `optimal` and `worst`.
    unresolved: Greatest total probability at a decision of answers that are
      counted as unreadable because their tokens are not the tokenizer's.
    num_answers: Number of sampled answers to an observation of every game,
      `PlayConfig.num_answers`; 0 if the distribution of moves was computed.
    intervals: 95% confidence intervals of the rates, and of `return`, against
      the random and the optimal opponent; empty if `num_answers` is 0.
  """

  # Answers that are counted without their texts have no thoughts to judge.
  thought_true_rate: ClassVar[float | None] = None
  thought_no_claim_rate: ClassVar[float | None] = None

  temperature: float
  random: dict[str, float]
  optimal: dict[str, float] | None = None
  worst: dict[str, float] | None = None
  optimal_move_rate: float | None = None
  returns: dict[str, float]
  unresolved: float = 0.0
  num_answers: int = 0
  intervals: dict[str, dict[str, tuple[float, float]]] = dataclasses.field(
    default_factory=dict
  )

  def against(self, opponent: str) -> dict[str, dict[str, float]]:
    """Returns the rates by opponent, whatever the config's `opponent`."""
    del opponent
    every = {"random": self.random, "optimal": self.optimal}
    every["worst"] = self.worst
    return {name: rates for name, rates in every.items() if rates is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """Results of sampled games in one seat.

  Attributes:
    games: Number of games.
    rates: Rate of each ending.
    intervals: 95% confidence intervals of the rates (Wilson, 1927).
    optimal_move_rate: Share of optimal moves among the policy's decisions; None
      for games without an exact solver.
    thought_true_rate: As in `Exact`, of the games' decisions.
    thought_no_claim_rate: As in `Exact`, of the games' decisions.
    mean_return: Mean return; a game that does not end by the rules has the
      least return. None in files of older versions.
    return_interval: 95% confidence interval of the mean return (Student's t).
  """

  games: int
  rates: dict[str, float]
  intervals: dict[str, tuple[float, float]]
  optimal_move_rate: float | None = None
  thought_true_rate: float | None = None
  thought_no_claim_rate: float | None = None
  mean_return: float | None = None
  return_interval: tuple[float, float] | None = None

  def against(self, opponent: str) -> dict[str, dict[str, float]]:
    """Returns the rates by opponent, the config's `opponent` alone."""
    return {opponent: self.rates}

  @property
  def returns(self) -> dict[str, float]:
    """The mean return; empty if it is unknown."""
    return {} if self.mean_return is None else {"mean": self.mean_return}


def exact_of_lines(
  game: definition.Definition,
  games: Trajectory,
  decode: trajectory_lib.Decode | None = None,
) -> Exact:
  """Computes exact results from the games on every line of `game.lines`.

  `decode` turns token ids into text; without it thoughts are not judged.
  """
  assert game.lines is not None
  distinct = game.lines.distinct(games)
  endings = [Ending(int(e)) for e in np.asarray(games.ending)[distinct]]
  order = list(RATES.values())
  even, weights = np.ones(len(games.ending)), game.lines.optimal_weights(games)
  values = game.returns(games.state, np.asarray(games.ending))
  return Exact(
    lines=len(distinct),
    lines_lost=sum(e not in (Ending.WIN, Ending.DRAW) for e in endings),
    worst=max(endings, key=order.index).name.lower(),
    random=_rates(games, even),
    optimal=_rates(games, weights),
    optimal_move_rate=_optimal_move_rate(game, games),
    **_thought_rates(game, games, decode),
    returns={
      "random": float(np.average(values, weights=even)),
      "optimal": float(np.average(values, weights=weights)),
      "worst": float(values.min()),
    },
  )


def exact_of_states(verdict: exact_play.ExactVerdict) -> Exact:
  """Returns exact results that were computed from the states of a game."""
  random, optimal = verdict.random, verdict.optimal
  return Exact(
    lines=verdict.lines,
    lines_lost=verdict.lines_lost,
    worst=verdict.worst_ending.name.lower(),
    random={**random.rates},
    optimal=None if optimal is None else {**optimal.rates},
    optimal_move_rate=random.optimal_move_rate,
    returns=_returns(verdict),
  )


def of_policy(
  game: definition.Definition,
  verdict: exact_play.ExactVerdict,
  *,
  temperature: float,
  unresolved: float,
  num_answers: int,
) -> Stochastic:
  """Returns the results of a policy as it is sampled; see `Stochastic`."""
  random, optimal, worst = verdict.random, verdict.optimal, verdict.worst
  intervals = {}
  for name, expected in (("random", random), ("optimal", optimal)):
    if expected is not None and expected.variances:
      intervals[name] = _propagated(game, expected, num_answers)
  return Stochastic(
    temperature=temperature,
    random={**random.rates},
    optimal=None if optimal is None else {**optimal.rates},
    worst=None if worst is None else {**worst.rates},
    optimal_move_rate=random.optimal_move_rate,
    returns=_returns(verdict),
    unresolved=unresolved,
    num_answers=num_answers,
    intervals=intervals,
  )


def _returns(verdict: exact_play.ExactVerdict) -> dict[str, float]:
  every = {"random": verdict.random, "optimal": verdict.optimal}
  every["worst"] = verdict.worst
  return {n: each.mean_return for n, each in every.items() if each is not None}


def _propagated(
  game: definition.Definition, expected: exact_play.Expected, num_answers: int
) -> dict[str, tuple[float, float]]:
  """Returns 95% intervals of the rates and of `return`.

  They are Wilson's, for as many games as would have the same variance. A
  decision that a game comes to with probability p has at least p *
  `num_answers` answers, so the variance is at most that of `num_answers` games
  (law of total variance): never fewer games than that, also if all samples
  agree.
  """
  span, result = game.high - game.low, {}
  for name, variance in expected.variances.items():
    low, scale, value = 0.0, 1.0, expected.rates.get(name, 0.0)
    if name == "return":
      low, scale, value = game.low, span, expected.mean_return
    share = min(max((value - low) / scale, 0.0), 1.0)
    total = float(num_answers)
    if variance > 0:
      total = max(total, share * (1 - share) * scale**2 / variance)
    z = float(stats.norm.ppf(0.975))
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    half *= z / (1 + z**2 / total)
    bounds = (center - half) * scale + low, (center + half) * scale + low
    result[name] = float(bounds[0]), float(bounds[1])
  return result


def sampled(
  game: definition.Definition,
  games: Trajectory,
  decode: trajectory_lib.Decode | None = None,
) -> Sampled:
  """Computes rates and confidence intervals from sampled games.

  `decode` turns token ids into text; without it thoughts are not judged.
  """
  endings = np.asarray(games.ending)
  rates, intervals = rates_of(endings)
  values = game.returns(games.state, endings).astype(np.float64)
  total, mean = len(values), float(values.mean())
  error = float(values.std(ddof=1) / np.sqrt(total)) if total > 1 else 0.0
  half = float(stats.t.ppf(0.975, max(total - 1, 1))) * error
  return Sampled(
    games=total,
    rates=rates,
    intervals=intervals,
    optimal_move_rate=_optimal_move_rate(game, games),
    **_thought_rates(game, games, decode),
    mean_return=mean,
    return_interval=(mean - half, mean + half),
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


def points(
  game: definition.Definition,
  result: Exact | Stochastic | Sampled,
  opponent: str,
) -> list[float]:
  """Returns the share of points against each of the result's opponents, 0 to 1.

  The worst opponent is left out.
  Points are the game's returns, from the least to the greatest: a win counts 1,
  a draw 1/2 where these are -1 and 1.
  """
  if (game.low, game.high) == (-1, 1):
    every = result.against(opponent)
    return [
      rates["win_rate"] + rates["draw_rate"] / 2
      for name, rates in every.items()
      if name != "worst"
    ]
  values = [v for name, v in result.returns.items() if name != "worst"]
  return [(value - game.low) / (game.high - game.low) for value in values]


def _rates(games: Trajectory, weights: np.ndarray) -> dict[str, float]:
  ending = np.asarray(games.ending)
  total = weights.sum()
  return {
    name: float(weights[ending == value].sum() / total)
    for name, value in RATES.items()
  }


def _optimal_move_rate(
  game: definition.Definition, games: Trajectory
) -> float | None:
  if game.unsolved:
    return None
  optimal = trajectory_lib.optimal_moves(game, games).sum()
  turns = np.asarray(games.turn_mask).sum()
  return float(optimal / turns) if turns else 0.0


def _thought_rates(
  game: definition.Definition,
  games: Trajectory,
  decode: trajectory_lib.Decode | None,
) -> dict[str, float]:
  """Returns the rates of thoughts that `Exact` and `Sampled` have."""
  truths = None
  if decode is not None:
    truths = trajectory_lib.thought_truths(game, games, decode)
  if truths is None:
    return {}
  truths = truths[np.asarray(games.turn_mask)]
  has_claim = truths >= 0
  rates = {"thought_no_claim_rate": float((~has_claim).mean())}
  if has_claim.any():
    rates["thought_true_rate"] = float(truths[has_claim].mean())
  return rates
