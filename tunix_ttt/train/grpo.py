"""GRPO on whole games: the training loop, top to bottom.

It is Group Relative Policy Optimization (Shao et al., 2024) with these
departures from the paper and from Tunix's `GRPOLearner`:

- A rollout is a whole game of several turns; only tokens that the model sampled
  are trained. The games of a group share their start, and the opponent's seed.
- An advantage belongs to a game or to a turn; see `algorithms.advantages`. What
  has no advantage is left out of the batch.
- The sampler's log-probabilities are the old ones of the loss. Where the
  sampler has other weights than the trainer, by settings, truncated importance
  weights correct for it.
- There is no second model: the reference of the KL divergence is a copy of the
  trained parameters at the start, or the model without its adapters.

Tunix's are the trainer with its optimizer and checkpoint manager, the estimators
of whole games, the KL divergence and the aggregation of the loss.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any

from flax import nnx
import jax
import numpy as np

from tunix_ttt.algorithms import advantages as advantages_lib
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.algorithms import role_baseline
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.train import game_batches
from tunix_ttt.train import game_rollout
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import mistake_starts
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import optimizers
from tunix_ttt.train import past_weights
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import resume_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import step_checks
from tunix_ttt.train import trainer as trainer_lib


class GRPORun:
  """A run in progress: its parts, and the steps of the loop.

  What depends on where the model is computed is in `_make_parts`, `_evaluate` and
  `save_model`, which `service.service_runs` replaces.

  Attributes:
    trainer: Makes updates on batches of games, and saves checkpoints.
    rollout: Plays the games of each step.
    recorder: Writes metrics and games.
    first_step: Number of steps that were trained before.
    warnings: What the checks of steps told.
  """

  trainer: Any
  rollout: Any

  def __init__(self, plan: grpo_plan.Plan, path: pathlib.Path):
    """Makes the parts of a run and restores the latest checkpoint."""
    self.plan, self.path, self.config = plan, path, plan.config
    config = plan.config
    self.game = catalog.of(config)
    self.pool = opponent_pool.OpponentPool(config, path)
    self.mistakes = None
    if config.episodes.has_mistakes:
      self.mistakes = mistake_starts.MistakePool(config, path)
    self.past: past_weights.PastWeights | None = None
    self._reference: reference_log_probs.Scorer | None = None
    self._policy: reference_log_probs.Scorer | None = None
    self._sampled: mistake_starts.SampledPositions | None = None
    self._make_parts()
    self.first_step = self.trainer.first_step
    rows = resume_checks.rewind(path, self.first_step)
    self.recorder = recorder_lib.GameRecorder(
      path, config, rows, plan.model.tokenizer.decode
    )
    self._role_baseline: role_baseline.RoleBaseline | None = None
    if config.grpo.role_baseline_decay is not None:
      # The last step's metrics are saved with its checkpoint, and exact.
      last = next((r for r in reversed(rows) if r["split"] == "train"), {})
      self._role_baseline = role_baseline.RoleBaseline(
        self.game.seats, config.grpo, last
      )
    self._learning_rate = optimizers.learning_rate(
      optimizers.in_updates(config)
    )
    begin = jax.jit(lambda seen, states: seen.chunks("begin", states))
    self._begin = functools.partial(begin, self.rollout.tables.observations)
    # A service does not say how it computes.
    spec = getattr(plan.model, "spec", None)
    self._dtype = spec and spec.dtype
    # Metrics of the first step that trained something.
    self._first = next((r for r in rows if r.get("entropy")), None)
    self.warnings = step_checks.Reporter(self.recorder.warn)

  def _make_parts(self) -> None:
    """Makes trainer and rollout on local devices."""
    plan, config, model = self.plan, self.config, self.plan.model
    # Copied before a checkpoint is restored into the model.
    self._reference = grpo_plan.reference(plan)
    self.trainer = trainer_lib.GRPOTrainer(
      model.module, config, self.path, plan.prefix
    )
    starts = plan.source.samples if plan.source else ()
    if config.episodes.sampled_mistakes:
      self._sampled = mistake_starts.SampledPositions(model, config)
    if config.opponents.has_past_weights:
      self.past = past_weights.PastWeights(model, config, self.path)
    self.rollout = game_rollout.GameRollout(
      model,
      config,
      self.pool,
      [start.position for start in starts],
      self.mistakes,
      self.past,
    )
    self.rollout.sync()
    if config.mesh.layout == "split" or config.rollout.max_staleness:
      self._policy = reference_log_probs.of_policy(
        model.module, config, plan.prefix
      )

  def fit(self) -> None:
    """Trains from the latest checkpoint to the end."""
    with (
      contextlib.closing(self.trainer),
      contextlib.closing(self.recorder),
      interrupts.between_steps() as stop,
    ):
      self.pool.restore(self.first_step)
      if self.past is not None:
        self.past.restore(self.first_step)
      if self.mistakes is not None:
        self.mistakes.restore(self.first_step)
      # Rewinding removed this step's row of an evaluation.
      self.evaluate_if_due(self.first_step)
      for step in range(self.first_step, self.config.training.max_steps):
        if self._is_done():
          progress.say(f"no line is lost: trained {step} steps")
          break
        self.step(step)
        if self.pool.is_due(step + 1):
          self.pool.add(step + 1, self.rollout.listed_moves(step + 1))
        if self.past is not None:
          self.past.add_if_due(step + 1)
        # Saved before it is evaluated: rows after a checkpoint are dropped when
        # a run is resumed, and its step is evaluated again.
        if self._is_saved(step + 1):
          self.trainer.save(step + 1)
        self._check_stop(stop, step + 1)
        if self.evaluate_if_due(step + 1):
          # An evaluation may take longer than many steps.
          self._check_stop(stop, step + 1)

  def step(self, step: int) -> None:
    """Plays a batch of games and trains on it; steps are counted from 0."""
    config, started = self.config, time.perf_counter()
    games, sequences = self.rollout.play(step)
    seconds_sampling = time.perf_counter() - started
    rewards = rewards_lib.components(
      self.game,
      games,
      config.rewards,
      config.play.max_new_tokens,
      self.plan.rewards,
      self.plan.model.tokenizer.decode,
    )
    total = rewards_lib.total(games, rewards)
    played = np.asarray(games.turn_mask)
    seats = self.game.seat_numbers(games.states)
    if self._role_baseline is not None:
      advantages, is_trained = self._role_baseline.advantages(
        total, played, seats
      )
    else:
      advantages, is_trained = advantages_lib.advantages(
        total,
        played,
        self.game.position_numbers(games.states),
        seats,
        config.grpo,
      )
    is_trained = advantages_lib.without_worse(
      is_trained, advantages, games.tried
    )
    batch, corrections = game_batches.make(
      sequences, advantages, is_trained, config, self._reference, self._policy
    )
    losses = self.trainer.update(batch)
    seconds_training = time.perf_counter() - started - seconds_sampling
    self.rollout.sync()
    groups = is_trained.any(axis=1).reshape(-1, config.grpo.num_generations)
    metrics = {
      **losses,
      **recorder_lib.game_metrics(self.game, games, rewards),
      **corrections,
      **(self._role_baseline.metrics() if self._role_baseline else {}),
      "dropped_groups": float((~groups.any(axis=1)).sum()),
      "seconds_sampling": seconds_sampling,
      "seconds_training": seconds_training,
    }
    if config.checks:
      started = time.perf_counter()
      is_first = self._first is None and is_trained.any()
      self._first = metrics if is_first else self._first
      faults = step_checks.faults_of(
        step_checks.Step(
          number=step,
          config=config,
          game=self.game,
          tokenizer=self.plan.model.tokenizer,
          dtype=self._dtype,
          begin=self._begin,
          games=games,
          sequences=sequences,
          batch=batch,
          rewards=total,
          is_trained=is_trained,
          metrics=metrics,
          first=self._first or metrics,
        )
      )
      self.warnings(step + 1, faults)
      metrics["seconds_checks"] = time.perf_counter() - started
    first_update = step * config.grpo.num_iterations
    rate = float(np.asarray(self._learning_rate(first_update)))
    self.recorder.batch(step + 1, games, total, metrics, rate)
    self.trainer.log(step + 1, metrics)

  def evaluate_if_due(self, step: int) -> bool:
    """Plays evaluation games, if a step is due; returns whether it is."""
    training = self.config.training
    if step % training.eval_every_n_steps and step != training.max_steps:
      return False
    with progress.stage("evaluating", has_bar=True):
      games: list[trajectory.Trajectory] = []
      metrics = self._evaluate(games.append)
      if self.config.checks:
        faults = step_checks.of_evaluation(self.game, games, metrics)
        self.warnings(step, faults)
      sampled = None
      if self._sampled is not None:
        sampled = self._sampled(nnx.state(self.trainer.model), step)
        optimal = trajectory.optimal_moves(self.game, sampled)
        metrics |= {
          "sampled_positions/optimal_move_rate": float(optimal.mean())
        }
    if self.mistakes is not None:
      self.mistakes.add(step, games, sampled)
    is_best = self.recorder.evaluation(step, metrics)
    self.trainer.log(step, {f"eval/{name}": v for name, v in metrics.items()})
    if is_best:
      run_loop.save_best(self.save_model, self.path)
    return True

  def _evaluate(
    self, visit: Callable[[trajectory.Trajectory], Any]
  ) -> dict[str, float]:
    """Returns the results of the model; see `evaluator.Evaluator`."""
    return self.plan.evaluate(nnx.state(self.trainer.model), visit)

  def save_model(self, directory: pathlib.Path) -> None:
    """Writes the trained model into a new directory."""
    model = dataclasses.replace(self.plan.model, module=self.trainer.model)
    checkpoints.save(model, directory)

  def _is_done(self) -> bool:
    """Returns whether the last evaluation found no lost line, if that ends it."""
    if not self.config.stop_at_no_loss:
      return False
    last = self.recorder.last_evaluation
    return not any(last[f"{seat}/lines_lost"] for seat in self.game.seats)

  def _is_saved(self, step: int) -> bool:
    every = self.config.checkpoint.save_interval_steps
    return step % every == 0 or step == self.config.training.max_steps

  def _check_stop(self, stop: interrupts.Stop, step: int) -> None:
    if not stop.is_asked():
      return
    # Games that were begun on older weights are repeated from the run's own
    # checkpoints alone; see `GameRollout._weights_of`.
    is_exact = not self.config.rollout.max_staleness
    if is_exact and step not in run_directory.checkpoint_steps(self.path):
      self.trainer.save(step)
    raise stop.interrupted(step)


RECIPE = run_loop.Recipe(
  grpo_plan.load, grpo_plan.describe, grpo_plan.plan, GRPORun
)
