"""Saves a run's training checkpoints and chooses the one to resume from.

A checkpoint has digests of its files, and of the run's metrics, rollouts and
past selves up to its step. They are written before Orbax gives the checkpoint
its name, so a checkpoint without them is damaged. All are checked before a run
is resumed.
"""

import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Orbax still writes these two after a checkpoint's data. Its metadata decides
# nothing that is restored: names and shapes come from the model.
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_TEMPORARY = ".orbax-checkpoint-tmp"
# Belongs to the final model and not to an earlier checkpoint.
_OF_THE_FINAL_MODEL = (
  run_directory.FINAL_CHECKPOINT,
  run_directory.GAMES,
  run_directory.GAMES_SUMMARY,
  run_directory.PAGE,
  run_directory.PLOTS,
)
# Written only by processes that hold the run.
_HELD = (
  run_directory.MANIFEST,
  run_directory.METRICS,
  run_directory.ROLLOUTS,
  run_directory.FINAL_CHECKPOINT,
  run_directory.BEST_CHECKPOINT,
)


class _DigestedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """Orbax's temporary directory, which gets digests before its final name."""

  async def finalize(self) -> None:
    """See the parent."""
    final = pathlib.Path(self.get_final())
    # Orbax makes paths of this kind for a checkpoint's items as well.
    if final.name.isdecimal():
      integrity.write(
        pathlib.Path(self.get()),
        run=_written_until(final.parents[1], int(final.name)),
        skip=_UNCHECKED,
      )
    await super().finalize()


def options(
  config: config_lib.CheckpointConfig, **policies: Any
) -> ocp.CheckpointManagerOptions:
  """Returns Orbax's options for a run's checkpoints.

  Args:
    config: Settings of checkpoints.
    **policies: More options.
  """
  return ocp.CheckpointManagerOptions(
    max_to_keep=config.max_to_keep,
    # On a CPU, Orbax's background thread reads the very buffers that the next
    # step is given to overwrite.
    enable_async_checkpointing=False,
    temporary_path_class=_DigestedPath,
    **policies,
  )


def _written_until(run: pathlib.Path, step: int) -> dict[str, integrity.Prefix]:
  """Returns what a run that has just trained `step` has written."""
  found = {}
  lines = (run / run_directory.METRICS).read_bytes().splitlines(keepends=True)
  # A resumed run evaluates this step again.
  while lines and b'"split": "train"' not in lines[-1]:
    lines.pop()
  found[run_directory.METRICS] = b"".join(lines)
  if (run / run_directory.ROLLOUTS).exists():
    found[run_directory.ROLLOUTS] = (run / run_directory.ROLLOUTS).read_bytes()
  for path in (run / run_directory.OPPONENTS).glob("*.bin"):
    if int(path.stem) <= step:
      found[f"{run_directory.OPPONENTS}/{path.name}"] = path.read_bytes()
  return {name: integrity.Prefix.of(data) for name, data in found.items()}


def choose(run: pathlib.Path, step: int | None) -> int:
  """Returns the step of the checkpoint to go on from, 0 for the beginning.

  Args:
    run: Run directory.
    step: Step of the checkpoint, None for the latest undamaged one.

  Raises:
    errors.UserError: if there is no such checkpoint, it is damaged, or the
      run's other files do not reach it.
  """
  root = run / run_directory.CHECKPOINTS
  if root.exists() and not root.is_dir():
    raise errors.UserError(f"{root}: expected a directory, found a file")
  steps = run_directory.checkpoint_steps(run)
  if step is None:
    step = _latest(root, steps)
  elif step not in steps:
    raise errors.UserError(
      f"{root}: there is no checkpoint of step {step}; there are {_list(steps)}"
    )
  elif fault := integrity.damage(root / str(step)):
    others = [s for s in steps if integrity.damage(root / str(s)) is None]
    raise errors.UserError(
      f"{fault}; the checkpoint of step {step} is damaged, whole are"
      f" {_list(others)}"
    )
  if step and (fault := _fault_of_run(run, step)):
    whole = [
      s
      for s in steps
      if s < step
      and integrity.damage(root / str(s)) is None
      and _fault_of_run(run, s) is None
    ]
    raise errors.UserError(
      f"{fault}; put back the file that was there when the checkpoint of step"
      f" {step} was saved, or "
      + (
        f"go on from step {whole[-1]} (--resume {whole[-1]})"
        if whole
        else "start a new run"
      )
    )
  return step


def _list(steps: list[int]) -> str:
  return ", ".join(map(str, steps)) or "none"


def _latest(root: pathlib.Path, steps: list[int]) -> int:
  """Returns the latest step whose checkpoint is whole, 0 without any."""
  faults = []
  for step in reversed(steps):
    fault = integrity.damage(root / str(step))
    if fault is None:
      for text in faults:
        progress.say(f"note: {text}; going on from step {step}")
      return step
    faults.append(fault)
  if faults:
    raise errors.UserError(
      f"{root}: none of the checkpoints {_list(steps)} is whole ({faults[0]});"
      " move this directory away to train from the beginning"
    )
  return 0


def _fault_of_run(run: pathlib.Path, step: int) -> str | None:
  """Returns what a run has lost of what it wrote until a step, if anything."""
  digests = integrity.Digests.read(run / run_directory.CHECKPOINTS / str(step))
  for name, expected in digests.run.items():
    path = run / name
    try:
      data = path.read_bytes()
    except OSError as error:
      return f"{path}: {error.strerror}"
    if integrity.Prefix.of(data[: expected.size]) != expected:
      return _fault_of_file(path, len(data) < expected.size, step)
  return None


def _fault_of_file(path: pathlib.Path, is_short: bool, step: int) -> str:
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
    return f"{place}: the file ends here and does not reach step {step}"
  return f"{path}: has changed since the checkpoint of step {step} was saved"


def go_back(
  run: pathlib.Path,
  manifest: run_manifest.RunManifest,
  step: int,
  chosen: bool,
) -> None:
  """Moves what came after a checkpoint into a directory `superseded-…`.

  Killed at any moment, it leaves a run that can be resumed.

  Args:
    run: Run directory.
    manifest: Manifest of the run.
    step: Step of the checkpoint, 0 for the beginning.
    chosen: Whether a user chose the checkpoint.
  """
  # All processes have chosen, before one of them moves anything.
  processes.wait("chosen a checkpoint")
  if processes.is_first():
    later = [s for s in run_directory.checkpoint_steps(run) if s > step]
    paths = [run / run_directory.CHECKPOINTS / str(s) for s in reversed(later)]
    if chosen or manifest.status == "finished":
      # A run that says it is finished has its model.
      manifest.model_copy(
        update={"status": "running", "finished_at": None, "files": {}}
      ).write(run)
      paths += [run / name for name in _OF_THE_FINAL_MODEL]
      paths += [
        path
        for path in (run / run_directory.OPPONENTS).glob("*.bin")
        if int(path.stem) > step
      ]
    aside = run / run_directory.new_run_id("superseded")
    for path in paths:
      if path.exists():
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
  processes.wait("set checkpoints aside")


def rewind(run: pathlib.Path, step: int) -> list[dict[str, Any]]:
  """Drops what a run wrote after a checkpoint; returns the metrics that stay.

  Args:
    run: Run directory.
    step: Step of the checkpoint, 0 for the beginning.
  """
  written: dict[str, integrity.Prefix] = {}
  if step:
    digests = integrity.Digests.read(
      run / run_directory.CHECKPOINTS / str(step)
    )
    written = digests.run
  rows = b""
  for name in (run_directory.ROLLOUTS, run_directory.METRICS):
    size = written[name].size if name in written else 0
    rows = (run / name).read_bytes()[:size] if size else b""
    if name == run_directory.METRICS or (run / name).exists():
      run_directory.write(run / name, rows)
  return [json.loads(line) for line in rows.splitlines()]


def remove_temporaries(run: pathlib.Path) -> None:
  """Removes what killed processes left half-written; the run must be held."""
  if not processes.is_first():
    return
  for path in (
    *(p for p in run.glob(".*") if p.name.lstrip(".").startswith(_HELD)),
    *(run / run_directory.OPPONENTS).glob(".*"),
    *(run / run_directory.CHECKPOINTS).glob(f"*{_TEMPORARY}"),
  ):
    files.remove(path)
