"""Exact results of a policy in any game whose states can be enumerated.

A game meets each state at most once, so expected results follow from one pass
over the states, and the worst that opponents can do from another. A policy may
be estimated from samples; the results then have variances.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
RATES = trajectory_lib.RATES
_LOST = (Ending.LOSS, Ending.ILLEGAL, Ending.PARSE_ERROR, Ending.LENGTH)
# Integers up to here are exact in double precision.
_EXACT = 2**53
# Moves whose returns differ by less are equally bad.
_TIE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
  """Expected results against one kind of opponent.

  Attributes:
    rates: Probability of each ending, by its name in `trajectory.RATES`.
    mean_return: Expected return of the seat.
    num_decisions: Expected number of decisions in a game.
    optimal_move_rate: Expected number of optimal decisions over
      `num_decisions`, 0 without decisions; None where information is hidden.
    variances: Variance of each rate, and of `return`, where the policy is
      estimated from samples, rather too large; empty where it is known.
  """

  rates: Mapping[str, float]
  mean_return: float
  num_decisions: float
  optimal_move_rate: float | None
  variances: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactVerdict:
  """Exact results of a policy in one seat.

  A win, a draw or a loss is the sign of the seat's return.

  Attributes:
    random: Results against opponents that play all legal moves with equal
      probability.
    optimal: Results against opponents that play all optimal moves with equal
      probability; None where information is hidden.
    worst: Results against the opponents that bring about the least expected
      return together, with equal probability for equally bad moves; None where
      information is hidden.
    worst_ending: Worst `Ending` of any line, in the order of `RATES`.
    lines: Number of distinct games, sequences of everyone's moves and outcomes
      of chance, that any opponents can bring about.
    lines_lost: Number of lines that end in a loss, an illegal move, an
      unreadable answer or a truncation.
  """

  random: Expected
  optimal: Expected | None
  worst: Expected | None
  worst_ending: Ending
  lines: int
  lines_lost: int


class _Play(NamedTuple):
  """A policy's seat in each of the N states.

  Attributes:
    is_turn: Whether the seat is to act, bool [N].
    moves: Probability of each legal action, 0 for other seats, float64 [N, A].
    ends: Probability that the game ends here, by `Ending`, float64 [N, E].
    paid: Expected return of games that end here, 0 for others, float64 [N].
  """

  is_turn: np.ndarray
  moves: np.ndarray
  ends: np.ndarray
  paid: np.ndarray


class ExactPlay:
  """Judges policies of one game, whose states are enumerated once.

  Attributes:
    graph: States of the game.
    decisions: Decisions of each seat.
    solution: Solution of the game; None where information is hidden.
  """

  def __init__(self, game: definition.Definition):
    """Enumerates the states, and solves the game if they are visible.

    Raises:
      errors.UserError: if the states cannot be enumerated or form cycles.
    """
    self._name = game.name
    self.graph = graph = game.graph
    self._levels = solve.topological_levels(game.game, graph)
    self.decisions = decisions_lib.enumerate_decisions(
      game.game, game.text, graph
    )
    self.solution, self._best = None, None
    self._low, self._high = game.low, game.high
    if not game.unsolved:
      self.solution = game.solution
      self._best = np.asarray(self.solution.optimal)
    host = jax.tree.map(np.asarray, graph)
    self._to_act, self._legal = host.to_act, host.children >= 0
    self._returns = host.returns.astype(np.float64)
    self._chance = solve.exact_probabilities(host)
    # State after each of W = A + C steps, -1 for none, int32 [N, W].
    self._targets = np.concatenate([host.children, host.outcomes], axis=1)

  def most_turns(self, seat: int) -> int:
    """Returns the largest number of decisions of a seat in one game."""
    numbers = self.decisions[seat].numbers
    turns = np.zeros(len(numbers) + 1, int)
    for rows in reversed(self._levels):
      # A missing step, -1, reads the 0 at the end.
      turns[rows] = turns[self._targets[rows]].max(axis=1) + (
        numbers[rows] >= 0
      )
    return int(turns[0])

  def legal_actions(self, seat: int) -> np.ndarray:
    """Returns the mask of legal actions at each decision of a seat, bool [D, A]."""
    numbers = self.decisions[seat].numbers
    turns = np.flatnonzero(numbers >= 0)
    legal = np.zeros((len(self.decisions[seat]), self._legal.shape[1]), bool)
    legal[numbers[turns]] = self._legal[turns]
    return legal

  def explore(
    self, seat: int, act: Callable[[np.ndarray], Sequence[int]]
  ) -> np.ndarray:
    """Asks a deterministic policy for its actions, breadth first.

    The policy is asked once for each decision that follows from its earlier
    actions and any moves of the others and of chance.

    Args:
      seat: Number of the seat.
      act: Function from the numbers of n decisions to the n actions there, -1 for
        an answer that ends the game.

    Returns:
      Numbers of the decisions that were asked for, in ascending order, int [R].
    """
    numbers, actions = self.decisions[seat].numbers, {}
    possible = np.concatenate([self._legal, self._chance > 0], axis=1)
    steps = np.arange(possible.shape[1])
    reached = np.zeros(len(numbers), bool)
    reached[0] = True
    for rows in self._levels:
      rows = rows[reached[rows]]
      turns = numbers[rows].tolist()
      new = np.array(sorted({*turns} - {-1} - actions.keys()), int)
      if len(new):
        actions |= zip(new.tolist(), act(new), strict=True)
      chosen = np.array([actions.get(turn, -1) for turn in turns], int)
      is_other = numbers[rows] < 0
      played = possible[rows] & (is_other[:, None] | (steps == chosen[:, None]))
      reached[self._targets[rows][played]] = True
    return np.array(sorted(actions), int)

  def reach(self, seat: int, policy: decisions_lib.SeatPolicy) -> np.ndarray:
    """Returns the probability that a game comes to each decision: float64 [D].

    It is the greater one of those against the random and the optimal opponents,
    and 0 only if no opponents can bring the decision about. A decision without
    probabilities is the last of its games.
    """
    play, numbers = self._play(seat, policy), self.decisions[seat].numbers
    result = np.zeros(len(policy.moves))
    for choices in (self._legal, self._best):
      if choices is not None:
        weights = self._weights(play, choices)
        _, reach = self._expected(play, weights, self._levels)
        reach = np.bincount(
          numbers[play.is_turn], reach[play.is_turn], len(result)
        )
        result = np.maximum(result, reach)
    return result

  def judge(
    self,
    seat: int,
    policy: decisions_lib.SeatPolicy,
    num_answers: np.ndarray | None = None,
  ) -> ExactVerdict:
    """Returns the exact results of a policy in a seat.

    Args:
      seat: Number of the seat.
      policy: Policy of the seat.
      num_answers: Number of sampled answers of which `policy` has the
        frequencies, 0 where it has the probabilities, int [D]; None for
        probabilities everywhere.

    Raises:
      ValueError: if the policy does not fit the decisions of the seat.
    """
    play = self._play(seat, policy)
    weights = self._weights(play, self._legal)
    possible = weights > 0
    levels = self._reached(possible)
    has_ending = np.any(play.ends[np.concatenate(levels)] > 0, axis=0)

    def expected(weights: np.ndarray) -> Expected:
      result, reach = self._expected(play, weights, levels)
      if num_answers is None or not num_answers.any():
        return result
      names = [*RATES, "return"]
      variances = self._variances(
        play, weights, levels, reach, self.decisions[seat].numbers, num_answers
      )
      return dataclasses.replace(
        result, variances=dict(zip(names, variances.tolist(), strict=True))
      )

    optimal, worst = None, None
    if self._best is not None:
      optimal = expected(self._weights(play, self._best))
      value, choices = self._worst(play, weights, levels)
      worst, _ = self._expected(play, self._weights(play, choices), levels)
      # Without the rounding of equally bad moves.
      worst = dataclasses.replace(worst, mean_return=value)
    lines, lines_lost = self._lines(play, possible, levels)
    return ExactVerdict(
      random=expected(weights),
      optimal=optimal,
      worst=worst,
      worst_ending=[e for e in RATES.values() if has_ending[e]][-1],
      lines=lines,
      lines_lost=lines_lost,
    )

  def _reached(self, possible: np.ndarray) -> list[np.ndarray]:
    """Returns the levels of states that possible steps, bool [N, W], reach."""
    reached = np.zeros(len(possible), bool)
    reached[0] = True
    for rows in self._levels:
      rows = rows[reached[rows]]
      reached[self._targets[rows][possible[rows]]] = True
    return [rows[reached[rows]] for rows in self._levels]

  def _reach(
    self, weights: np.ndarray, levels: Sequence[np.ndarray]
  ) -> np.ndarray:
    """Returns the probability of each state, given those of the steps: [N]."""
    reach = np.zeros(len(weights))
    reach[0] = 1
    for rows in levels:
      flow = reach[rows, None] * weights[rows]
      np.add.at(reach, self._targets[rows][flow > 0], flow[flow > 0])
    return reach

  def _play(self, seat: int, policy: decisions_lib.SeatPolicy) -> _Play:
    shape = len(self.decisions[seat]), self._legal.shape[1]
    if policy.moves.shape != shape or len(policy.ends) != len(policy.moves):
      raise ValueError(
        f"expected probabilities of shape {shape}, found {policy.moves.shape}"
      )
    numbers = self.decisions[seat].numbers
    turns, returns = np.flatnonzero(numbers >= 0), self._returns[:, seat]
    moves = np.zeros(self._legal.shape)
    moves[turns] = policy.moves[numbers[turns]]
    ends = np.zeros((len(numbers), len(Ending)))
    ends[turns] = policy.ends[numbers[turns]]
    ends[:, Ending.ILLEGAL] += np.where(self._legal, 0, moves).sum(axis=1)
    over = np.flatnonzero(self._to_act == game_lib.OVER)
    signs = np.sign(returns[over]).astype(int)
    tie = Ending.LOSS if len(self.decisions) == 1 else Ending.DRAW
    ends[over, np.array([Ending.LOSS, tie, Ending.WIN])[signs + 1]] = 1
    return _Play(
      is_turn=numbers >= 0,
      moves=np.where(self._legal, moves, 0),
      ends=ends,
      paid=np.where(numbers >= 0, self._low, returns) * ends.sum(axis=1),
    )

  def _weights(self, play: _Play, choices: np.ndarray) -> np.ndarray:
    """Returns the probability of each step from each state: float64 [N, W].

    Opponents draw uniformly from the mask `choices`, bool [N, A].
    """
    drawn = choices / np.maximum(choices.sum(axis=1, keepdims=True), 1)
    moves = np.where(play.is_turn[:, None], play.moves, drawn)
    return np.concatenate([moves, self._chance], axis=1)

  def _expected(
    self, play: _Play, weights: np.ndarray, levels: Sequence[np.ndarray]
  ) -> tuple[Expected, np.ndarray]:
    """Follows probabilities from the first level to the last.

    Returns the results, and the probability of each state, float64 [N].
    """
    reach = self._reach(weights, levels)
    rates, num_decisions = reach @ play.ends, float(reach @ play.is_turn)
    optimal_move_rate = None
    if self._best is not None:
      num_optimal = float(
        reach @ np.where(self._best, play.moves, 0).sum(axis=1)
      )
      optimal_move_rate = num_optimal / num_decisions if num_decisions else 0.0
    expected = Expected(
      rates={name: float(rates[ending]) for name, ending in RATES.items()},
      mean_return=float(reach @ play.paid),
      num_decisions=num_decisions,
      optimal_move_rate=optimal_move_rate,
    )
    return expected, reach

  def _variances(
    self,
    play: _Play,
    weights: np.ndarray,
    levels: Sequence[np.ndarray],
    reach: np.ndarray,
    numbers: np.ndarray,
    num_answers: np.ndarray,
  ) -> np.ndarray:
    """Returns the variances of the rates and the return: float64 [E + 1].

    A game asks for a decision at most once, so a result is linear in the
    frequencies of each decision, and its gradient is the sum over the decision's
    states of the probability to be there times the result of an answer. The
    frequencies of different decisions are independent multinomial variables
    (delta method). Four answers are added to each decision, two with its best
    and two with its worst result, so that few answers which agree do not count as
    certain (Agresti and Coull, 1998).
    """
    endings = [*RATES.values()]
    values = np.concatenate([play.ends[:, endings], play.paid[:, None]], axis=1)
    for rows in reversed(levels):
      after = values[self._targets[rows]]
      values[rows] += np.einsum("nw,nwk->nk", weights[rows], after)
    at_end = np.eye(len(endings), len(endings) + 1)
    at_end[:, -1] = self._low
    # First and second moments of the gradient at each decision.
    shape = len(num_answers), self._legal.shape[1] + len(endings), len(at_end.T)
    gradient = np.zeros(shape)
    odds = np.zeros(shape[:2])
    turns = np.flatnonzero(play.is_turn & (reach > 0))
    turns = turns[num_answers[numbers[turns]] > 0]
    after = values[self._targets[turns, : self._legal.shape[1]]]
    illegal = at_end[endings.index(Ending.ILLEGAL)]
    after = np.where(self._legal[turns][..., None], after, illegal)
    rows = np.concatenate(
      [after, np.broadcast_to(at_end, (len(turns), *at_end.shape))], axis=1
    )
    np.add.at(gradient, numbers[turns], reach[turns, None, None] * rows)
    odds[numbers[turns]] = np.concatenate(
      [play.moves[turns], play.ends[turns][:, endings]], axis=1
    )
    mean = np.einsum("da,dak->dk", odds, gradient)
    spread = np.einsum("da,dak->dk", odds, gradient**2) - mean**2
    # As if four more answers had half the best and half the worst results.
    widest = (gradient.max(axis=1) - gradient.min(axis=1)) ** 2 / 4
    count = np.maximum(num_answers, 1)[:, None]
    return ((count * spread + 4 * widest) / (count + 4) / count).sum(axis=0)

  def _worst(
    self, play: _Play, weights: np.ndarray, levels: Sequence[np.ndarray]
  ) -> tuple[float, np.ndarray]:
    """Returns the seat's expected return against its worst opponents.

    Also returns the mask of their moves, bool [N, A].
    """
    values, choices = play.paid.copy(), np.zeros(self._legal.shape, bool)
    is_opponent = (self._to_act >= 0) & ~play.is_turn
    for rows in reversed(levels):
      after = values[self._targets[rows]]
      values[rows] += (weights[rows] * after).sum(axis=1)
      legal = self._legal[rows]
      after = np.where(legal, after[:, : legal.shape[1]], np.inf)
      least = after.min(axis=1)
      values[rows] = np.where(is_opponent[rows], least, values[rows])
      choices[rows] = legal & (after <= least[:, None] + _TIE)
    return float(values[0]), choices

  def _lines(
    self, play: _Play, possible: np.ndarray, levels: Sequence[np.ndarray]
  ) -> list[int]:
    """Returns the number of lines and of lost lines."""

    def count(dtype: Any) -> np.ndarray:
      ends = play.ends > 0
      lines = np.stack([ends.sum(axis=1), ends[:, _LOST].sum(axis=1)], axis=1)
      lines = lines.astype(dtype)
      for rows in reversed(levels):
        after = lines[self._targets[rows]]
        lines[rows] += np.where(possible[rows, :, None], after, 0).sum(axis=1)
      return lines[0]

    lines = count(np.float64)
    # Python's integers have no limit, but are slow.
    return [int(n) for n in (lines if lines[0] < _EXACT else count(object))]
