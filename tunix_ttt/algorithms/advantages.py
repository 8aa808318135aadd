"""Advantages of games and turns, in NumPy on the host.

Estimators of whole games come from Tunix's registry. Estimators of turns apply
the same formulas to similar turns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from tunix.rl import function_registry

from tunix_ttt import config as config_lib
from tunix_ttt import custom

# Values within this distance count as equal.
_TOLERANCE = 1e-6


class Statistics(NamedTuple):
  """Statistics of each turn's peers.

  `std` has Bessel's correction; `spread` is the highest minus the lowest value.
  """

  num_values: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  spread: np.ndarray


# (values, statistics of their peers) -> advantages, all of the same shape.
Estimator = Callable[[np.ndarray, Statistics], np.ndarray]

ESTIMATORS: dict[str, Estimator] = {
  # Shao et al., 2024, section 4.1.2.
  "grpo": lambda values, peers: (values - peers.mean) / (peers.std + 1e-6),
  # Liu et al., 2025, section 3.2.
  "drgrpo": lambda values, peers: values - peers.mean,
  # Ahmadian et al., 2024: the mean of the other values is the baseline.
  "rloo": lambda values, peers: (
    (values - peers.mean)
    * peers.num_values
    / np.maximum(peers.num_values - 1, 1)
  ),
}


def estimator(name: str) -> Estimator:
  """Returns an estimator by its name or by `package.module:function`.

  Raises:
    errors.UserError: if the function does not exist.
  """
  if name in ESTIMATORS:
    return ESTIMATORS[name]
  return custom.resolve(name, "grpo.advantage_estimator")


def advantages(
  rewards: np.ndarray,
  played: np.ndarray,
  positions: np.ndarray,
  seats: np.ndarray,
  config: config_lib.AlgorithmConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns advantages and the mask of trained turns.

  A turn is not trained if all of its peers earned the same value. All arrays
  are [B, T], in consecutive groups of `num_generations` games: float32
  `rewards`, the mask of `played` turns, numbers of the `positions` before each
  move, equal for equal ones, and the `seats` of the model, int.
  """
  size, name = config.num_generations, config.advantage_estimator
  if config.advantage_level == "turn":
    values, is_trained = turn_advantages(
      returns(rewards, config.discount),
      played,
      positions,
      seats,
      size,
      estimator(name),
      config.turn_baseline,
    )
  else:
    totals = episode_totals(rewards, played, size)
    if name in ESTIMATORS:
      estimate = function_registry.get_advantage_estimator(name)
      games = np.asarray(estimate(totals[:, 0], size))[:, None]
    else:
      grouped = totals.reshape(-1, 1, size, 1)
      peers = _statistics(grouped, np.ones(grouped.shape, bool))
      games = estimator(name)(grouped[:, 0], peers).reshape(-1, 1)
    values = np.where(played, games, 0).astype(np.float32)
    is_trained = differs_in_group(totals, size) & played
  return np.maximum(values, 0) if config.positive_only else values, is_trained


def without_worse(
  is_trained: np.ndarray, advantages: np.ndarray, tried: Any
) -> np.ndarray:
  """Returns the mask of trained turns without the worse ones that were tried.

  A tried answer is unlikely, so training needs to raise it if it is better, but
  would gain nothing by lowering it. All arrays are [B, T]; `tried` may be None.
  """
  return (
    is_trained if tried is None else is_trained & ~(tried & (advantages < 0))
  )


def episode_totals(
  rewards: np.ndarray, played: np.ndarray, num_generations: int
) -> np.ndarray:
  """Returns the sum of each game's rewards, float32 [B, 1].

  A game that ended before its seat's first turn has the mean of its group, so
  that it neither is an example nor moves the baseline.
  """
  totals = rewards.sum(axis=1, keepdims=True)
  has_turns = played.any(axis=1, keepdims=True)
  if has_turns.all():
    return totals
  grouped, mask = (
    array.reshape(-1, num_generations) for array in (totals, has_turns)
  )
  count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
  mean = (grouped * mask).sum(axis=1, keepdims=True) / count
  filled = np.where(mask, grouped, mean)
  return filled.reshape(totals.shape).astype(np.float32)


def returns(rewards: np.ndarray, discount: float) -> np.ndarray:
  """Returns the discounted return of each turn, float32 [B, T]."""
  values = np.array(rewards, np.float32)
  for turn in reversed(range(rewards.shape[1] - 1)):
    values[:, turn] += discount * values[:, turn + 1]
  return values


def _statistics(values: np.ndarray, members: np.ndarray) -> Statistics:
  """Returns statistics [..., T] over the `members` of values [..., N, T]."""
  count = members.sum(axis=-2)
  mean = (values * members).sum(axis=-2) / np.maximum(count, 1)
  squares = np.where(members, values - mean[..., None, :], 0) ** 2
  highest = np.where(members, values, -np.inf).max(axis=-2)
  lowest = np.where(members, values, np.inf).min(axis=-2)
  return Statistics(
    count,
    mean,
    np.sqrt(squares.sum(axis=-2) / np.maximum(count - 1, 1)),
    highest - lowest,
  )


def turn_advantages(
  values: np.ndarray,
  played: np.ndarray,
  positions: np.ndarray,
  seats: np.ndarray,
  num_generations: int,
  estimate: Estimator,
  baseline: str = "board",
) -> tuple[np.ndarray, np.ndarray]:
  """Returns advantages relative to each turn's peers.

  The peers are the first of these sets with at least two turns, which include
  the turn itself:

  1. turns with the same index and position in the group;
  2. turns with the same index in the group;
  3. turns with the same index and the same seat in the batch.

  The baseline `turn` skips the first set, and `state` replaces it by the turns
  with the same position in the batch. Peers depend only on what happened before
  the turn, so the baseline adds no bias, with one exception: where `state` finds
  that all moves on a position earned the same, less than the mean of the batch,
  their peers are all turns of the batch. Otherwise a mistake that is always made
  would never be trained.

  Args:
    values: float [B, T], in consecutive groups of `num_generations` games.
    played: bool [B, T], mask of played turns.
    positions: int [B, T], numbers of the positions before each move.
    seats: int [B, T], seats of the model.
    num_generations: Number of games in a group.
    estimate: Function of the values and the statistics of their peers.
    baseline: `board`, `turn` or `state`.

  Returns:
    Advantages float32 [B, T], 0 without peers, and a mask bool [B, T] of turns
    whose peers have different values.
  """
  shape = (-1, num_generations, values.shape[1])
  arrays = (values, played, positions)
  grouped, mask, position = (array.reshape(shape) for array in arrays)
  in_group = mask[:, :, None] & mask[:, None]
  peers = in_group
  if baseline == "board":
    is_equal = in_group & (position[:, :, None] == position[:, None])
    has_equal_peers = is_equal.sum(axis=2, keepdims=True) > 1
    peers = np.where(has_equal_peers, is_equal, in_group)
  group = _statistics(grouped[:, None], peers)

  every = np.arange(seats.max() + 1)[:, None, None]
  by_seat = _statistics(values, played & (seats == every))
  turns = np.arange(values.shape[1])
  batch = Statistics(*(leaf[seats, turns].reshape(shape) for leaf in by_seat))
  statistics = _where(group.num_values > 1, group, batch)
  if baseline == "state":
    equal, every_turn = (
      Statistics(*(leaf.reshape(shape) for leaf in _by_label(values, labels)))
      for labels in (np.where(played, positions, -1), played.astype(int))
    )
    statistics = _where(equal.num_values > 1, equal, statistics)
    is_same = (equal.num_values > 1) & (equal.spread <= _TOLERANCE)
    is_worse = grouped < every_turn.mean - _TOLERANCE
    statistics = _where(is_same & is_worse, every_turn, statistics)
  has_peers = mask & (statistics.num_values > 1)
  estimates = np.where(has_peers, estimate(grouped, statistics), 0)
  differs = mask & (statistics.spread > _TOLERANCE)
  return (
    estimates.reshape(values.shape).astype(np.float32),
    differs.reshape(values.shape),
  )


def _where(
  mask: np.ndarray, first: Statistics, second: Statistics
) -> Statistics:
  """Returns the first statistics inside of a mask, and the second outside."""
  pairs = zip(first, second, strict=True)
  return Statistics(*(np.where(mask, one, other) for one, other in pairs))


def _by_label(values: np.ndarray, labels: np.ndarray) -> Statistics:
  """Returns statistics over the values with the same label, [...] as both."""
  inverse = np.unique(labels, return_inverse=True)[1].ravel()
  count, flat = np.bincount(inverse), values.ravel().astype(np.float64)
  mean = np.bincount(inverse, flat) / count
  squares = np.bincount(inverse, (flat - mean[inverse]) ** 2)
  highest, lowest = np.full(len(count), -np.inf), np.full(len(count), np.inf)
  np.maximum.at(highest, inverse, flat)
  np.minimum.at(lowest, inverse, flat)
  every = (
    count,
    mean,
    np.sqrt(squares / np.maximum(count - 1, 1)),
    highest - lowest,
  )
  return Statistics(*(leaf[inverse].reshape(values.shape) for leaf in every))


def differs_in_group(values: np.ndarray, num_generations: int) -> np.ndarray:
  """Returns a mask bool [B, T] of groups whose values [B, T] differ."""
  grouped = values.reshape(-1, num_generations, values.shape[1])
  differs = np.ptp(grouped, axis=1) > _TOLERANCE
  return np.repeat(differs, num_generations, axis=0)
