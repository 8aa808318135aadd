"""Starts, resumes and finishes training runs."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import math
import os
import pathlib
import platform
import shutil
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models.families import remat
from tunix_ttt.models.families import specs
from tunix_ttt.runs import integrity
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import recorder
from tunix_ttt.train import resume_checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The checked parts of a run, in memory.

  Attributes:
    config: Settings of the run.
    model: Model to train.
    record: Record of the model for the manifest.
    rewards: Custom rewards of a GRPO run.
  """

  config: config_lib.SFTConfig
  model: checkpoints.Model
  record: run_manifest.ModelRecord
  rewards: rewards_lib.CustomRewards = dataclasses.field(default_factory=dict)

  def dataset_record(self) -> run_manifest.DatasetRecord | None:
    """Returns the manifest's record of the data; None for played games."""
    return None


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A trainer.

  Attributes:
    load: Reads the data of a config; None for a config without data.
    describe: Describes data and steps of a dry run, from a model's outline, the
      config and its data. Also returns the rows of a step and their length.
    plan: Checks a config and builds the model; writes nothing.
    run: Restores the latest checkpoint. The result has `first_step`, `fit()`,
      which trains to the last step, `save_model(directory)` and `recorder`.
  """

  load: Callable[[Any], Any]
  describe: Callable[[sources.Outline, Any, Any], tuple[list[str], int, int]]
  plan: Callable[..., Plan]
  run: Callable[[Any, pathlib.Path], Any]


def options(
  config: config_lib.SFTConfig, rewards: rewards_lib.Rewards | None = None
) -> dict[str, Any]:
  """Returns the checked custom rewards, as keyword arguments of a plan.

  Raises:
    errors.UserError: if the rewards are invalid, or not for GRPO.
  """
  if isinstance(config, config_lib.GRPOConfig):
    return {"rewards": rewards_lib.custom_rewards(rewards, config.rewards)}
  if rewards:
    raise errors.UserError("rewards are for GRPO; leave them out")
  return {}


def start(
  name: config_lib.Recipe,
  recipe: Recipe,
  config: config_lib.SFTConfig,
  output: pathlib.Path | None,
  rewards: rewards_lib.Rewards | None,
) -> pathlib.Path:
  """Trains a model in a new run directory; returns the directory.

  Raises:
    errors.UserError: if the input is invalid, before any file is written.
    interrupts.Interrupted: at Ctrl-C or SIGTERM, after saving a checkpoint of
      the current step.
  """
  custom_rewards = options(config, rewards)
  run_id = run_directory.new_run_id(f"{name}-{config.seed}")
  output = output or run_directory.RUNS_ROOT / run_id
  processes.check_output(output)
  plan = recipe.plan(config, **custom_rewards)
  manifest = _manifest(name, plan, output)
  _announce(plan)
  with processes.new_directory(output) as directory:
    if processes.is_first():
      manifest.write(directory)
      files.write_all(directory, plan.model.tokenizer.files())
      files.write_text(directory / run_directory.METRICS, "")
  with _working_on(output):
    return _train(recipe, plan, manifest, output)


@contextlib.contextmanager
def _working_on(run: pathlib.Path) -> Iterator[None]:
  """Holds the run's lock, and reports disk errors as a UserError."""
  try:
    with run_directory.hold(run), interrupts.working_on(run):
      yield
  except Exception as error:
    fault = integrity.describe(error)
    if fault is None:
      raise
    raise errors.UserError(
      f"{run}: the run stopped: {fault}; fix this, then resume the run"
    ) from error


def resume(
  recipe: Recipe,
  manifest: run_manifest.RunManifest,
  config: config_lib.SFTConfig,
  run: pathlib.Path,
  step: int | None,
  rewards: rewards_lib.Rewards | None,
) -> pathlib.Path:
  """Resumes a run; see `recipes.resume`.

  Raises:
    errors.UserError: if the run or the checkpoint is missing or damaged, or
      config, rewards, functions, data or model differ from the run's.
    interrupts.Interrupted: at Ctrl-C or SIGTERM, after saving a checkpoint of
      the current step.
  """
  custom_rewards = options(config, rewards)
  with _working_on(run):
    records = rewards_lib.records(custom_rewards.get("rewards", {}))
    resume_checks.check_settings(config, records, manifest, run)
    resume_checks.remove_temporaries(run)
    if manifest.status == "finished" and step is None:
      fault = integrity.damage(run / run_directory.FINAL_CHECKPOINT)
      if fault is None:
        return run
      progress.say(f"note: {fault}; saving the model again")
    from_step = resume_checks.choose(run, step, config)
    config = resume_checks.relocate(config, manifest, run)
    plan = recipe.plan(config, run / run_directory.TOKENIZER, **custom_rewards)
    data = plan.dataset_record()
    resume_checks.check_sources(data, plan.record, manifest, run)
    resume_checks.go_back(run, manifest, from_step, chosen=step is not None)
    return _train(recipe, plan, manifest, run)


def _train(
  recipe: Recipe,
  plan: Plan,
  manifest: run_manifest.RunManifest,
  path: pathlib.Path,
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  run = recipe.run(plan, path)
  manifest = begin_session(manifest, path, run.first_step)
  run.fit()
  _finish(manifest, path, run.save_model, run.recorder.summary())
  return path


@progress.stage("placing the model on its devices")
def adapt(
  base: checkpoints.Model, config: config_lib.SFTConfig
) -> tuple[checkpoints.Model, run_manifest.ModelRecord]:
  """Adds adapters to a model, places it on devices and returns its record.

  Raises:
    errors.UserError: if the model has other adapters, or does not fit the mesh.
  """
  meshes.check(config, base.spec)
  sources.check_game(base, config)
  mesh = meshes.make(config.mesh)
  model = sources.adapt(base, config.lora, config.model.name, config.seed)
  model = dataclasses.replace(model, game=config.game.name)
  meshes.place(model.module, mesh)
  remat.use(model.module, config.model.remat)

  def count(kind: Any) -> int:
    values = specs.parameters(model.module, kind).values()
    return sum(value.size for value in values)

  record = run_manifest.ModelRecord(
    name=config.model.name,
    revision=base.revision,
    commit=base.commit,
    tokenizer=base.tokenizer.digest,
    parameters=count(specs.nnx.Param),
    trainable_parameters=count(model.trainable),
  )
  return model, record


def _manifest(
  name: config_lib.Recipe, plan: Plan, output: pathlib.Path
) -> run_manifest.RunManifest:
  """Returns the manifest of a new run."""
  config, dataset = plan.config, plan.dataset_record()
  sha, dirty = run_manifest.git_state()
  return run_manifest.RunManifest(
    run_id=output.name,
    created_at=run_directory.now(),
    recipe=name,
    seed=config.seed,
    # The path of an adapter's base belongs to this machine, not to the run.
    config=config_lib.to_dict(resume_checks.with_model(config, base=None)),
    dataset=dataset,
    dataset_key="games" if dataset is None else dataset.key,
    model=plan.record,
    rewards=rewards_lib.records(plan.rewards),
    functions=custom.digests(config_lib.flatten(config_lib.to_dict(config))),
    versions=run_manifest.versions(),
    platform=platform.platform(),
    devices=[device.device_kind for device in jax.devices()],
    mesh=meshes.manifest_sizes(config.mesh),
    git_sha=sha,
    git_dirty=dirty,
    artifacts_path=str(output),
    working_directory=os.getcwd(),
  )


def _announce(plan: Plan) -> None:
  """Prints the model's size, and notes on its tokenizer and unused devices."""
  config, record = plan.config, plan.record
  if config.service is not None:
    progress.say(f"model {record.name}: adapters trained on a service")
    return
  share = record.trainable_parameters / record.parameters
  progress.say(
    f"model {record.name}: {record.parameters:,} parameters,"
    f" {record.trainable_parameters:,} trained ({share:.2%})"
  )
  if note := getattr(plan.model.tokenizer, "note", ""):
    progress.say(f"note: {note}")
  used, advice = meshes.count(config.mesh), "mesh.fsdp=auto takes all"
  if config.mesh.layout == "split":
    if not isinstance(config, config_lib.GRPOConfig):
      used = math.prod(meshes.sizes(config.mesh).values())
      advice = "the layout split is for GRPO"
    elif not config.rollout.max_staleness:
      progress.say(
        "note: sampler and trainer wait for each other; set"
        " rollout.max_staleness=1 to run them in parallel"
      )
  if used < (count := jax.device_count()):
    verb = "is" if used == 1 else "are"
    progress.say(f"note: {used} of {count} devices {verb} used; {advice}")


def begin_session(
  manifest: run_manifest.RunManifest, run: pathlib.Path, from_step: int
) -> run_manifest.RunManifest:
  """Adds a session to the manifest, and returns the manifest."""
  now = run_directory.now()
  session = run_manifest.Session(started_at=now, from_step=from_step)
  if url := recorder.wandb_url(run):
    progress.say(f"W&B: {url}")
  manifest = manifest.model_copy(
    update={
      "status": "running",
      "finished_at": None,
      "files": {},
      "sessions": [*manifest.sessions, session],
      # A session without W&B keeps the page of an earlier session.
      "wandb_url": url or manifest.wandb_url,
    }
  )
  manifest.write(run)
  return manifest


@progress.stage("saving the model")
def _finish(
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
  save: Callable[[pathlib.Path], None],
  final_metrics: dict[str, float],
) -> None:
  """Saves the trained model and marks the run as finished."""
  # A killed process may have saved it already.
  final = run / run_directory.FINAL_CHECKPOINT
  processes.remove(final)
  save(final)
  finished = {"status": "finished", "finished_at": run_directory.now()}
  manifest = manifest.model_copy(
    update={**finished, "final_metrics": final_metrics}
  )
  names = run_directory.METRICS, run_directory.ROLLOUTS
  manifest.with_files(run, *names).write(run)


def save_best(save: Callable[[pathlib.Path], None], run: pathlib.Path) -> None:
  """Replaces a run's best model, which `save` writes, atomically."""
  best = run / run_directory.BEST_CHECKPOINT
  new = best.with_name(f".{best.name}.new")
  processes.remove(new)
  save(new)
  if processes.is_first():
    shutil.rmtree(best, ignore_errors=True)
    new.rename(best)
