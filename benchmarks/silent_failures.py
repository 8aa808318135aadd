"""Twelve mistakes of multi-turn RL that raise no error, and the checks that name them.

A poor player of `configs/sft_cold_start.yaml` is trained for two steps with each
mistake in turn, and without any. Mistakes are settings, or changes of a run that are
made here.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import pathlib
import shutil
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import rates
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import game_batches
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SETTINGS = [
  "training.batch_size=128",
  "training.learning_rate=3e-3",
  "training.warmup_steps=0",
  "training.max_steps=2",
  "episodes.opponent_seed=group",
  "opponents.random=[1, 1]",
  "opponents.optimal=[0, 0]",
]
# A run -> a context in which it makes a mistake.
Change = Callable[[grpo.GRPORun], Any]


class Mistake(NamedTuple):
  """A mistake: the check that names it, and what makes it."""

  title: str
  check: str
  settings: Sequence[str] = ()
  change: Change = lambda run: contextlib.nullcontext()


def first_free(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the first free cell, from A1 to C3; ignores the seed."""
  del opponent_seed
  legal = jnp.asarray(rules.legal_masks())[board]
  return jnp.asarray(rules.nth_cell())[legal, 0].astype(jnp.int32)


def _of_batch(change: Callable[[Any], Any]) -> Change:
  """Returns a change of the batches that the loss gets."""
  make = game_batches.make

  def changed(*arguments: Any, **named: Any) -> Any:
    batch, metrics = make(*arguments, **named)
    return change(batch), metrics

  return lambda run: mock.patch.object(game_batches, "make", changed)


def _of_games(
  change: Callable[[grpo.GRPORun, Any, Any], tuple[Any, Any]],
) -> Change:
  """Returns a change of the games and sequences that are played."""

  def patch(run: grpo.GRPORun) -> Any:
    play = run.rollout.play
    return mock.patch.object(
      run.rollout, "play", lambda step: change(run, *play(step))
    )

  return patch


def _all_tokens(batch: Any) -> Any:
  is_real = np.asarray(batch.mask)[:, 1:]
  used = np.asarray(batch.completion_mask).any(axis=1, keepdims=True)
  return batch.replace(completion_mask=is_real & used)


def _shift(batch: Any) -> Any:
  shifted = np.roll(np.asarray(batch.old_per_token_logps), 1, axis=1)
  return batch.replace(old_per_token_logps=shifted)


def _tokenized_again(
  run: grpo.GRPORun, games: Any, sequences: Any
) -> tuple[Any, Any]:
  tokenizer, tokens = run.plan.model.tokenizer, np.array(sequences.tokens)
  for row, mask in zip(tokens, sequences.action_mask, strict=True):
    if mask.any():
      ids = tokenizer.encode(tokenizer.decode(row[mask].tolist()))
      # Text has no end of a turn.
      ids = [*ids, *tokenizer.encode("\n")][: mask.sum()]
      row[np.flatnonzero(mask)[: len(ids)]] = ids
  return games, sequences.replace(tokens=tokens)


def _without_observation(
  run: grpo.GRPORun, games: Any, sequences: Any
) -> tuple[Any, Any]:
  del run
  starts = np.argmax(sequences.action_mask, axis=1)
  columns = np.arange(sequences.tokens.shape[1]) + starts[:, None] // 2
  is_inside = columns < sequences.tokens.shape[1]
  columns = np.minimum(columns, sequences.tokens.shape[1] - 1)

  def move(leaf: Any) -> Any:
    return np.where(
      is_inside, np.take_along_axis(np.asarray(leaf), columns, axis=1), 0
    ).astype(leaf.dtype)

  return games, jax.tree.map(move, sequences)


def _cut_answers_move(
  run: grpo.GRPORun, games: Any, sequences: Any
) -> tuple[Any, Any]:
  del run
  is_cut = np.asarray(games.ending) == trajectory.Ending.LENGTH
  last = np.asarray(games.turn_mask).sum(axis=1) - 1
  moves = np.array(games.moves)
  moves[is_cut, last[is_cut]] = 0
  return games.replace(moves=moves), sequences


def _same_seed(run: grpo.GRPORun) -> Any:
  start = run.rollout.start
  begin = start._start

  def cloned(groups: Any, members: Any, *rest: Any) -> Any:
    return begin(groups, jnp.zeros_like(members), *rest)

  return mock.patch.object(start, "_start", cloned)


def _unequal_luck(run: grpo.GRPORun) -> Any:
  start = run.rollout.start
  begin = start._start

  def lucky(groups: Any, members: Any, *rest: Any) -> Any:
    keys, _, tried = begin(groups, members, *rest)
    # As many more groups as there are games, each with its own opponent.
    seats = len(run.game.seats)
    others = 10_000 * seats + groups + members * seats
    return keys, begin(others, members, *rest)[1], tried

  return mock.patch.object(start, "_start", lucky)


def _old_weights(run: grpo.GRPORun) -> Any:
  play, first = run.rollout.play, []

  def stale(step: int) -> Any:
    # Games of a step are played by the weights of the start.
    if not first:
      first.extend([play(0), play(1)])
    return first[step]

  return mock.patch.object(run.rollout, "play", stale)


def _draws_win(run: grpo.GRPORun) -> Any:
  del run
  of_games = rates._rates

  def counted(games: Any, weights: np.ndarray) -> dict[str, float]:
    result = of_games(games, weights)
    won = result["win_rate"] + result["draw_rate"]
    return {**result, "win_rate": won, "draw_rate": 0.0}

  return mock.patch.object(rates, "_rates", counted)


_ALL_EARN_1 = (
  "win",
  "forced_draw",
  "draw",
  "loss",
  "illegal",
  "parse_error",
  "length",
)
MISTAKES = {
  "environment": Mistake(
    "tokens of the environment in the loss",
    "mask",
    change=_of_batch(_all_tokens),
  ),
  "tokenized": Mistake(
    "answers tokenized again", "tokens", change=_of_games(_tokenized_again)
  ),
  "observation": Mistake(
    "the first observation dropped",
    "prompt",
    change=_of_games(_without_observation),
  ),
  "cloned": Mistake("a group cloned by its seed", "clones", change=_same_seed),
  "luck": Mistake("groups of unequal luck", "luck", change=_unequal_luck),
  "habit": Mistake(
    "an opponent with a habit",
    "opponent",
    [f"opponents.custom={__name__}:first_free"],
  ),
  "credit": Mistake(
    "partial credit for breaking the rules",
    "rewards",
    ["rewards.outcome.illegal=0.3", "rewards.outcome.parse_error=0.3"],
  ),
  "truncation": Mistake(
    "a truncated answer counted as a move",
    "truncation",
    ["play.max_new_tokens=11"],
    _of_games(_cut_answers_move),
  ),
  "shifted": Mistake(
    "log-probabilities off by one", "log_probs", change=_of_batch(_shift)
  ),
  "stale": Mistake(
    "stale weights in the sampler", "sampler", change=_old_weights
  ),
  "variance": Mistake(
    "groups without variance",
    "variance",
    [f"rewards.outcome.{name}=1" for name in _ALL_EARN_1],
  ),
  "judge": Mistake(
    "a judge that counts draws as wins", "judge", change=_draws_win
  ),
}


def train(
  config: config_lib.GRPOConfig, path: pathlib.Path, mistake: Mistake | None
) -> dict[str, str]:
  """Trains two steps after an evaluation; returns what the checks say."""
  run = grpo.GRPORun(grpo_plan.plan(config), path)
  with (
    contextlib.closing(run.trainer),
    contextlib.closing(run.recorder),
    mistake.change(run) if mistake else contextlib.nullcontext(),
  ):
    run.evaluate_if_due(0)
    for step in range(config.training.max_steps):
      run.step(step)
  return run.warnings.faults


def make_player(
  path: pathlib.Path, settings: Sequence[str] = ()
) -> pathlib.Path:
  """Trains a poor player that knows the format; returns its checkpoint."""
  config = config_lib.load(
    config_lib.SFTConfig,
    CONFIGS / "sft_cold_start.yaml",
    ["logging.report=false", *settings],
  )
  return recipes.train_sft(config, path) / "checkpoint-final"


def load(
  model: pathlib.Path | str, settings: Sequence[str]
) -> config_lib.GRPOConfig:
  """Returns the settings of a run on a model."""
  changes = [f"model.name={model}", *SETTINGS, *settings]
  return config_lib.load(
    config_lib.GRPOConfig, CONFIGS / "grpo_plain.yaml", changes
  )


def main() -> None:
  """Makes each mistake, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/silent_failures.py --runs runs"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument(
    "--mistakes", nargs="+", choices=MISTAKES, default=[*MISTAKES]
  )
  parser.add_argument(
    "--set", nargs="+", default=[], help="settings of the supervised recipe"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  model = make_player(flags.runs / "cold", flags.set)
  results = {}
  for name in ("none", *flags.mistakes):
    mistake = MISTAKES.get(name)
    run = flags.runs / name
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    faults = train(
      load(model, mistake.settings if mistake else []), run, mistake
    )
    results[name] = faults
    title = mistake.title if mistake else "no mistake"
    print(f"{title}: {', '.join(faults) or 'nothing'}", flush=True)
    for check, text in faults.items():
      print(f"  {check}: {text}", flush=True)
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
