"""Exact results of a policy in any game whose states can be enumerated.

A game meets each state at most once, so expected results follow from one pass
over the states, and the worst that opponents can do from another.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
  """Expected results against one kind of opponent.

  Attributes:
    rates: Probability of each ending, by its name in `trajectory.RATES`.
    mean_return: Expected return of the seat.
    num_decisions: Expected number of decisions in a game.
    optimal_move_rate: Expected number of optimal decisions over
      `num_decisions`, 0 without decisions; None where information is hidden.
  """

  rates: Mapping[str, float]
  mean_return: float
  num_decisions: float
  optimal_move_rate: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactVerdict:
  """Exact results of a policy in one seat.

  A win, a draw or a loss is the sign of the seat's return.

  Attributes:
    random: Results against opponents that play all legal moves with equal
      probability.
    optimal: Results against opponents that play all optimal moves with equal
      probability; None where information is hidden.
    worst: Least expected return that opponents can bring about together; None
      where information is hidden.
    worst_ending: Worst `Ending` of any line, in the order of `RATES`.
    lines: Number of distinct games, sequences of everyone's moves and outcomes
      of chance, that any opponents can bring about.
    lines_lost: Number of lines that end in a loss, an illegal move, an
      unreadable answer or a truncation.
  """

  random: Expected
  optimal: Expected | None
  worst: float | None
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
    self.graph = graph = game.graph
    self._levels = solve.topological_levels(game.game, graph)
    self.decisions = decisions_lib.enumerate_decisions(
      game.game, game.text, graph
    )
    self.solution, self._best, self._low = None, None, game.low
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

  def judge(self, seat: int, policy: decisions_lib.SeatPolicy) -> ExactVerdict:
    """Returns the exact results of a policy in a seat.

    Raises:
      ValueError: if the policy does not fit the decisions of the seat.
    """
    play = self._play(seat, policy)
    weights = self._weights(play, self._legal)
    possible = weights > 0
    reached = np.zeros(len(weights), bool)
    reached[0] = True
    for rows in self._levels:
      rows = rows[reached[rows]]
      reached[self._targets[rows][possible[rows]]] = True
    levels = [rows[reached[rows]] for rows in self._levels]
    has_ending = np.any(play.ends[reached] > 0, axis=0)
    optimal, worst = None, None
    if self._best is not None:
      optimal = self._expected(play, self._weights(play, self._best), levels)
      worst = self._worst(play, weights, levels)
    lines, lines_lost = self._lines(play, possible, levels)
    return ExactVerdict(
      random=self._expected(play, weights, levels),
      optimal=optimal,
      worst=worst,
      worst_ending=[e for e in RATES.values() if has_ending[e]][-1],
      lines=lines,
      lines_lost=lines_lost,
    )

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
  ) -> Expected:
    """Follows probabilities from the first level to the last."""
    reach = np.zeros(len(weights))
    reach[0] = 1
    for rows in levels:
      flow = reach[rows, None] * weights[rows]
      np.add.at(reach, self._targets[rows][flow > 0], flow[flow > 0])
    rates, num_decisions = reach @ play.ends, float(reach @ play.is_turn)
    optimal_move_rate = None
    if self._best is not None:
      num_optimal = float(
        reach @ np.where(self._best, play.moves, 0).sum(axis=1)
      )
      optimal_move_rate = num_optimal / num_decisions if num_decisions else 0.0
    return Expected(
      rates={name: float(rates[ending]) for name, ending in RATES.items()},
      mean_return=float(reach @ play.paid),
      num_decisions=num_decisions,
      optimal_move_rate=optimal_move_rate,
    )

  def _worst(
    self, play: _Play, weights: np.ndarray, levels: Sequence[np.ndarray]
  ) -> float:
    """Returns the seat's expected return against its worst opponents."""
    values = play.paid.copy()
    is_opponent = (self._to_act >= 0) & ~play.is_turn
    for rows in reversed(levels):
      after = values[self._targets[rows]]
      values[rows] += (weights[rows] * after).sum(axis=1)
      least = np.where(weights[rows] > 0, after, np.inf).min(axis=1)
      values[rows] = np.where(is_opponent[rows], least, values[rows])
    return float(values[0])

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
