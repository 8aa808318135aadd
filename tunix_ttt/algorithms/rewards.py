"""Rewards of trajectories, in NumPy on the host.

Each reward is credited to a turn, for training on whole games or single turns.
Custom rewards are Python functions that supplement the config's rewards.
"""

import collections
from collections.abc import Callable, Mapping
import inspect
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import custom as custom_lib
from tunix_ttt import errors
from tunix_ttt.games import definition
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_manifest

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
Decode = trajectory_lib.Decode

# (B games of at most T turns, on the host) -> float [B, T], credited to turns,
# or [B], credited to the last turn of each game. Values of unplayed turns are
# ignored. A parameter `texts` receives the model's answers, a list of B lists
# of T strings, "" for unplayed turns.
Reward = Callable[..., Any]
# Rewards by name, optionally with a weight (1 by default).
Rewards = Mapping[str, Reward | tuple[Reward, float]]


class CustomReward(NamedTuple):
  """A reward function and its weight in the sum of rewards."""

  function: Reward
  weight: float


CustomRewards = Mapping[str, CustomReward]
NO_CUSTOM_REWARDS: CustomRewards = MappingProxyType({})


def custom_rewards(
  rewards: Rewards | None, config: config_lib.RewardsConfig
) -> dict[str, CustomReward]:
  """Returns checked reward functions from arguments and from the config.

  Raises:
    errors.UserError: if a name or weight is invalid, or all weights are 0.
  """
  functions: dict[str, Any] = {
    name: custom_lib.resolve(function, f"rewards.custom.{name}")
    for name, function in config.custom.items()
  }
  names = collections.Counter([*config.weights, *functions, *(rewards or {})])
  for name, count in names.items():
    if count > 1:
      raise errors.UserError(
        f"reward {name!r} already exists in the config; rename your function"
      )
  functions |= rewards or {}
  checked = {name: _custom(name, value) for name, value in functions.items()}
  if not checked and not any(config.weights.values()):
    raise errors.UserError(
      "rewards: the weights of all rewards are 0; set at least one"
    )
  return checked


def _custom(name: str, value: Any) -> CustomReward:
  function, weight = value if isinstance(value, tuple) else (value, 1.0)
  if not isinstance(name, str) or not name.isidentifier():
    raise errors.UserError(
      f"reward {name!r}: invalid name; use letters, digits and _"
    )
  if not callable(function):
    raise errors.UserError(
      f"reward {name!r}: expected a function of games, or a function and its"
      f" weight, found {value!r}"
    )
  if not isinstance(weight, int | float) or not math.isfinite(weight):
    raise errors.UserError(
      f"reward {name!r}: the weight must be a finite number, found {weight!r}"
    )
  return CustomReward(function, float(weight))


def records(custom: CustomRewards) -> dict[str, run_manifest.RewardRecord]:
  """Returns the manifest's records of custom rewards, with source digests."""
  return {
    name: run_manifest.RewardRecord(
      function=custom_lib.definition(function).__qualname__,
      weight=weight,
      source=custom_lib.digest(function),
    )
    for name, (function, weight) in custom.items()
  }


def evaluate_custom(
  name: str, function: Reward, games: Trajectory, decode: Decode = str
) -> np.ndarray:
  """Evaluates a custom reward on B games of at most T turns: float32 [B, T].

  Raises:
    errors.UserError: if the result has a wrong shape or is not finite.
  """
  values = _checked_shape(name, function, games, decode)
  if not np.isfinite(values).all():
    game, turn = np.argwhere(~np.isfinite(values))[0].tolist()
    raise errors.UserError(
      f"reward {name!r}: must be a finite number, found {values[game, turn]} for"
      f" game {game}, turn {turn} of a batch (counted from 0)"
    )
  return values


def _checked_shape(
  name: str, function: Reward, games: Trajectory, decode: Decode
) -> np.ndarray:
  """Returns a reward float32 [B, T], 0 for unplayed turns."""
  played = np.asarray(games.turn_mask)
  try:
    takes_texts = "texts" in inspect.signature(function).parameters
  except ValueError:
    # Some compiled functions have no signature.
    takes_texts = False
  # Errors of the function keep their traceback.
  texts = (
    {"texts": trajectory_lib.answer_texts(games, decode)} if takes_texts else {}
  )
  result = function(games, **texts)
  try:
    values = np.asarray(result)
  except ValueError:
    values = np.asarray(None)
  if values.dtype.kind not in "biuf":
    raise errors.UserError(
      f"reward {name!r}: must return an array of numbers, found"
      f" {type(result).__name__}"
    )
  values = values.astype(np.float32)
  if values.shape == played.shape[:1]:
    values = at_last_turn(games, values)
  if values.shape != played.shape:
    raise errors.UserError(
      f"reward {name!r}: must return an array [games, turns], here of the shape"
      f" {played.shape}, or {played.shape[:1]} for whole games; found"
      f" {values.shape}"
    )
  return np.where(played, values, np.float32(0))


def check(
  game: definition.Definition,
  config: config_lib.RewardsConfig,
  custom: CustomRewards,
  num_turns: int,
  max_new_tokens: int,
) -> None:
  """Evaluates rewards on dummy games, to report errors early.

  Raises:
    errors.UserError: if a reward is not for the game, or a custom one is wrong.
  """
  games = trajectory_lib.dummy_trajectory(game, num_turns, max_new_tokens)
  for name in ("optimal_move", "regret"):
    if config.weights[name]:
      game.require_solution(f"rewards.{name}_weight")
  moves = np.asarray(games.moves)
  if config.move_quality.weight and (
    game.move_kinds(games.states, moves) is None
  ):
    raise errors.UserError(
      f"rewards.move_quality: {game.name} has no kinds of moves; remove its"
      " weight"
    )
  if config.thought_weight and game.thought_truth is None:
    raise errors.UserError(
      f"rewards.thought_weight: thoughts of {game.name} cannot be judged, or"
      " data.games.thoughts is none; remove the weight"
    )
  for name, (function, _) in custom.items():
    _checked_shape(name, function, games, lambda ids: "")


def at_last_turn(games: Trajectory, values: np.ndarray) -> np.ndarray:
  """Credits values [B] of games to their last turns: float32 [B, T]."""
  played = np.asarray(games.turn_mask)
  num_turns = played.sum(axis=1)
  credited = np.zeros(played.shape, np.float32)
  last = np.maximum(num_turns - 1, 0)
  credited[np.arange(len(played)), last] = np.where(num_turns > 0, values, 0)
  return credited


def components(
  game: definition.Definition,
  games: Trajectory,
  config: config_lib.RewardsConfig,
  max_new_tokens: int,
  custom: CustomRewards = NO_CUSTOM_REWARDS,
  decode: Decode = str,
) -> dict[str, np.ndarray]:
  """Returns the weighted rewards float32 [B, T] of B games on the host, by name.

  Values of unplayed turns are 0. Rewards of weight 0 are left out. `decode` maps
  token ids to text, for rewards on texts.

  Raises:
    errors.UserError: if a custom reward has a wrong shape or is not finite.
  """
  played = np.asarray(games.turn_mask)
  functions: dict[str, Callable[[], np.ndarray]] = {
    "outcome": lambda: outcome(game, games, config.outcome),
    "return": lambda: at_last_turn(
      games, game.returns(games.state, np.asarray(games.ending))
    ),
    "move_quality": lambda: move_quality(game, games, config.move_quality),
    "optimal_move": lambda: (regret(game, games) == 0).astype(np.float32),
    "regret": lambda: -regret(game, games),
    "thought": lambda: true_thoughts(game, games, decode),
    "format": lambda: (np.asarray(games.moves) >= 0).astype(np.float32),
    "length": lambda: (
      -np.asarray(games.action_mask).sum(axis=2) / max_new_tokens
    ),
  }
  rewards = {
    name: np.where(played, weight * functions[name](), 0).astype(np.float32)
    for name, weight in config.weights.items()
    if weight
  }
  for name, (function, weight) in custom.items():
    values = evaluate_custom(name, function, games, decode)
    rewards[name] = np.float32(weight) * values
  return rewards


def total(games: Trajectory, rewards: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the sum of the rewards of `components`: float32 [B, T]."""
  return sum(rewards.values(), np.zeros(games.turn_mask.shape, np.float32))


def outcome(
  game: definition.Definition,
  games: Trajectory,
  config: config_lib.OutcomeConfig,
) -> np.ndarray:
  """Returns the outcome reward float32 [B, T], at each game's last turn."""
  endings, played = np.asarray(games.ending), np.asarray(games.turn_mask)
  rewards = np.zeros(len(endings), np.float32)
  for ending in set(Ending) - {Ending.ONGOING}:
    rewards[endings == ending] = getattr(config, ending.name.lower())
  if not game.unsolved:
    was_ahead = (game.is_ahead(games.states) & played).any(axis=1)
    rewards[(endings == Ending.DRAW) & ~was_ahead] = config.forced_draw
  return at_last_turn(games, rewards)


def move_quality(
  game: definition.Definition,
  games: Trajectory,
  config: config_lib.MoveQualityConfig,
) -> np.ndarray:
  """Returns the heuristic reward [B, T]: win > block > center > corner > edge."""
  kinds = game.move_kinds(games.states, np.asarray(games.moves))
  names = ("invalid", "edge", "corner", "center", "block", "win")
  values = np.array([getattr(config, name) for name in names], np.float32)
  return values[kinds]


def regret(game: definition.Definition, games: Trajectory) -> np.ndarray:
  """Returns the regret of each move of a solved game, float32 [B, T]."""
  return game.regret(games.states, np.asarray(games.moves))


def true_thoughts(
  game: definition.Definition, games: Trajectory, decode: Decode
) -> np.ndarray:
  """Returns 1 for each answer whose thought states a true reason, [B, T]."""
  return trajectory_lib.thought_truths(game, games, decode) == 1
