"""Checks that a resumed run has its original config, data and model."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import past_weights

# Settings that do not affect results, and paths of files whose digests are
# checked.
_FREE_ON_RESUME = (
  "data.path",
  "model.base",
  "model.chat_template",
  "model.name",
  "model.revision",
  "logging.",
  "checkpoint.max_to_keep",
  "rollouts_per_log",
  "mesh.",
  "distributed",
  "checks",
  "service.base_url",
  "service.concurrency",
  "service.timeout",
  "service.prices",
)
ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)


def relocate(
  config: ConfigT, manifest: run_manifest.RunManifest, run: pathlib.Path
) -> ConfigT:
  """Updates the paths in a run's settings to the present locations.

  Paths are resolved against the working directory, the run's original working
  directory, and the latter moved along with the run.

  Raises:
    errors.UserError: if the model that the run started from is missing.
  """

  def find(path: str | None) -> str | None:
    start = manifest.working_directory
    if path is None or start is None or os.path.exists(path):
      return path
    original = os.path.join(start, path)
    old_run = os.path.join(start, manifest.artifacts_path)
    from_run = os.path.relpath(original, old_run)
    moved = os.path.normpath(os.path.join(run, from_run))
    return next((p for p in (original, moved) if os.path.exists(p)), path)

  data = dataclasses.replace(config.data, path=find(config.data.path))
  config = dataclasses.replace(config, data=data)
  model, record = config.model, manifest.model
  config = with_model(config, chat_template=find(model.chat_template))
  if model.name in specs.TINY_MODELS:
    return config
  if model.base is not None:
    base = pathlib.Path(model.base)
    # `check_sources` checks the loaded model again.
    if adapters.is_adapter(base) or (
      checkpoints.is_model(base) and checkpoints.digest(base) == record.revision
    ):
      return with_model(config, name=model.base, revision=None, base=None)
  name = model.name if record.commit is not None else find(model.name)
  directory = pathlib.Path(name or "")
  is_missing = record.commit is None and not directory.is_dir()
  # `model.base` may also be the base of an adapter that the run started from.
  if is_missing or (model.base is not None and not _is_adapter(directory)):
    raise errors.UserError(
      f"{run}: the model that this run started from is not at"
      f" {model.base or model.name}; give the model with the digest"
      f" {record.revision}: --base DIR"
    )
  return with_model(config, name=name)


def _is_adapter(directory: pathlib.Path) -> bool:
  if adapters.is_adapter(directory):
    return True
  is_ours = directory.is_dir() and not hub_loading.is_model(directory)
  return is_ours and checkpoints.describe(directory).lora is not None


def with_model(config: ConfigT, **changes: Any) -> ConfigT:
  """Returns a config with changed model settings."""
  model = dataclasses.replace(config.model, **changes)
  return dataclasses.replace(config, model=model)


def check_settings(
  config: config_lib.SFTConfig,
  rewards: Mapping[str, run_manifest.RewardRecord],
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run started with other settings or functions.

  `rewards` has the records of the custom rewards, by name.
  """
  path = run / run_directory.MANIFEST
  if type(config) is not config_lib.RECIPES[manifest.recipe]:
    raise errors.UserError(
      f"{path}: this is a {manifest.recipe} run; use its own script"
    )
  keys = [
    key
    for key in config_lib.differences(config, manifest.load_config(run))
    if not key.startswith(_FREE_ON_RESUME)
  ]
  if keys:
    raise errors.UserError(
      f"{run}: resume with the original config; these keys differ from {path}:"
      f" {', '.join(keys)}"
    )
  original = manifest.rewards
  if rewards.keys() != original.keys():
    raise errors.UserError(
      f"{run}: the rewards from Python are {', '.join(rewards) or 'none'}, but"
      f" the run has {', '.join(original) or 'none'}; resume with the run's own:"
      " tunix_ttt.resume(run, rewards=...)"
    )
  if changed := [name for name in rewards if rewards[name] != original[name]]:
    raise errors.UserError(
      f"{run}: the source or weight of these rewards has changed since the run"
      f" started: {', '.join(changed)}"
    )
  digests = custom.digests(config_lib.flatten(config_lib.to_dict(config)))
  changed = [k for k in digests if digests[k] != manifest.functions.get(k)]
  if changed:
    raise errors.UserError(
      f"{run}: the source of these functions has changed since the run started:"
      f" {', '.join(changed)}"
    )


def check_sources(
  data: run_manifest.DatasetRecord | None,
  model: run_manifest.ModelRecord,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run started with other data or another model."""
  digest = data and data.digest
  expected = manifest.dataset and manifest.dataset.digest
  if digest != expected:
    source = data and (data.path or data.key)
    raise errors.UserError(
      f"{run}: the data has changed since the run started: {source} has the"
      f" digest {digest}, the manifest has {expected}"
    )
  # A model may have moved, or have been loaded from the hub.
  original = manifest.model
  update = {"name": model.name, "commit": model.commit}
  if model != original.model_copy(update=update):
    raise errors.UserError(
      f"{run}: the model has changed since the run started: {model}, in the"
      f" manifest {original}; give the model with the digest"
      f" {original.revision}: --base DIR"
    )


# Orbax writes these files after the digests. The metadata is not used to
# restore: names and shapes come from the model.
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_TEMPORARY = ".orbax-checkpoint-tmp"
# Files of the final model, which are moved away with it.
_FINAL_FILES = (
  run_directory.FINAL_CHECKPOINT,
  run_directory.GAMES,
  run_directory.GAMES_SUMMARY,
  run_directory.PAGE,
  run_directory.PLOTS,
)
# Files written only by processes that hold the run's lock.
_HELD = (
  run_directory.MANIFEST,
  run_directory.METRICS,
  run_directory.ROLLOUTS,
  run_directory.FINAL_CHECKPOINT,
  run_directory.BEST_CHECKPOINT,
)


class _DigestedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """Orbax's temporary directory, with digests written before its renaming."""

  async def finalize(self) -> None:
    """Writes the digests and renames the directory."""
    final = pathlib.Path(self.get_final())
    # Orbax also uses this class for the items of a checkpoint.
    if final.name.isdecimal():
      integrity.write(
        pathlib.Path(self.get()),
        run=written_until(final.parents[1], int(final.name)),
        skip=_UNCHECKED,
      )
    await super().finalize()


def options(
  config: config_lib.CheckpointConfig, **policies: Any
) -> ocp.CheckpointManagerOptions:
  """Returns Orbax's options for a run's checkpoints, with `policies` added."""
  return ocp.CheckpointManagerOptions(
    max_to_keep=config.max_to_keep,
    # On CPUs, Orbax's background thread would read buffers that the next step
    # overwrites.
    enable_async_checkpointing=False,
    temporary_path_class=_DigestedPath,
    **policies,
  )


def _files_of_steps(run: pathlib.Path) -> list[pathlib.Path]:
  """Lists the files of a GRPO run that are named by their step."""
  return [
    *(run / run_directory.OPPONENTS).glob("*.bin"),
    *(run / run_directory.OPPONENTS).glob(f"*{past_weights.SUFFIX}"),
    *(run / run_directory.MISTAKES).glob("*.npz"),
  ]


def written_until(run: pathlib.Path, step: int) -> dict[str, integrity.Prefix]:
  """Returns digests of the run's files, right after training `step`."""
  lines = (run / run_directory.METRICS).read_bytes().splitlines(keepends=True)
  # A resumed run repeats the evaluation of this step.
  while lines and b'"split": "train"' not in lines[-1]:
    lines.pop()
  contents = {run_directory.METRICS: b"".join(lines)}
  rollouts = run / run_directory.ROLLOUTS
  if rollouts.exists():
    contents[run_directory.ROLLOUTS] = rollouts.read_bytes()
  for path in _files_of_steps(run):
    # Past weights have digests of their own.
    if int(path.stem) <= step and path.is_file():
      contents[f"{path.parent.name}/{path.name}"] = path.read_bytes()
  return {name: integrity.Prefix.of(data) for name, data in contents.items()}


def choose(
  run: pathlib.Path,
  step: int | None,
  config: config_lib.SFTConfig | None = None,
) -> int:
  """Returns the step of the checkpoint to resume from, 0 for the beginning.

  None chooses the latest undamaged checkpoint. `config` tells which past weights
  a checkpoint needs.

  Raises:
    errors.UserError: if the checkpoint is missing or damaged, or the run's
      other files have changed since it was saved.
  """
  root = run / run_directory.CHECKPOINTS
  if root.exists() and not root.is_dir():
    raise errors.UserError(f"{root}: expected a directory, found a file")
  steps = run_directory.checkpoint_steps(run)

  def undamaged() -> list[int]:
    return [s for s in steps if integrity.damage(root / str(s)) is None]

  if step is None:
    step = _latest(root, steps)
  elif step not in steps:
    raise errors.UserError(
      f"{root}: no checkpoint of step {step}; available: {_list(steps)}"
    )
  elif fault := integrity.damage(root / str(step)):
    raise errors.UserError(
      f"{fault}; the checkpoint of step {step} is damaged; undamaged:"
      f" {_list(undamaged())}"
    )

  def fault_of_run(step: int) -> str | None:
    needed = past_weights.needed(config, run, step) if config else []
    faults = (_fault_of_run(run, step), *map(integrity.damage, needed))
    return next((fault for fault in faults if fault), None)

  if step and (fault := fault_of_run(step)):
    earlier = [s for s in undamaged() if s < step and not fault_of_run(s)]
    advice = "start a new run"
    if earlier:
      advice = f"resume from step {earlier[-1]} (--resume {earlier[-1]})"
    raise errors.UserError(
      f"{fault}; restore the file as of step {step}, or {advice}"
    )
  return step


def _list(steps: list[int]) -> str:
  return ", ".join(map(str, steps)) or "none"


def _latest(root: pathlib.Path, steps: list[int]) -> int:
  """Returns the latest step with an undamaged checkpoint, 0 without any."""
  faults = []
  for step in reversed(steps):
    fault = integrity.damage(root / str(step))
    if fault is None:
      for text in faults:
        progress.say(f"note: {text}; resuming from step {step}")
      return step
    faults.append(fault)
  if faults:
    raise errors.UserError(
      f"{root}: all checkpoints ({_list(steps)}) are damaged ({faults[0]}); move"
      " this directory away to train from the beginning"
    )
  return 0


def _fault_of_run(run: pathlib.Path, step: int) -> str | None:
  """Returns a message about a file that lost data written until a step."""
  digests = integrity.Digests.read(run / run_directory.CHECKPOINTS / str(step))
  for name, expected in digests.run.items():
    path = run / name
    try:
      data = path.read_bytes()
    except OSError as error:
      return f"{path}: {error.strerror}"
    if integrity.Prefix.of(data[: expected.size]) != expected:
      return _describe_fault(path, len(data) < expected.size, step)
  return None


def _describe_fault(path: pathlib.Path, is_short: bool, step: int) -> str:
  number = 0
  if path.suffix == ".jsonl":
    for line in files.scan_jsonl(path, "file"):
      number = line.number
      if line.row is None:
        return f"{path}:{number}: {line.fault}"
      if not isinstance(line.row.get("step"), int):
        return f"{path}:{number}: this row has no step"
  if is_short:
    place = f"{path}:{number}" if number else str(path)
    return f"{place}: the file ends here, before step {step}"
  return f"{path}: has changed since the checkpoint of step {step} was saved"


def go_back(
  run: pathlib.Path,
  manifest: run_manifest.RunManifest,
  step: int,
  chosen: bool,
) -> None:
  """Moves files from after a checkpoint into a directory `superseded-…`.

  If the process is killed, the run can still be resumed. `step` is 0 for the
  beginning; `chosen` says whether the user chose the checkpoint.
  """
  # No process moves a file before all have chosen a checkpoint.
  processes.wait("chosen a checkpoint")
  if processes.is_first():
    later = [s for s in run_directory.checkpoint_steps(run) if s > step]
    paths = [run / run_directory.CHECKPOINTS / str(s) for s in reversed(later)]
    if chosen or manifest.status == "finished":
      # First, because a finished run must have its model.
      manifest.model_copy(
        update={"status": "running", "finished_at": None, "files": {}}
      ).write(run)
      paths += [run / name for name in _FINAL_FILES]
      paths += [path for path in _files_of_steps(run) if int(path.stem) > step]
    superseded = run / run_directory.new_run_id("superseded")
    for path in paths:
      if path.exists():
        superseded.mkdir(exist_ok=True)
        path.rename(superseded / path.name)
  processes.wait("set checkpoints aside")


def rewind(run: pathlib.Path, step: int) -> list[dict[str, Any]]:
  """Truncates metrics and rollouts to a checkpoint; returns the metrics rows."""
  written: dict[str, integrity.Prefix] = {}
  if step:
    checkpoint = run / run_directory.CHECKPOINTS / str(step)
    written = integrity.Digests.read(checkpoint).run
  rows = b""
  for name in (run_directory.ROLLOUTS, run_directory.METRICS):
    size = written[name].size if name in written else 0
    rows = (run / name).read_bytes()[:size] if size else b""
    if name == run_directory.METRICS or (run / name).exists():
      run_directory.write(run / name, rows)
  return [json.loads(line) for line in rows.splitlines()]


def remove_temporaries(run: pathlib.Path) -> None:
  """Removes partial files of killed processes; the caller must hold the run."""
  if not processes.is_first():
    return
  for path in (
    *(p for p in run.glob(".*") if p.name.lstrip(".").startswith(_HELD)),
    *(run / run_directory.OPPONENTS).glob(".*"),
    *(run / run_directory.MISTAKES).glob(".*"),
    *(run / run_directory.CHECKPOINTS).glob(f"*{_TEMPORARY}"),
    *(run / run_directory.CHECKPOINTS).glob(".*"),
  ):
    files.remove(path)
