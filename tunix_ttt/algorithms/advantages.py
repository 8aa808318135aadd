"""Advantages of games and turns: pure NumPy functions on the host.

Estimators of whole games are Tunix's, looked up by name in its registry. A
turn is compared with turns like it, by the same three formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tunix.rl import function_registry

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt.games.tictactoe import rules

# Values that are no further apart count as equal.
_TOLERANCE = 1e-6


class Statistics(NamedTuple):
  """Statistics of the values that each turn is compared with.

  Attributes:
    num_values: Numbers of values.
    mean: Means of the values.
    std: Standard deviations, with Bessel's correction.
    spread: Differences between the highest and the lowest value.
  """

  num_values: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  spread: np.ndarray


# (values, statistics of what they are compared with) -> advantages; all arrays
# have the same shape.
Estimator = Callable[[np.ndarray, Statistics], np.ndarray]

ESTIMATORS: dict[str, Estimator] = {
  # Shao et al., 2024, section 4.1.2.
  "grpo": lambda values, peers: (values - peers.mean) / (peers.std + 1e-6),
  # Liu et al., 2025, section 3.2.
  "drgrpo": lambda values, peers: values - peers.mean,
  # Ahmadian et al., 2024: the value less the mean of the others.
  "rloo": lambda values, peers: (
    (values - peers.mean)
    * peers.num_values
    / np.maximum(peers.num_values - 1, 1)
  ),
}


def estimator(name: str) -> Estimator:
  """Returns the estimator of a name, or of `package.module:function`.

  Raises:
    errors.UserError: if there is no such function.
  """
  if name in ESTIMATORS:
    return ESTIMATORS[name]
  return custom.resolve(name, "grpo.advantage_estimator")


def advantages(
  rewards: np.ndarray,
  played: np.ndarray,
  boards: np.ndarray,
  config: config_lib.AlgorithmConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the advantage of each turn, and whether the turn is trained.

  A turn is left out of the loss where all that it is compared with earned the
  same.

  Args:
    rewards: float32 [B, T], groups of `num_generations` games in a row.
    played: bool [B, T], the turns that were played.
    boards: int32 [B, T], the boards that moves were made on.
    config: Settings of the algorithm.

  Returns:
    float32 [B, T] and bool [B, T].
  """
  size, name = config.num_generations, config.advantage_estimator
  if config.advantage_level == "turn":
    values, is_trained = turn_advantages(
      returns(rewards, config.discount),
      played,
      boards,
      size,
      estimator(name),
      config.turn_baseline,
    )
  else:
    totals = rewards.sum(axis=1, keepdims=True)
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


def returns(rewards: np.ndarray, discount: float) -> np.ndarray:
  """Returns the discounted sum of rewards from each turn on: float32 [B, T].

  Args:
    rewards: float [B, T].
    discount: Discount factor of rewards one turn later.
  """
  values = np.array(rewards, np.float32)
  for turn in reversed(range(rewards.shape[1] - 1)):
    values[:, turn] += discount * values[:, turn + 1]
  return values


def _statistics(values: np.ndarray, members: np.ndarray) -> Statistics:
  """Returns statistics of sets of games, turn by turn: [..., T].

  Args:
    values: float [..., N, T].
    members: bool [..., N, T], the games of each set.
  """
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
  boards: np.ndarray,
  num_generations: int,
  estimate: Estimator,
  baseline: str = "board",
) -> tuple[np.ndarray, np.ndarray]:
  """Compares each turn with turns like it.

  A turn is compared with the first of these sets that has at least two turns,
  itself included:

  1. the turns of the same number in its group, on the same board;
  2. the turns of the same number in its group;
  3. the turns of the same number in the batch, of games with the same mark.

  With the baseline `turn` the first set is left out. The set depends only on
  what happened before the turn, so it adds no bias.

  Args:
    values: float [B, T], groups of `num_generations` games in a row.
    played: bool [B, T], the turns that were played.
    boards: int [B, T], the boards that moves were made on.
    num_generations: Number of games in a group.
    estimate: Function of the values and the statistics of their sets.
    baseline: `board` or `turn`.

  Returns:
    The advantages, float32 [B, T], 0 without such a set, and where the values
    of the set differ, bool [B, T].
  """
  shape = (-1, num_generations, values.shape[1])
  grouped, mask, board = (a.reshape(shape) for a in (values, played, boards))
  in_group = mask[:, :, None] & mask[:, None]
  peers = in_group
  if baseline == "board":
    on_board = in_group & (board[:, :, None] == board[:, None])
    has_peers = on_board.sum(axis=2, keepdims=True) > 1
    peers = np.where(has_peers, on_board, in_group)
  group = _statistics(grouped[:, None], peers)

  is_o = (rules.side_to_move()[boards] == rules.O).astype(int)
  by_mark = _statistics(values, played & (is_o == np.arange(2)[:, None, None]))
  turns = np.arange(values.shape[1])
  batch = (leaf[is_o, turns].reshape(shape) for leaf in by_mark)
  compared = Statistics(
    *(
      np.where(group.num_values > 1, of_group, of_batch)
      for of_group, of_batch in zip(group, batch, strict=True)
    )
  )
  has_set = mask & (compared.num_values > 1)
  estimates = np.where(has_set, estimate(grouped, compared), 0)
  differs = mask & (compared.spread > _TOLERANCE)
  return (
    estimates.reshape(values.shape).astype(np.float32),
    differs.reshape(values.shape),
  )


def differs_in_group(values: np.ndarray, num_generations: int) -> np.ndarray:
  """Returns where the members of a group differ: bool, the shape of `values`.

  Args:
    values: float [B, T], groups of `num_generations` games in a row.
    num_generations: Number of games in a group.
  """
  grouped = values.reshape(-1, num_generations, values.shape[1])
  highest = grouped.max(axis=1, keepdims=True)
  spread = highest - grouped.min(axis=1, keepdims=True)
  return np.repeat(spread > _TOLERANCE, num_generations, axis=1).reshape(
    values.shape
  )
