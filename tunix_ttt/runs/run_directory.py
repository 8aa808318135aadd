"""Files of a run directory: paths, locks, metrics and text logs.

A run directory is created whole, is never overwritten, and is held by one
process at a time:

    run_manifest.json                 settings, data, model and versions
    metrics.jsonl                     one row per step, in step order
    {sft,dpo,grpo}_training_logs_….txt    console lines, one file per session
    tensorboard/                      the same metrics as events
    tokenizer.model                   the tokenizer trained for the run
    checkpoints/                      Orbax checkpoints to resume from
    checkpoint-final/                 the trained model
    games.jsonl, games.summary.json   the model's games on every line of play
    report.html                       the report page
    plots/                            the page's plots, as SVG and PNG

A GRPO run also has

    rollouts.jsonl                    a few whole games of each logged step
    opponents/                        past selves, as tables of moves or models
    mistakes/                         positions on which an evaluation erred
    checkpoint-best/                  the model with the best score so far
"""

from collections.abc import Iterator
import contextlib
import datetime
import os
import pathlib
from typing import Any, TextIO

import filelock

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import processes

MANIFEST = "run_manifest.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer.model"
CHECKPOINTS = "checkpoints"
FINAL_CHECKPOINT = "checkpoint-final"
BEST_CHECKPOINT = "checkpoint-best"
ROLLOUTS = "rollouts.jsonl"
OPPONENTS = "opponents"
MISTAKES = "mistakes"
GAMES = "games.jsonl"
GAMES_SUMMARY = "games.summary.json"
PAGE = "report.html"
PLOTS = "plots"
RUNS_ROOT = pathlib.Path("artifacts/training_runs")


def now() -> str:
  """Returns the time in UTC, ISO 8601 to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _stamp(date_format: str) -> str:
  return datetime.datetime.now(datetime.UTC).strftime(date_format)


def new_run_id(prefix: str) -> str:
  """Returns a directory name from a prefix and the time in UTC."""
  return f"{prefix}-{_stamp('%Y%m%d-%H%M%S')}"


def of_model(model: str | pathlib.Path) -> pathlib.Path | None:
  """Returns the run of a checkpoint or a run directory; None if it has none."""
  path = pathlib.Path(model)
  run = path.parent if path.name.startswith("checkpoint-") else path
  return run if (run / MANIFEST).is_file() else None


def checkpoint_steps(run: pathlib.Path) -> list[int]:
  """Returns the steps of a run's checkpoints, in order."""
  names = (path.name for path in (run / CHECKPOINTS).glob("*"))
  return sorted(int(name) for name in names if name.isdecimal())


@contextlib.contextmanager
def hold(run: pathlib.Path) -> Iterator[None]:
  """Holds a run directory for this process and its peers in the run.

  Raises:
    errors.UserError: if another process holds the run.
  """
  if not processes.is_first():
    yield
    return
  try:
    lock = filelock.FileLock(run / ".lock").acquire(blocking=False)
  except filelock.Timeout:
    raise errors.UserError(
      f"{run}: another process is working on this run"
    ) from None
  with lock:
    yield


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file of a run, in the first process only."""
  if processes.is_first():
    files.write_bytes(path, data)


def open_to_append(path: pathlib.Path) -> TextIO:
  """Opens a file of a run to append lines, each on disk once it is written.

  Processes other than the first one write to /dev/null.
  """
  target = path if processes.is_first() else pathlib.Path(os.devnull)
  return target.open("a", buffering=1, encoding="utf-8")


def open_text_log(run: pathlib.Path, recipe: str) -> TextIO:
  """Opens a new text log of a run and writes its head."""
  name = f"{recipe}_training_logs_{_stamp('%Y%m%d_%H%M%S')}.txt"
  log = open_to_append(run / name)
  log.write(
    f"=== {recipe.upper()} Training Logs ===\n"
    f"Started at: {now()}\n{'=' * 50}\n\n"
  )
  return log


def read_metrics(run: pathlib.Path | str) -> list[dict[str, Any]]:
  """Returns the rows of a run's `metrics.jsonl`.

  An incomplete last line, as a killed run leaves it, is skipped.

  Raises:
    errors.UserError: if another line is not a row of metrics.
  """
  path = pathlib.Path(run) / METRICS
  lines = list(files.scan_jsonl(path, "file of metrics"))
  if lines and lines[-1].row is None:
    lines.pop()
  rows = []
  for line in lines:
    fault = line.fault or _metrics_fault(line.row or {})
    if line.row is None or fault:
      raise errors.UserError(f"{path}:{line.number}: {fault}")
    rows.append(line.row)
  return rows


def _metrics_fault(row: dict[str, Any]) -> str:
  """Returns the reason that a row is not a row of metrics, or ""."""
  if not {"step", "split"} <= row.keys():
    return "a row of metrics has a step and a split"
  for name, value in row.items():
    kind = {"step": int, "split": str}.get(name, int | float)
    if not isinstance(value, kind) or isinstance(value, bool):
      expected = "text" if kind is str else "a number"
      return f"{name}: expected {expected}, found {errors.quote(value)}"
  return ""
