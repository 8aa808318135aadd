"""Runs whose model is sampled and trained on a service.

Games, text, masks, rewards, advantages and evaluation are those of local runs: the
loop is `train.grpo`'s. The service computes answers, log-probabilities, gradients and
updates, and keeps the weights. A checkpoint of the run names the service's.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import time
from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.evaluate import evaluator
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import run_directory
from tunix_ttt.service import connection
from tunix_ttt.service import service_games
from tunix_ttt.service import service_models
from tunix_ttt.service import service_trainer
from tunix_ttt.train import game_starts
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import optimizers
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import resume_checks
from tunix_ttt.train import row_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft


class GameRollout:
  """Plays the games of each step; see `game_rollout.GameRollout`."""

  def __init__(self, run: "GRPORun", player: service_games.ServicePlayer):
    """Takes a run, and its player of games."""
    source = run.plan.source
    prompts = source.samples if source else ()
    self._pool, self._weights = run.pool, run.trainer.weights
    self._player, self.tables = player, player.tables
    self.start = game_starts.GameStarts(
      run.config, [each.position for each in prompts], run.mistakes
    )

  def play(
    self, step: int
  ) -> tuple[trajectory.Trajectory, trajectory.Sequences]:
    """Returns a step's games and their token sequences; counted from 0."""
    opponent = self._pool.opponent(step)
    keys, states, _ = self.start(self.start.of_step(step), opponent)
    games = self._player(keys, states, opponent)
    return games, self._player.sequences(games)

  def sync(self) -> None:
    """Makes later games come from the weights of now."""
    self._weights.refresh()


class GRPORun(grpo.GRPORun):
  """GRPO with the model on a service."""

  def __init__(self, plan: grpo_plan.Plan, path: pathlib.Path):
    """Takes up the latest checkpoint of the run, if any."""
    super().__init__(plan, path)
    self.trainer.connection.counts.restore(run_directory.read_metrics(path))

  def _make_parts(self) -> None:
    model: Any = self.plan.model
    config = self.config
    self.trainer = service_trainer.GRPOTrainer(config, model, self.path)
    served = service_games.ServedModel(model.tokenizer, self.trainer.weights)
    play = dataclasses.replace(
      config.play,
      max_turns=config.num_turns,
      temperature=config.rollout.temperature,
    )
    env = self.game.environment()
    self.rollout = GameRollout(self, served.player(config, env, play))
    self._evaluator = evaluator.Evaluator(served, config)

  def _evaluate(
    self, visit: Callable[[trajectory.Trajectory], Any]
  ) -> dict[str, float]:
    return self._evaluator(None, visit)

  def save_model(self, directory: pathlib.Path) -> None:
    """Downloads the adapter into a new directory."""
    self.trainer.save_model(directory)


def plan_grpo(
  config: config_lib.GRPOConfig,
  tokenizer: pathlib.Path | None = None,
  rewards: rewards_lib.CustomRewards = rewards_lib.NO_CUSTOM_REWARDS,
) -> grpo_plan.Plan:
  """Checks a config for a service and reads the tokenizer; writes nothing."""
  del tokenizer
  recorder_lib.check(config.logging)
  service_models.check(config)
  grpo_plan.check_games(config, rewards)
  source = grpo_plan.load(config)
  model: Any = service_models.open_model(config)
  # Refuses what cannot be evaluated.
  nothing: Any = None
  evaluator.Evaluator(
    service_games.ServedModel(model.tokenizer, nothing), config
  )
  return grpo_plan.Plan(
    config=config,
    model=model,
    record=service_models.record(config, model),
    evaluate=lambda *_: {},
    source=source,
    rewards=rewards,
  )


class SFTRun:
  """SFT with the model on a service."""

  def __init__(self, plan: sft.Plan[Any, Any, Any], path: pathlib.Path):
    """Takes up the latest checkpoint."""
    self.plan, self.config = plan, plan.config
    model: Any = plan.model
    self.trainer = service_trainer.Trainer(self.config, model, path)
    self.first_step = self.trainer.first_step
    training = self.config.training
    self.recorder = recorder_lib.Recorder(
      path,
      "sft",
      self.config,
      previous_rows=resume_checks.rewind(path, self.first_step),
      steps_per_epoch=len(plan.dataset.train) / training.batch_size,
    )
    rows = run_directory.read_metrics(path)
    self.trainer.connection.counts.restore(rows)
    self._checks = None
    if self.config.checks:
      self._checks = row_checks.RowChecks(
        self.config, model.tokenizer, None, self.recorder.warn
      )
    self._rate = optimizers.learning_rate(training)

  def fit(self) -> None:
    """Trains from the latest checkpoint to the end."""
    training, every = self.config.training, self.config.checkpoint
    with (
      contextlib.closing(self.trainer),
      contextlib.closing(self.recorder),
      interrupts.between_steps() as stop,
    ):
      for step, part in self._parts():
        if self._is_evaluated(step):
          self._evaluate(step)
        if step == training.max_steps:
          break
        # An evaluation may take longer than many steps.
        if step > self.first_step and stop.is_asked():
          self.trainer.save(step)
          raise stop.interrupted(step)
        self._step(step, part)
        done = step + 1
        is_saved, is_asked = (
          done % every.save_interval_steps == 0,
          stop.is_asked(),
        )
        if is_saved or is_asked or done == training.max_steps:
          self.trainer.save(done)
        if is_asked:
          raise stop.interrupted(done)

  def _parts(self) -> Iterator[tuple[int, batches.Part]]:
    """Yields the batch of each step from the first to train, and one more."""
    training = self.config.training
    parts = batches.train_parts(
      self.plan.dataset, batch_size=training.batch_size, seed=self.config.seed
    )
    numbered = enumerate(itertools.islice(parts, training.max_steps + 1))
    return itertools.islice(numbered, self.first_step, None)

  def _is_evaluated(self, step: int) -> bool:
    training = self.config.training
    is_last = step == training.max_steps
    return is_last or step % training.eval_every_n_steps == 0

  def _rows(self, part: batches.Part) -> list[Any]:
    return [
      self.trainer.weights.datum(
        row.ids,
        weights=np.asarray(row.loss_mask[1:], np.float32) / part.denominator,
      )
      for row in part.sequences
    ]

  def _step(self, step: int, part: batches.Part) -> None:
    metrics = {}
    if self._checks is not None:
      started = time.perf_counter()
      self._checks.sequences(step + 1, part.sequences)
      metrics["seconds_checks"] = time.perf_counter() - started
    rate = float(np.asarray(self._rate(step)))
    adam = self.trainer.adam(rate)
    scores, norm = self.trainer.weights.train(
      self._rows(part), "cross_entropy", adam
    )
    metrics |= {
      "learning_rate": rate,
      "tokens": float(sum(len(row.ids) for row in part.sequences)),
      "clock": time.perf_counter(),
      **self.trainer.connection.counts.metrics(),
    }
    if norm is not None:
      metrics["grad_norm"] = float(norm)
    loss = _loss(part, scores)
    self.recorder.train(step + 1, loss, metrics)
    del metrics["clock"]
    self.trainer.log(step + 1, {"loss": loss, **metrics})

  def _evaluate(self, step: int) -> None:
    rows, size = self.plan.dataset.eval, self.config.training.batch_size
    if not rows:
      return
    loss = sum(
      _loss(part, self.trainer.weights.score(self._rows(part)))
      for part in batches.ordered_parts(rows, size)
    )
    # Parts share a denominator of which each has its share.
    loss /= -(-len(rows) // size)
    self.recorder.eval(step, loss, {})
    self.trainer.log(step, {"eval/loss": loss})

  def save_model(self, directory: pathlib.Path) -> None:
    """Downloads the adapter into a new directory."""
    self.trainer.save_model(directory)


def _loss(part: batches.Part, scores: list[np.ndarray]) -> float:
  """Returns the mean loss of a batch's supervised tokens."""
  total = sum(
    float((values * np.asarray(row.loss_mask[1:])).sum())
    for row, values in zip(part.sequences, scores, strict=True)
  )
  return -total / part.denominator


def plan_sft(
  config: config_lib.SFTConfig, tokenizer: pathlib.Path | None = None
) -> sft.Plan[Any, Any, Any]:
  """Checks a config for a service and tokenizes the data; writes nothing."""
  del tokenizer
  recorder_lib.check(config.logging)
  service_models.check(config)
  source = sft.load(config)
  model: Any = service_models.open_model(config)
  dataset = datasets.tokenize(source, model.tokenizer, config.data, config.seed)
  return sft.Plan(
    config=config,
    source=source,
    dataset=dataset,
    model=model,
    record=service_models.record(config, model),
  )


def describe(config: config_lib.SFTConfig) -> str:
  """Checks a config and its files, and describes the run's requests.

  Raises:
    errors.UserError: if the config or one of its files is invalid.
  """
  service, training = config.service, config.training
  assert service is not None
  if (recipe := config_lib.recipe_of(config)) not in RECIPES:
    raise errors.UserError(
      f"service: cannot train {recipe}; remove this section"
    )
  counts = connection.Counts()
  if isinstance(config, config_lib.GRPOConfig):
    plan = plan_grpo(config)
    tables = sampler.make_tables(config, plan.model.tokenizer)
    prompt = tables.observations.max_begin
    games = training.batch_size * training.max_steps
    turns = games * config.num_turns
    counts.sampled = turns * config.play.max_new_tokens
    prompts = config.num_turns if config.play.context != "board" else 1
    counts.prompt = turns * prompt * prompts
    if prompts > 1:
      # Answers are in the prompts of later turns.
      counts.prompt += counts.sampled * (prompts - 1)
    rows = counts.prompt + counts.sampled
    counts.trained = rows * config.grpo.num_iterations
    work = f"{games:,} games of {config.num_turns} turns"
  else:
    plan = plan_sft(config)
    tokens = [len(row.ids) for row in plan.dataset.train]
    count = training.batch_size * training.max_steps
    counts.trained = round(count * sum(tokens) / len(tokens))
    work = f"{count:,} rows"
  lines = [
    f"model    {config.model.name}, adapters of rank"
    f" {config.lora.rank if config.lora else 0} on a service",
    f"steps    {training.max_steps:,}: {work}",
    f"tokens   about {counts.prompt:,} of prompts, {counts.sampled:,} of"
    f" answers, {counts.trained:,} trained, without evaluations",
  ]
  if (cost := counts.cost(service.prices)) is not None:
    lines.append(f"cost     about ${cost:,.2f} at service.prices")
  return "\n".join(lines)


def _reachable(plan: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a plan that refuses at once what the service would refuse later."""

  @functools.wraps(plan)
  def checked(config: config_lib.SFTConfig, *rest: Any, **named: Any) -> Any:
    prepared = plan(config, *rest, **named)
    assert config.service is not None
    connection.Connection(config.service)
    return prepared

  return checked


RECIPES: dict[config_lib.Recipe, run_loop.Recipe] = {
  "sft": run_loop.Recipe(
    sft.load, sft.LOADER.describe, _reachable(plan_sft), SFTRun
  ),
  "grpo": run_loop.Recipe(
    grpo_plan.load, grpo_plan.describe, _reachable(plan_grpo), GRPORun
  ),
}
