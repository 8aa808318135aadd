"""A GRPO run on whole games, from a config to a trained model on disk."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import shutil
from types import MappingProxyType
from typing import Any

from flax import nnx
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.data import datasets
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.rollout import build as rollout_setup
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.train import base_model
from tunix_ttt.train import cluster as cluster_lib
from tunix_ttt.train import game_recorder
from tunix_ttt.train import game_rollout as games_lib
from tunix_ttt.train import learner as learner_lib
from tunix_ttt.train import optimizers
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_checkpoints
from tunix_ttt.train import run_loop
from tunix_ttt.train import tracking

_PREFIX = "grpo"
# The reference of the KL divergence, told where the two are not the same model.
_REFERENCES = {
  "start": "note: the KL divergence is to the model with the adapters that it"
  " starts with; grpo.reference=base takes the model without adapters",
  "base": "note: the KL divergence is to the model without adapters;"
  " grpo.reference=start takes the adapters that it starts with",
}

# (parameters) -> metrics by name, `score` among them.
Evaluate = Callable[[Any], dict[str, float]]
# Makes one for the model of a run. It comes from outside, because evaluation
# builds on training and not the other way round.
MakeEvaluate = Callable[[checkpoints.Model, config_lib.GRPOConfig], Evaluate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that a run needs, checked and in memory; nothing is written yet.

  Attributes:
    config: the settings.
    model: what to train.
    record: The model's record for the manifest.
    evaluate: how to judge it.
    source: what it is asked, if not whole games.
    given: rewards that were given in Python.
  """

  config: config_lib.GRPOConfig
  model: checkpoints.Model
  record: run_directory.ModelRecord
  evaluate: Evaluate
  source: datasets.Prompts | None
  given: Mapping[str, rewards_lib.Given]

  def dataset_record(self) -> run_directory.DatasetRecord | None:
    """See `setup.Prepared`."""
    if self.source is None:
      return None
    return self.source.record(train_rows=len(self.source.samples))


def plan(
  config: config_lib.GRPOConfig,
  make_evaluate: MakeEvaluate,
  tokenizer: pathlib.Path | None = None,
  given: Mapping[str, rewards_lib.Given] = MappingProxyType({}),
) -> Plan:
  """Reads the prompts, if any, and makes the model; writes nothing.

  Args:
    config: the settings.
    make_evaluate: see `MakeEvaluate`.
    tokenizer: a tiny model's tokenizer, where it has been trained already.
    given: see `rewards.given`.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  is_single = config.episodes.are_single_moves
  num_turns = 1 if is_single else config.play.max_turns
  memory.check_answers(config.play, config.training.batch_size)
  rewards_lib.try_out(given, num_turns, config.play.max_new_tokens)
  source = None
  if config.episodes.source == "prompts":
    source = datasets.load_prompts(config.data)
  base = base_model.base_model(config, source, tokenizer)
  model, record = run_loop.adapt(base, config)
  if not record.trainable_parameters:
    raise errors.UserError(
      "nothing would be trained: no parameter is trainable"
    )
  # The tables are checked here, where a mistake costs nothing.
  evaluate = make_evaluate(model, config)
  tables = rollout_setup.make_tables(config, model.tokenizer)
  shown = int(tables.observations.begin.lengths.max())
  memory.check(model, config, *memory.shape_of_games(config, shown))
  return Plan(
    config=config,
    model=model,
    record=record,
    evaluate=evaluate,
    source=source,
    given=given,
  )


def train(
  config: config_lib.GRPOConfig,
  make_evaluate: MakeEvaluate,
  output: pathlib.Path | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Trains a model in a new run directory.

  Args:
    config: the settings.
    make_evaluate: see `MakeEvaluate`.
    output: see `setup.start`, also for what is returned and raised.
    rewards: those beside the config's.
  """
  given = rewards_lib.given(rewards, config.rewards)
  return run_loop.start(
    "grpo",
    config,
    output,
    lambda: plan(config, make_evaluate, given=given),
    _run,
    rewards_lib.records(given),
  )


def resume(
  config: config_lib.GRPOConfig,
  make_evaluate: MakeEvaluate,
  run: pathlib.Path,
  step: int | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    config: the settings it was started with.
    make_evaluate: see `MakeEvaluate`.
    run: its directory.
    step: see `setup.resume`, also for what is returned and raised.
    rewards: those that it was started with.
  """
  given = rewards_lib.given(rewards, config.rewards)
  return run_loop.resume(
    config,
    run,
    step,
    lambda config, path: plan(config, make_evaluate, path, given),
    _run,
    rewards_lib.records(given),
  )


class _Run:
  """A run at work: what happens between the steps of the learner."""

  def __init__(self, prepared: Plan, run: pathlib.Path):
    self.prepared, self.path = prepared, run
    config = prepared.config
    self.cluster = cluster_lib.make(
      prepared.model,
      config,
      tracking.options(config.logging, run, _PREFIX),
      prepared.source.shown if prepared.source else (),
    )
    self._reference: reference_log_probs.Scorer | None = None
    if config.grpo.beta:
      # Taken before a checkpoint is restored into the model.
      self._reference = reference_log_probs.of_reference(
        prepared.model, self.module, config
      )
      if reference_log_probs.starts_from_adapters(prepared.model):
        progress.say(_REFERENCES[config.grpo.reference])
    self.manager = cluster_lib.checkpoints_of(
      (run / run_directory.CHECKPOINTS).absolute(), config.checkpoint
    )
    self.first_step = cluster_lib.restore(self.cluster, self.manager, config)
    engine = self.cluster.rollout
    assert isinstance(engine, games_lib.GameRollout)
    self.engine = engine
    self.recorder = game_recorder.GameRecorder(
      run,
      config,
      run_checkpoints.rewind(run, self.first_step),
      prepared.model.tokenizer.decode,
    )
    self._rate = optimizers.learning_rate(optimizers.in_updates(config))

  def fit(self) -> None:
    """Trains from the latest checkpoint to the end."""
    try:
      with interrupts.between_steps() as self._stop:
        self._fit()
    except BaseException:
      # Its end is else that of Tunix's cluster.
      if (logger := self.cluster.actor_trainer.metrics_logger) is not None:
        logger.close()
      raise
    finally:
      self.recorder.close()
      self.manager.close()

  def _fit(self) -> None:
    self._restore_pool()
    # Its row was dropped, since a run may be killed before it is written.
    if self._is_evaluated(self.first_step):
      self._evaluate(self.first_step)
    prepared = self.prepared
    learner = learner_lib.GameLearner(
      self.cluster, prepared.config, self._reference, prepared.given
    )
    learner.fit(self._after)

  @property
  def module(self) -> nnx.Module:
    """The model as it is now."""
    return self.cluster.actor_trainer.model

  def _after(self, step: learner_lib.Step) -> None:
    config, number = self.prepared.config, step.number
    # The learning rate of the step's first update.
    updates = (number - 1) * config.grpo.num_iterations
    rate = float(np.asarray(self._rate(updates)))
    self.recorder.batch(step, rate)
    self._log(number, step.metrics)
    pool = config.opponents
    if any(pool.past_selves) and number % pool.add_every_n_steps == 0:
      self._add_to_pool(number)
    is_last = number == config.training.max_steps
    # Saved before it is judged: what is written after a checkpoint is dropped
    # on resuming, and the evaluation of its step is made again.
    if is_last or number % config.checkpoint.save_interval_steps == 0:
      cluster_lib.save(self.cluster, self.manager, number)
    self._end_if_asked(number)
    if self._is_evaluated(number):
      self._evaluate(number)
      # An evaluation may take longer than many steps.
      self._end_if_asked(number)

  def _end_if_asked(self, step: int) -> None:
    if not self._stop.is_asked():
      return
    # With games that were begun on older weights a run goes on as it would have
    # from its own checkpoints alone; see `GameLearner._weights_of`.
    is_exact = not self.prepared.config.rollout.max_staleness
    if is_exact and step not in run_directory.checkpoint_steps(self.path):
      cluster_lib.save(self.cluster, self.manager, step)
    raise self._stop.interrupted(step)

  def _is_evaluated(self, step: int) -> bool:
    training = self.prepared.config.training
    every = training.eval_every_n_steps
    return step % every == 0 or step == training.max_steps

  def _evaluate(self, step: int) -> None:
    with progress.stage("evaluating", has_bar=True):
      metrics = self.prepared.evaluate(nnx.split(self.module)[1])
    is_best = self.recorder.evaluation(step, metrics)
    self._log(step, {f"eval/{name}": v for name, v in metrics.items()})
    if is_best:
      self._save_best()

  def _save_best(self) -> None:
    model = dataclasses.replace(self.prepared.model, module=self.module)
    best = self.path / run_directory.BEST_CHECKPOINT
    new = best.with_name(f".{best.name}.new")
    processes.remove(new)
    checkpoints.save(model, new)
    if processes.is_first():
      shutil.rmtree(best, ignore_errors=True)
      new.rename(best)

  def _log(self, step: int, metrics: dict[str, float]) -> None:
    logger: Any = self.cluster.actor_trainer.metrics_logger
    for name, value in metrics.items():
      logger.log(_PREFIX, name, value, "train", step)

  def _add_to_pool(self, step: int) -> None:
    path = self.path / run_directory.OPPONENTS / f"{step}.bin"
    moves = self.engine.greedy_moves()
    if processes.is_first():
      path.parent.mkdir(exist_ok=True)
      files.write_bytes(path, moves.tobytes())
    processes.wait("written a past self")
    self._restore_pool(step)

  def _restore_pool(self, step: int | None = None) -> None:
    """Takes the past selves up to a step, as they were written down."""
    until = self.first_step if step is None else step
    steps = sorted(
      int(path.stem)
      for path in (self.path / run_directory.OPPONENTS).glob("*.bin")
    )
    tables = []
    for number in (n for n in steps if n <= until):
      path = self.path / run_directory.OPPONENTS / f"{number}.bin"
      table = np.frombuffer(path.read_bytes(), np.int8)
      if table.shape != (rules.NUM_BOARDS,):
        raise errors.UserError(f"{path}: not a table of moves")
      tables.append(table)
    self.engine.set_pool(tables)


def _run(
  prepared: Plan, manifest: run_directory.RunManifest, path: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  run = _Run(prepared, path)
  manifest = run_loop.begin_session(manifest, path, run.first_step)
  run.fit()
  trained = dataclasses.replace(prepared.model, module=run.module)
  run_loop.finish(manifest, path, trained, run.recorder.summary())
  return path
