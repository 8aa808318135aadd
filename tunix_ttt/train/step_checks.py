"""Checks of training steps for mistakes that raise no error.

Each compares what is trained with what was played, or the games of a group with each
other. The page `docs/silent_failures.md` has a section on each, by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import custom as custom_lib
from tunix_ttt import streams
from tunix_ttt.games import definition
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import tokenizers

Ending = trajectory_lib.Ending
PAGE = "docs/silent_failures.md"
# Largest mean difference between the log-probabilities of sampler and trainer, for
# weights of 32 bits and for fewer.
_LOG_RATIO, _LOG_RATIO_OF_BFLOAT16 = 1e-3, 0.05
# Games of a step whose prompts are tokenized again.
_PROMPTS = 8
# Logarithm of a probability that is no chance.
_IMPOSSIBLE = -25.0
# Share of the first step's entropy or length below which a policy has collapsed.
_COLLAPSED = 0.05
_BROKEN = (Ending.ILLEGAL, Ending.PARSE_ERROR)


class Step(NamedTuple):
  """A training step of B games of at most T turns, on the host.

  Attributes:
    number: Number of the step, counted from 0.
    config: Settings of the run.
    game: Game of the run.
    tokenizer: Tokenizer of the model.
    dtype: Type of the model's computation; None if it is a service's.
    begin: Function from B states to the first prompts: tokens and mask [B, L].
    games: The games.
    sequences: Their token sequences.
    batch: The loss's batch.
    rewards: Rewards of turns, float32 [B, T].
    is_trained: Mask of trained turns, bool [B, T].
    metrics: Metrics of the step.
    first: Metrics of the first step that trained something.
  """

  number: int
  config: config_lib.GRPOConfig
  game: definition.Definition
  tokenizer: tokenizers.Tokenizer
  dtype: str | None
  begin: Callable[[Any], tuple[jax.Array, jax.Array]]
  games: trajectory_lib.Trajectory
  sequences: trajectory_lib.Sequences
  batch: Any
  rewards: np.ndarray
  is_trained: np.ndarray
  metrics: Mapping[str, float]
  first: Mapping[str, float]

  @property
  def sampled(self) -> np.ndarray:
    """Mask of the sampled tokens of trained turns, bool [B, T, A]."""
    return np.asarray(self.games.action_mask) & self.is_trained[..., None]

  @property
  def trained(self) -> np.ndarray:
    """Mask of the trained tokens of the batch, bool [N, L]."""
    return np.asarray(self.batch.completion_mask)

  @property
  def group_size(self) -> int:
    """Number of games in a group."""
    return self.config.grpo.num_generations


def _mask(step: Step) -> str | None:
  more = int(step.trained.sum()) - int(step.sampled.sum())
  if more > 0:
    return f"{more:,} tokens that the model did not sample are in the loss"
  if more < 0:
    return f"{-more:,} tokens that the model sampled are missing in the loss"
  return None


def _tokens(step: Step) -> str | None:
  trained = np.asarray(step.batch.completion_ids)[step.trained]
  sampled = np.asarray(step.games.actions)[step.sampled]
  if trained.shape != sampled.shape:
    return None
  wrong = np.flatnonzero(trained != sampled)
  if not len(wrong):
    return None
  first, decode = wrong[0], step.tokenizer.decode
  return (
    f"{len(wrong):,} of {len(trained):,} trained tokens are not those that the model"
    f" sampled, such as {decode([int(trained[first])])!r} in place of"
    f" {decode([int(sampled[first])])!r}; was the text tokenized again?"
  )


def _log_probs(step: Step) -> str | None:
  if step.batch.sampler_is_weights is not None:
    return None
  old = np.asarray(step.batch.old_per_token_logps)[step.trained]
  sampled = np.asarray(step.games.log_probs)[step.sampled]
  if old.shape != sampled.shape or np.allclose(old, sampled):
    return None
  wrong = float(np.mean(~np.isclose(old, sampled)))
  return (
    f"{wrong:.0%} of the log-probabilities are not those of their tokens; are they"
    " shifted by one?"
  )


def _prompt(step: Step) -> str | None:
  if not step.is_trained[:, 0].any():
    return None
  rows_per_game = len(step.sequences.tokens) // len(step.is_trained)
  # Padded, since each number of games is compiled.
  numbers = np.resize(np.flatnonzero(step.is_trained[:, 0]), _PROMPTS)
  states = jax.tree.map(lambda leaf: leaf[numbers, 0], step.games.states)
  for n, *prompt in zip(
    numbers, *jax.device_get(step.begin(states)), strict=True
  ):
    expected = prompt[0][prompt[1]].tolist()
    row = int(n) * rows_per_game
    start = int(np.argmax(step.sequences.action_mask[row]))
    tokens = np.asarray(step.sequences.tokens[row])[:start].tolist()
    if tokens != expected:
      return (
        f"game {n}: {len(tokens)} tokens are before the first answer, where the model"
        f" saw {len(expected)}; was the first observation dropped?"
      )
  return None


def _groups(values: Any, size: int) -> np.ndarray:
  values = np.asarray(values)
  return values.reshape(-1, size, *values.shape[1:])


def _clones(step: Step) -> str | None:
  size = step.group_size
  tokens = np.where(step.games.action_mask, step.games.actions, -1)
  tokens = _groups(tokens, size).reshape(-1, size, tokens[0].size)
  log_probs = np.asarray(step.games.log_probs)
  if step.games.sampled_mass is not None:
    # Of what could be sampled.
    mass = np.asarray(step.games.sampled_mass)
    log_probs = log_probs - np.log(np.where(mass > 0, mass, 1))
  if step.games.tried is not None:
    log_probs = np.where(np.asarray(step.games.tried)[..., None], 0, log_probs)
  score = _groups(log_probs, size)[:, 0].sum(axis=(1, 2))
  is_same = (tokens == tokens[:, :1]).all(axis=(1, 2))
  is_cloned = is_same & ((size - 1) * score < _IMPOSSIBLE)
  if not is_cloned.any():
    return None
  chance = (size - 1) * float(score[is_cloned].min()) / np.log(10)
  return (
    f"{int(is_cloned.sum())} of {len(score)} groups have {size} times the same game,"
    f" of which one has a chance of 1 in 10^{-chance:.0f}; do its games share a seed?"
  )


def _shares_luck(config: config_lib.GRPOConfig) -> bool:
  """Returns whether the games of a group have the same start and opponent."""
  return (
    config.episodes.opponent_seed == "group"
    and config.episodes.num_agents == 1
    and not config.opponents.has_past_weights
  )


def _replies(
  step: Step, positions: np.ndarray, chosen: np.ndarray
) -> dict[int, dict[int, set[int]]]:
  """Returns the positions after first moves, by the move and then the group.

  `positions` are their numbers, int [B, T], and `chosen` is a mask of games, bool [B].
  """
  moves, played = np.asarray(step.games.moves), np.asarray(step.games.turn_mask)
  replies: dict[int, dict[int, set[int]]] = {}
  if played.shape[1] > 1:
    for n in np.flatnonzero(chosen & played[:, 1]).tolist():
      of_move = replies.setdefault(int(moves[n, 0]), {})
      after = of_move.setdefault(n // step.group_size, set())
      after.add(int(positions[n, 1]))
  return replies


def _luck(step: Step) -> str | None:
  if not _shares_luck(step.config):
    return None
  positions = step.game.position_numbers(step.games.states)
  starts = _groups(positions[:, 0], step.group_size)
  if (starts != starts[:, :1]).any():
    return "games of a group start in different positions"
  replies = _replies(step, positions, np.ones(len(positions), bool))
  groups = [
    group
    for of_move in replies.values()
    for group, after in of_move.items()
    if len(after) > 1
  ]
  if not groups:
    return None
  return (
    f"group {min(groups)}: the opponent's replies to the same first move differ; do its"
    " games have opponents with different seeds?"
  )


def _opponent(step: Step) -> str | None:
  """Looks for a first move that has one reply in all groups, and could have more."""
  config, opponents = step.config, step.config.opponents
  shares = opponents.shares
  is_random = not any(any(shares[name]) for name in shares if name != "random")
  if opponents.custom is not None:
    # Named players have choices of their own.
    is_random = custom_lib.is_reference(opponents.custom)
  has_opponent = len(step.game.seats) > 1 and config.episodes.num_agents == 1
  if not (is_random and has_opponent):
    return None
  positions = step.game.position_numbers(step.games.states)
  seats = step.game.seat_numbers(step.games.states)[:, 0]
  for seat in np.unique(seats).tolist():
    if len(np.unique(positions[seats == seat, 0])) > 1:
      # The opponent opens, or starts are drawn.
      continue
    replies = _replies(step, positions, seats == seat)
    if any(len(set().union(*each.values())) > 1 for each in replies.values()):
      continue
    chance = sum(
      (len(each) - 1) * np.log(_commonest_reply(step.game, seat, move))
      for move, each in replies.items()
      if len(each) > 1
    )
    if chance < _IMPOSSIBLE:
      move = max(replies, key=lambda each: len(replies[each]))
      return (
        f"after {step.game.spell(move)} as {step.game.seats[seat]} the opponent made"
        f" the same move in all {len(replies[move])} groups; it has a habit, which the"
        " model may learn to exploit"
      )
  return None


def _commonest_reply(
  game: definition.Definition, seat: int, move: int
) -> float:
  """Returns the share of a random opponent's commonest reply to a first move."""
  env = game.environment()
  keys = streams.keys(0, streams.Stream.GREEDY, last=jnp.arange(128))
  states = jax.vmap(lambda key: game.begin(env, key, seat))(keys)
  after = jax.vmap(lambda state: env.step(state, move))(states)
  goes_on = np.asarray(jax.vmap(env.outcome)(after)) == Ending.ONGOING
  if not goes_on.any():
    return 1.0
  positions = game.position_numbers(after)[goes_on]
  counts = np.unique(positions, return_counts=True)[1]
  return float(counts.max() / counts.sum())


def _rewards(step: Step) -> str | None:
  ending, played = (
    np.asarray(step.games.ending),
    np.asarray(step.games.turn_mask),
  )
  is_broken = np.isin(ending, _BROKEN)
  if step.config.grpo.advantage_level == "turn":
    last = played.sum(axis=1) - 1
    is_last = np.arange(played.shape[1]) == last[:, None]
    broken = step.rewards[is_last & is_broken[:, None]]
    kept, what = step.rewards[played & ~(is_last & is_broken[:, None])], "moves"
  else:
    totals = step.rewards.sum(axis=1)
    broken, kept, what = (
      totals[is_broken],
      totals[ending == Ending.LOSS],
      "losses",
    )
  if not (len(broken) and len(kept)):
    return None
  more = broken.mean(dtype=np.float64) - kept.mean(dtype=np.float64)
  if more < 1e-6:
    return None
  return (
    f"answers that break the rules earn {broken.mean():.2f} on average, and {what} by"
    f" the rules {kept.mean():.2f}"
  )


def _truncation(step: Step) -> str | None:
  moves, mask = np.asarray(step.games.moves), np.asarray(step.games.action_mask)
  count = np.maximum(mask.sum(axis=2, keepdims=True), 1)
  last = np.take_along_axis(np.asarray(step.games.actions), count - 1, axis=2)
  ends = step.game.end_ids(step.tokenizer)
  is_cut = (moves >= 0) & ~np.isin(last[..., 0], ends)
  if is_cut.any():
    return f"{int(is_cut.sum())} answers without an end count as moves"
  is_long = np.asarray(step.games.ending) == Ending.LENGTH
  if is_long.mean() <= 0.5:
    return None
  is_out_of_turns = np.asarray(step.games.turn_mask)[is_long].all(axis=1)
  advice = "play.max_new_tokens or play.max_game_tokens"
  if is_out_of_turns.mean() > 0.5:
    advice = "play.max_turns, unless answers are unreadable"
  return (
    f"{is_long.mean():.0%} of the games end at a limit of tokens or turns; raise"
    f" {advice}"
  )


def _variance(step: Step) -> str | None:
  # Later ones are counted by the recorder: a policy that is perfect has none either.
  groups = len(step.rewards) // step.group_size
  if step.number or step.metrics["dropped_groups"] < groups:
    return None
  return (
    f"all games of a group earned the same, in each of {groups} groups: nothing was"
    " trained"
  )


def _collapse(step: Step) -> str | None:
  shares = step.config.opponents.shares.values()
  can_rise = step.config.episodes.num_agents == 1 and all(
    first == last for first, last in shares
  )
  is_better = step.metrics["reward"] > step.first["reward"]
  if is_better or not (can_rise and step.trained.any()):
    return None
  for name, unit in (("entropy", "nats"), ("tokens_per_turn", "tokens a turn")):
    now, first = step.metrics[name], step.first[name]
    if now < _COLLAPSED * first:
      return f"{name} fell from {first:.3g} to {now:.3g} {unit}, and the reward did not rise"
  return None


def _sampler(step: Step) -> str | None:
  is_long = step.dtype == "float32"
  tolerance = _LOG_RATIO if is_long else _LOG_RATIO_OF_BFLOAT16
  distance = step.metrics["log_ratio"]
  if step.batch.sampler_is_weights is not None or distance <= tolerance:
    return None
  return (
    f"sampler and trainer differ by {distance:.2g} nats a token, of which rounding is"
    f" at most {tolerance:g}; does the sampler have older weights?"
  )


def _staleness(step: Step) -> str | None:
  mean = step.metrics.get("sampler_is/weight_mean", 1.0)
  if mean >= 0.5 or step.config.grpo.sampler_is_threshold < 1:
    return None
  return (
    f"the mean importance weight is {mean:.2g}, where it is 1 for equal weights: the"
    " sampler's are too old; lower rollout.max_staleness"
  )


# Names of the checks. Of a batch that is wrong the sampler's check says nothing new.
_OF_BATCH = {
  "mask": _mask,
  "tokens": _tokens,
  "log_probs": _log_probs,
  "prompt": _prompt,
}
_OTHERS = {
  "clones": _clones,
  "luck": _luck,
  "opponent": _opponent,
  "rewards": _rewards,
  "truncation": _truncation,
  "variance": _variance,
  "collapse": _collapse,
  "staleness": _staleness,
}
NAMES = (*_OF_BATCH, "sampler", *_OTHERS, "judge")


def faults_of(step: Step) -> dict[str, str]:
  """Returns what is wrong with a step, by the name of the check."""
  checks: Mapping[str, Callable[[Step], str | None]] = _OF_BATCH
  faults = {
    name: text for name, check in checks.items() if (text := check(step))
  }
  checks = _OTHERS if faults else {"sampler": _sampler, **_OTHERS}
  return faults | {
    name: text for name, check in checks.items() if (text := check(step))
  }


def of_evaluation(
  game: definition.Definition,
  played: Sequence[trajectory_lib.Trajectory],
  metrics: Mapping[str, float],
) -> dict[str, str]:
  """Returns what is wrong with the metrics of an evaluation, by the check's name.

  `played` has the games of each seat, in order.
  """
  for seat, games in zip(game.seats, played, strict=False):
    if games.turn_mask.shape[1] == 1:
      # Single answers, not games.
      continue
    endings = np.asarray(games.ending)
    for name, ending in trajectory_lib.RATES.items():
      rates = [
        value
        for key, value in metrics.items()
        if key.startswith(f"{seat}/") and key.endswith(f"/{name}")
      ]
      count = int((endings == ending).sum())
      if rates and bool(count) != any(rates):
        return {
          "judge": f"as {seat} {count:,} of {len(endings):,} games have the ending"
          f" {ending.name.lower()}, and {name} is {max(rates):.2%}"
        }
  return {}


class Reporter:
  """Warns once of what each check finds in a run.

  Attributes:
    faults: What was wrong so far, by the name of the check.
  """

  def __init__(self, warn: Callable[[str], None]):
    """Takes a function that shows a warning."""
    self._warn, self.faults = warn, dict[str, str]()

  def __call__(self, step: int, new: Mapping[str, str]) -> None:
    """Warns of what is new; steps are counted from 1."""
    for name, text in new.items():
      if name not in self.faults:
        self._warn(f"WARNING: step {step}: {name}: {text}; see {PAGE}#{name}")
    self.faults = {**new, **self.faults}
