"""From trajectories to rewards and advantages: pure functions, on the host.

Every reward is credited to the turn that earned it, so that it can be given to
whole games or to single turns. Beside those that a config weights there may be
others, functions that are given in Python.
"""

from collections.abc import Callable, Mapping
import functools
import hashlib
import inspect
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_directory

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory

_CENTER, _CORNERS = 4, (0, 2, 6, 8)
# What is given away by an answer that is no legal move: won to lost.
_WORST_REGRET = 2
# Values that are no further apart count as the same.
_SAME = 1e-6

# What B games of at most T turns earn, given on the host: float [B, T], credited
# to turns, or [B], credited to each game's last one. What it says of turns that
# were not played does not count.
Reward = Callable[[Trajectory], Any]
# Rewards by name, alone or with their weight, which is 1 otherwise.
Rewards = Mapping[str, Reward | tuple[Reward, float]]


class Given(NamedTuple):
  """A reward that was given in Python.

  Attributes:
    function: see `Reward`.
    weight: Weight of this reward in the sum.
  """

  function: Reward
  weight: float


def given(
  rewards: Rewards | None, config: config_lib.RewardsConfig
) -> dict[str, Given]:
  """Checks rewards that are given in Python, before anything is played.

  Args:
    rewards: what was given, if anything.
    config: the rewards beside them.

  Returns:
    Them and their weights, by name.

  Raises:
    errors.UserError: if there is a mistake in one, or there is no reward at all.
  """
  found = {name: _given(name, value) for name, value in (rewards or {}).items()}
  for name in found.keys() & config.weights.keys():
    raise errors.UserError(
      f"reward {name!r}: there is one of this name in the config's rewards;"
      " choose another"
    )
  if not found and not any(config.weights.values()):
    raise errors.UserError(
      "rewards: the weights of all rewards are 0; set at least one"
    )
  return found


def _given(name: str, value: Any) -> Given:
  function, weight = value if isinstance(value, tuple) else (value, 1.0)
  if not isinstance(name, str) or not name.isidentifier():
    raise errors.UserError(
      f"reward {name!r}: the name is a metric's; letters, digits and _ alone"
    )
  if not callable(function):
    raise errors.UserError(
      f"reward {name!r}: expected a function of games, or one and its weight,"
      f" found {value!r}"
    )
  if not isinstance(weight, int | float) or not math.isfinite(weight):
    raise errors.UserError(
      f"reward {name!r}: the weight must be a finite number, found {weight!r}"
    )
  return Given(function, float(weight))


def records(
  given: Mapping[str, Given],
) -> dict[str, run_directory.RewardRecord]:
  """Returns what a manifest says of rewards that were given in Python."""
  return {name: _record(*value) for name, value in given.items()}


def _record(function: Reward, weight: float) -> run_directory.RewardRecord:
  named: Any = function
  if not hasattr(function, "__qualname__"):
    named = type(function)
  try:
    source = hashlib.sha256(inspect.getsource(named).encode()).hexdigest()
  except (OSError, TypeError):
    source = None
  return run_directory.RewardRecord(
    function=named.__qualname__, weight=weight, source=source
  )


def earned(name: str, function: Reward, games: Trajectory) -> np.ndarray:
  """Returns what games earn by a reward that was given: float32 [B, T].

  Args:
    name: Name of the reward.
    function: the reward.
    games: B games of at most T turns, on the host.

  Raises:
    errors.UserError: if that is of another shape, or no finite numbers.
  """
  found = _asked(name, function, games)
  if not np.isfinite(found).all():
    game, turn = np.argwhere(~np.isfinite(found))[0].tolist()
    raise errors.UserError(
      f"reward {name!r}: must be a finite number, found {found[game, turn]} for"
      f" game {game}, turn {turn} of a batch, both from 0"
    )
  return found


def _asked(name: str, function: Reward, games: Trajectory) -> np.ndarray:
  """Returns a reward of the right shape, 0 where no turn was played."""
  played = np.asarray(games.turn_mask)
  # The function's own mistakes are best told by their traceback.
  answer = function(games)
  try:
    found = np.asarray(answer)
  except ValueError:
    found = np.asarray(None)
  if found.dtype.kind not in "biuf":
    raise errors.UserError(
      f"reward {name!r}: must return an array of numbers, found"
      f" {type(answer).__name__}"
    )
  found = found.astype(np.float32)
  if found.shape == played.shape[:1]:
    found = at_last_turn(games, found)
  if found.shape != played.shape:
    raise errors.UserError(
      f"reward {name!r}: of {len(played)} games of {played.shape[1]} turns it"
      f" must return an array of the shape {played.shape}, or"
      f" {played.shape[:1]} for whole games; found {found.shape}"
    )
  return np.where(played, found, np.float32(0))


def try_out(
  given: Mapping[str, Given], num_turns: int, max_new_tokens: int
) -> None:
  """Asks rewards about made-up games, so that a mistake costs nothing.

  Args:
    given: the rewards.
    num_turns: T, of a game at the most.
    max_new_tokens: Maximum number of tokens in an answer.

  Raises:
    errors.UserError: if what they return is of another shape.
  """
  games = trajectory_lib.made_up(num_turns, max_new_tokens)
  for name, (function, _) in given.items():
    _asked(name, function, games)


def at_last_turn(games: Trajectory, worth: np.ndarray) -> np.ndarray:
  """Credits what whole games are worth to their last turns.

  Args:
    games: B games of at most T turns, on the host.
    worth: float [B].

  Returns:
    float32 [B, T].
  """
  played = np.asarray(games.turn_mask)
  num_turns = played.sum(axis=1)
  credited = np.zeros(played.shape, np.float32)
  last = np.maximum(num_turns - 1, 0)
  credited[np.arange(len(played)), last] = np.where(num_turns > 0, worth, 0)
  return credited


def components(
  games: Trajectory,
  config: config_lib.RewardsConfig,
  max_new_tokens: int,
  given: Mapping[str, Given] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
  """Returns each reward that has a weight, times its weight.

  Args:
    games: B games of at most T turns, on the host.
    config: values and weights.
    max_new_tokens: Maximum number of tokens in an answer.
    given: rewards that were given in Python.

  Returns:
    float32 [B, T] by name; 0 where no turn was played.

  Raises:
    errors.UserError: see `earned`.
  """
  played = np.asarray(games.turn_mask)
  functions: dict[str, Callable[[], np.ndarray]] = {
    "outcome": lambda: outcome(games, config.outcome),
    "move_quality": lambda: move_quality(games, config.move_quality),
    "optimal_move": lambda: (regret(games) == 0).astype(np.float32),
    "regret": lambda: -regret(games),
    "format": lambda: (np.asarray(games.moves) >= 0).astype(np.float32),
    "length": lambda: (
      -np.asarray(games.action_mask).sum(axis=2) / max_new_tokens
    ),
  }
  found = {
    name: np.where(played, weight * functions[name](), 0).astype(np.float32)
    for name, weight in config.weights.items()
    if weight
  }
  for name, (function, weight) in given.items():
    found[name] = np.float32(weight) * earned(name, function, games)
  return found


def outcome(games: Trajectory, config: config_lib.OutcomeConfig) -> np.ndarray:
  """Outcome reward, at the last turn of each game: float32 [B, T]."""
  endings, played = np.asarray(games.ending), np.asarray(games.turn_mask)
  values = {
    Ending.WIN: config.win,
    Ending.DRAW: config.draw,
    Ending.LOSS: config.loss,
    Ending.ILLEGAL: config.illegal,
    Ending.PARSE_ERROR: config.parse_error,
    Ending.LENGTH: config.length,
    Ending.UNFINISHED: config.unfinished,
  }
  worth = np.zeros(len(endings), np.float32)
  for ending, value in values.items():
    worth[endings == ending] = value
  value = solver.solve().value[np.asarray(games.boards)]
  had_won = ((value == solver.WIN) & played).any(axis=1)
  worth[(endings == Ending.DRAW) & ~had_won] = config.forced_draw
  return at_last_turn(games, worth)


def move_quality(
  games: Trajectory, config: config_lib.MoveQualityConfig
) -> np.ndarray:
  """Heuristic move reward: float32 [B, T]."""
  boards, moves = np.asarray(games.boards), np.asarray(games.moves)
  values = [
    config.invalid,
    config.edge,
    config.corner,
    config.center,
    config.block,
    config.win,
  ]
  kinds = _move_kinds()[boards, np.maximum(moves, 0)]
  return np.array(values, np.float32)[np.where(moves < 0, 0, kinds)]


@functools.cache
def _move_kinds() -> np.ndarray:
  """Of every board and cell, an index of `move_quality`'s values: int8."""
  kinds = np.ones((rules.NUM_BOARDS, rules.NUM_CELLS), np.int8)
  kinds[:, _CORNERS] = 2
  kinds[:, _CENTER] = 3
  boards = np.arange(rules.NUM_BOARDS)[:, None]
  mine = rules.side_to_move()[:, None]
  for kind, mark in ((4, rules.X + rules.O - mine), (5, mine)):
    # The board if `mark` took the cell; taken cells are sorted out below.
    after = np.minimum(boards + mark * rules.POWERS, rules.NUM_BOARDS - 1)
    kinds[rules.winners()[after] == mark] = kind
  legal = rules.mask_to_bool(rules.legal_masks())
  return np.where(legal, kinds, 0)


def regret(games: Trajectory) -> np.ndarray:
  """Regret of each move by the solver: float32 [B, T], 0 to 2."""
  boards, moves = np.asarray(games.boards), np.asarray(games.moves)
  value = solver.solve().value
  after = rules.successors()[boards, np.maximum(moves, 0)]
  is_legal = (moves >= 0) & (after >= 0)
  # Values are for the side to move, which is the other one after a move.
  lost = value[boards] + value[np.maximum(after, 0)]
  return np.where(is_legal, lost, _WORST_REGRET).astype(np.float32)


def returns(rewards: np.ndarray, discount: float) -> np.ndarray:
  """Returns what is earned from each turn on: float32 [B, T].

  Args:
    rewards: float [B, T].
    discount: Discount factor of rewards one turn later.
  """
  found = np.array(rewards, np.float32)
  for turn in reversed(range(rewards.shape[1] - 1)):
    found[:, turn] += discount * found[:, turn + 1]
  return found


class _Moments(NamedTuple):
  """Statistics of sets of turns.

  Attributes:
    num_turns: Numbers of turns.
    mean: Means of their values.
    std: Standard deviations, with Bessel's correction.
    spread: Differences between the highest and the lowest value.
  """

  num_turns: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  spread: np.ndarray


def _moments(values: np.ndarray, members: np.ndarray) -> _Moments:
  """Returns the statistics of sets of games, turn by turn: [..., T].

  Args:
    values: float [..., N, T].
    members: bool [..., N, T], which games are in the set.
  """
  count = members.sum(axis=-2)
  mean = (values * members).sum(axis=-2) / np.maximum(count, 1)
  squares = np.where(members, values - mean[..., None, :], 0) ** 2
  highest = np.where(members, values, -np.inf).max(axis=-2)
  lowest = np.where(members, values, np.inf).min(axis=-2)
  return _Moments(
    count,
    mean,
    np.sqrt(squares.sum(axis=-2) / np.maximum(count - 1, 1)),
    highest - lowest,
  )


def turn_advantages(
  worth: np.ndarray,
  played: np.ndarray,
  boards: np.ndarray,
  num_generations: int,
  estimator: str,
  baseline: str = "board",
) -> tuple[np.ndarray, np.ndarray]:
  """Compares turns with others like them.

  A turn is compared with the first of these sets that has two turns or more,
  itself included:

  1. the turns of the same number in its group, on the same board;
  2. the turns of the same number in its group;
  3. the turns of the same number in the batch, of games with the same mark.

  With the baseline `turn` the first set is left out. Which set it is depends on
  what happened before the turn alone, so that it adds no bias. With the size
  n, mean m and standard deviation s (Bessel's) of the set's values, the
  advantage of a turn that is worth R is

      grpo:    (R - m) / (s + 1e-6)
      drgrpo:  R - m
      rloo:    (R - m) n / (n - 1), which is R less the mean of the others

  Args:
    worth: float [B, T], groups of `num_generations` games in a row.
    played: bool [B, T].
    boards: int [B, T], the boards that moves were made on.
    num_generations: games of a group.
    estimator: `grpo`, `drgrpo` or `rloo`, as Tunix's of whole games.
    baseline: `board` or `turn`.

  Returns:
    The advantages, float32 [B, T], 0 where there is no such set, and where the
    values of the set differ, bool [B, T].
  """
  shape = (-1, num_generations, worth.shape[1])
  values, mask, board = (a.reshape(shape) for a in (worth, played, boards))
  in_group = mask[:, :, None] & mask[:, None]
  peers = in_group
  if baseline == "board":
    on_board = in_group & (board[:, :, None] == board[:, None])
    has_peers = on_board.sum(axis=2, keepdims=True) > 1
    peers = np.where(has_peers, on_board, in_group)
  group = _moments(values[:, None], peers)

  is_o = (rules.side_to_move()[boards] == rules.O).astype(int)
  by_mark = _moments(worth, played & (is_o == np.arange(2)[:, None, None]))
  turns = np.arange(worth.shape[1])
  batch = (leaf[is_o, turns].reshape(shape) for leaf in by_mark)
  count, mean, std, spread = (
    np.where(group.num_turns > 1, ours, theirs)
    for ours, theirs in zip(group, batch, strict=True)
  )

  centered = np.where(mask & (count > 1), values - mean, 0)
  if estimator == "grpo":
    centered = centered / (std + 1e-6)
  elif estimator == "rloo":
    centered = centered * count / np.maximum(count - 1, 1)
  elif estimator != "drgrpo":
    raise ValueError(f"there is no advantage estimator {estimator!r}")
  differs = mask & (spread > _SAME)
  return (
    centered.reshape(worth.shape).astype(np.float32),
    differs.reshape(worth.shape),
  )


def with_signal(worth: np.ndarray, num_generations: int) -> np.ndarray:
  """Returns where the members of a group differ: bool, the shape of `worth`.

  Args:
    worth: float [B, T], groups of `num_generations` games in a row.
    num_generations: games of a group.
  """
  values = worth.reshape(-1, num_generations, worth.shape[1])
  spread = values.max(axis=1, keepdims=True) - values.min(axis=1, keepdims=True)
  return np.repeat(spread > _SAME, num_generations, axis=1).reshape(worth.shape)
