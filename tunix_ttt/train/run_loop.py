"""Starts, resumes and finishes training runs."""

from collections.abc import Callable, Iterator
import contextlib
import math
import os
import pathlib
import platform
import shutil
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.runs import disk_faults
from tunix_ttt.runs import integrity
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import resume_checks
from tunix_ttt.train import run_checkpoints
from tunix_ttt.train import tracking

_NO_REWARDS: resume_checks.Rewards = MappingProxyType({})


class Prepared(Protocol):
  """All that a run needs, checked and in memory; nothing is written yet."""

  @property
  def model(self) -> checkpoints.Model:
    """The model to train."""
    ...

  @property
  def record(self) -> run_manifest.ModelRecord:
    """The model's record for the manifest."""
    ...

  def dataset_record(self) -> run_manifest.DatasetRecord | None:
    """Returns what the manifest says of the data, None for played games."""
    ...


ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
PreparedT = TypeVar("PreparedT", bound=Prepared)
# Trains from the latest checkpoint to the end; returns the run directory.
Train = Callable[
  [PreparedT, run_manifest.RunManifest, pathlib.Path], pathlib.Path
]


def start(
  recipe: run_manifest.Recipe,
  config: config_lib.SFTConfig,
  output: pathlib.Path | None,
  plan: Callable[[], PreparedT],
  train: Train[PreparedT],
  rewards: resume_checks.Rewards = _NO_REWARDS,
) -> pathlib.Path:
  """Trains a model in a new run directory.

  Args:
    recipe: Name of the recipe.
    config: the settings.
    output: the run directory, which must not exist; None makes one under
      `artifacts/training_runs`.
    plan: prepares the run.
    train: does it.
    rewards: those that were given in Python.

  Returns:
    The run directory; the model is in its `checkpoint-final`.

  Raises:
    errors.UserError: if the input is wrong, before anything is written.
    interrupts.Interrupted: at Ctrl-C or SIGTERM, with a checkpoint of the step
      that was in progress.
  """
  requirements.check()
  name = run_directory.new_run_id(f"{recipe}-{config.seed}")
  output = output or run_directory.RUNS_ROOT / name
  files.check_absent(output)
  if processes.is_first():
    files.check_output(output)
  prepared = plan()
  dataset = prepared.dataset_record()
  made = manifest(recipe, config, prepared.record, output, dataset, rewards)
  _announce(prepared, config)
  _create(made, prepared.model, output)
  with _working_on(output):
    return train(prepared, made, output)


@contextlib.contextmanager
def _working_on(run: pathlib.Path) -> Iterator[None]:
  """Holds a run, and reports what its disk refuses as a UserError."""
  try:
    with run_directory.hold(run), interrupts.working_on(run):
      yield
  except Exception as error:
    fault = disk_faults.describe(error)
    if fault is None:
      raise
    raise errors.UserError(
      f"{run}: this run was stopped: {fault}; once that is mended, resume it"
    ) from error


def resume(
  config: ConfigT,
  run: pathlib.Path,
  step: int | None,
  plan: Callable[[ConfigT, pathlib.Path], PreparedT],
  train: Train[PreparedT],
  rewards: resume_checks.Rewards = _NO_REWARDS,
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    config: the settings it was started with; only `logging`, `mesh`,
      `distributed`, `checkpoint.max_to_keep`, `rollouts_per_log`, and where
      data and model are may differ.
    run: its directory.
    step: which of its checkpoints to go on from; None for the latest, or the
      beginning where there is none yet; damaged ones are passed over. Later
      checkpoints are set aside.
    plan: prepares the run, given its settings and where its tokenizer is.
    train: does it.
    rewards: those that were given in Python.

  Returns:
    The run directory.

  Raises:
    errors.UserError: if there is no such run or checkpoint, it is damaged, or
      the config, the rewards, the data, the base or the code's results are not
      the run's.
    interrupts.Interrupted: see `start`.
  """
  requirements.check()
  found = run_manifest.RunManifest.read(run)
  with _working_on(run):
    resume_checks.check_same_config(config, found, run)
    resume_checks.check_same_rewards(rewards, found, run)
    resume_checks.check_same_functions(config, found, run)
    run_checkpoints.remove_temporaries(run)
    if found.status == "finished" and step is None:
      fault = integrity.damage(run / run_directory.FINAL_CHECKPOINT)
      if fault is None:
        return run
      progress.say(f"note: {fault}; saving the model again")
    from_step = run_checkpoints.choose(run, step)
    config = resume_checks.relocate(config, found, run)
    prepared = plan(config, run / run_directory.TOKENIZER)
    resume_checks.check_same_data(prepared.dataset_record(), found.dataset, run)
    resume_checks.check_same_model(prepared.record, found, run)
    run_checkpoints.go_back(run, found, from_step, chosen=step is not None)
    return train(prepared, found, run)


@progress.stage("placing the model on its devices")
def adapt(
  base: checkpoints.Model, config: config_lib.SFTConfig
) -> tuple[checkpoints.Model, run_manifest.ModelRecord]:
  """Makes a model ready for training: adapters, a record, its place on devices.

  Raises:
    errors.UserError: if the model has other adapters already, or the devices
      cannot hold it as the config says.
  """
  meshes.check(config, base.spec)
  mesh = meshes.make(config.mesh)
  model = sources.adapt(base, config.lora, config.model.name, config.seed)
  meshes.place(model.module, mesh)
  specs.set_remat(model.module, config.model.remat)

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


def manifest(
  recipe: run_manifest.Recipe,
  config: config_lib.SFTConfig,
  model: run_manifest.ModelRecord,
  output: pathlib.Path,
  dataset: run_manifest.DatasetRecord | None,
  rewards: resume_checks.Rewards,
) -> run_manifest.RunManifest:
  """Returns the manifest of a new run; `dataset` is None for played games."""
  sha, dirty = run_manifest.git_state()
  return run_manifest.RunManifest(
    run_id=output.name,
    created_at=run_directory.now(),
    recipe=recipe,
    seed=config.seed,
    # Where an adapter's base was found is of this machine, not of the run.
    config=config_lib.to_dict(resume_checks.with_model(config, base=None)),
    dataset=dataset,
    dataset_key="games" if dataset is None else dataset.key,
    model=model,
    rewards=dict(rewards),
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


def _announce(prepared: Prepared, config: config_lib.SFTConfig) -> None:
  """Says what is trained, and what a user may not expect of it."""
  record = prepared.record
  share = record.trainable_parameters / record.parameters
  progress.say(
    f"model {record.name}: {record.parameters:,} parameters,"
    f" {record.trainable_parameters:,} trained ({share:.2%})"
  )
  if note := getattr(prepared.model.tokenizer, "note", ""):
    progress.say(f"note: {note}")
  used, advice = meshes.count(config.mesh), "mesh.fsdp=auto takes all"
  if config.mesh.layout == "split":
    if not isinstance(config, config_lib.GRPOConfig):
      used = math.prod(meshes.sizes(config.mesh).values())
      advice = "the layout split is for GRPO"
    elif not config.rollout.max_staleness:
      progress.say(
        "note: sampler and trainer wait for each other;"
        " rollout.max_staleness=1 has them work at the same time"
      )
  if used < jax.device_count():
    progress.say(
      f"note: {used} of {jax.device_count()} devices {'is' if used == 1 else 'are'}"
      f" used; {advice}"
    )


def _create(
  manifest: run_manifest.RunManifest,
  model: checkpoints.Model,
  output: pathlib.Path,
) -> None:
  """Writes the directory of a new run, whole or not at all."""
  with processes.new_directory(output) as new:
    if processes.is_first():
      manifest.write(new)
      files.write_all(new, model.tokenizer.files())
      files.write_text(new / run_directory.METRICS, "")


def begin_session(
  manifest: run_manifest.RunManifest, run: pathlib.Path, from_step: int
) -> run_manifest.RunManifest:
  """Writes into the manifest that this process works on the run."""
  session = run_manifest.Session(
    started_at=run_directory.now(), from_step=from_step
  )
  if url := tracking.wandb_url(run):
    progress.say(f"W&B: {url}")
  manifest = manifest.model_copy(
    update={
      "status": "running",
      "finished_at": None,
      "files": {},
      "sessions": [*manifest.sessions, session],
      # A session without W&B leaves the page that is there.
      "wandb_url": url or manifest.wandb_url,
    }
  )
  manifest.write(run)
  return manifest


@progress.stage("saving the model")
def finish(
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
  model: checkpoints.Model,
  final_metrics: dict[str, float],
) -> None:
  """Saves the trained model and writes that the run is finished."""
  # There is one if the run was killed between saving it and saying so.
  final = run / run_directory.FINAL_CHECKPOINT
  processes.remove(final)
  checkpoints.save(model, final)
  finished = manifest.model_copy(
    update={
      "status": "finished",
      "finished_at": run_directory.now(),
      "final_metrics": final_metrics,
    }
  )
  finished.with_files(run, run_directory.METRICS, run_directory.ROLLOUTS).write(
    run
  )


def save_best(model: checkpoints.Model, run: pathlib.Path) -> None:
  """Replaces a run's best model, whole or not at all."""
  best = run / run_directory.BEST_CHECKPOINT
  new = best.with_name(f".{best.name}.new")
  processes.remove(new)
  checkpoints.save(model, new)
  if processes.is_first():
    shutil.rmtree(best, ignore_errors=True)
    new.rename(best)
