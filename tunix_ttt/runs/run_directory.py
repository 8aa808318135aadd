"""Run directories: the manifest that says what made a run, and its metrics.

A run directory is created whole, is never written over, and is held by one
process at a time:

    run_manifest.json                 what made the run, and how it ended
    metrics.jsonl                     one row a step, in step order
    {sft,dpo,grpo}_training_logs_….txt    the console's lines, one file a session
    tensorboard/                      the same metrics as events
    tokenizer.model                   the tokenizer that was trained for it
    checkpoints/                      Orbax checkpoints to resume from
    checkpoint-final/                 the trained model
    games.jsonl, games.summary.json   its games on every line
    report.html                       all of this, to look at and play with
    plots/                            the figures of the page, as SVG and PNG

A GRPO run also has

    rollouts.jsonl                    a few whole games of each logged step
    opponents/                        past selves, as tables of moves
    checkpoint-best/                  the model with the best score so far
"""

from collections.abc import Iterator, Sequence
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any, Literal, Self, TextIO, TypeVar

import filelock
import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import integrity
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
GAMES = "games.jsonl"
GAMES_SUMMARY = "games.summary.json"
PAGE = "report.html"
PLOTS = "plots"
RUNS_ROOT = pathlib.Path("artifacts/training_runs")

_PACKAGES = (
  "tunix_ttt",
  "google-tunix",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "qwix",
  "sentencepiece",
  "numpy",
)


Recipe = Literal["sft", "dpo", "grpo"]
RecordT = TypeVar("RecordT", bound=pydantic.BaseModel)


class Record(pydantic.BaseModel):
  """A part of a manifest."""

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def read_record(kind: type[RecordT], path: pathlib.Path, what: str) -> RecordT:
  """Reads and validates a file that is one record.

  Args:
    kind: Kind of the record.
    path: the file.
    what: what it is to the user, for the message.

  Raises:
    errors.UserError: if there is none or it does not fit the schema.
  """
  return _validated(kind, files.read_json(path, what), path, what)


def _validated(
  kind: type[RecordT], values: dict[str, Any], path: pathlib.Path, what: str
) -> RecordT:
  try:
    return kind.model_validate_json(files.to_json(values))
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    raise errors.UserError(
      f"{path}: not a {what}: {where}: {first['msg']}"
    ) from None


class DatasetRecord(Record):
  """The dataset of a run.

  Attributes:
    key: a short name: the file's, or `expert-games`.
    path: the data file, directory or hub id; None for generated games.
    digest: SHA-256 of the file's bytes, or of the rows.
    name: Name of a dataset that `build_dataset.py` built.
    version: Version of such a dataset.
    rows: rows in the source, or read of it where there is a limit.
    dropped_too_long: rows over the length limit.
    train_rows: rows trained on.
    eval_rows: rows held out for the eval loss.
    bad_rows: rows that could not be read and were skipped.
    first_bad_rows: place and reason of the first of them.
  """

  key: str
  path: str | None
  digest: str
  rows: int
  dropped_too_long: int
  train_rows: int
  eval_rows: int
  name: str | None = None
  version: str | None = None
  bad_rows: int = 0
  first_bad_rows: list[str] = []


class ModelRecord(Record):
  """The model that a run started from.

  Attributes:
    name: as in the config.
    revision: SHA-256 of the base model's parameters or files.
    tokenizer: SHA-256 of the tokenizer.
    commit: Commit of a model from the Hugging Face hub.
    parameters: how many numbers the model has, adapters included.
    trainable_parameters: how many of them are trained.
  """

  name: str
  revision: str
  tokenizer: str
  parameters: int
  trainable_parameters: int
  commit: str | None = None


class RewardRecord(Record):
  """A reward that was given in Python.

  Attributes:
    function: its name.
    weight: Weight of the reward in the sum.
    source: SHA-256 of its source, None where there is none to be had.
  """

  function: str
  weight: float
  source: str | None


class Session(Record):
  """One process's work on a run: the step it began after, and when."""

  started_at: str
  from_step: int


class RunManifest(Record):
  """The manifest of a run: everything that is needed to reproduce it.

  Attributes:
    run_id: the directory's name.
    created_at: UTC, ISO 8601.
    recipe: what trained the model.
    status: `running` until the final checkpoint is saved, then `finished`.
    seed: Random seed.
    config: the whole config, defaults spelled out.
    dataset: the data, None where games are played.
    dataset_key: the data's short name.
    model: the base model.
    rewards: Custom rewards by name.
    functions: SHA-256 of the source of each other function that the config
      names, by its key; None for a function without source.
    versions: Versions of Python and of the packages that matter.
    platform: Operating system and architecture of the machine.
    devices: the kind of each device.
    mesh: devices that are used along each axis.
    git_sha: the commit of the code, None outside a checkout.
    git_dirty: whether files differed from that commit.
    artifacts_path: where the run was created.
    working_directory: where it was started: what relative paths are from.
    sessions: one entry for each process that worked on it.
    finished_at: UTC, ISO 8601.
    final_metrics: the last metrics of training and of evaluation.
    wandb_url: Address of the run's page on W&B; None without one.
    files: Digests of a finished run's metrics and games, by name.
    digest: SHA-256 of the other fields.
  """

  schema_version: Literal[1] = 1
  run_id: str
  created_at: str
  recipe: Recipe
  status: Literal["running", "finished"] = "running"
  seed: int
  config: dict[str, Any]
  dataset: DatasetRecord | None
  dataset_key: str
  model: ModelRecord
  rewards: dict[str, RewardRecord] = {}
  functions: dict[str, str | None] = {}
  versions: dict[str, str]
  platform: str
  devices: list[str]
  mesh: dict[str, int]
  git_sha: str | None
  git_dirty: bool | None
  artifacts_path: str
  working_directory: str | None = None
  sessions: list[Session] = []
  finished_at: str | None = None
  final_metrics: dict[str, float] = {}
  wandb_url: str | None = None
  files: dict[str, integrity.Prefix] = {}
  digest: str | None = None

  @classmethod
  def read(cls, run: pathlib.Path | str) -> Self:
    """Reads and validates the manifest of a run directory.

    Raises:
      errors.UserError: if there is none, it does not fit the schema, or it has
        changed since it was written.
    """
    path = pathlib.Path(run) / MANIFEST
    values = files.read_json(path, "run manifest")
    manifest = _validated(cls, values, path, "run manifest")
    # Of what is in the file, which may lack fields that this version has.
    if values.pop("digest", None) not in (None, _digest(values)):
      raise errors.UserError(
        f"{path}: this run manifest has changed since it was written; put back"
        " the one that the run wrote"
      )
    return manifest

  def write(self, run: pathlib.Path) -> None:
    """Writes the manifest into a run directory, replacing the one there."""
    values = json.loads(self.model_dump_json(exclude={"digest"}))
    signed = {**values, "digest": _digest(values)}
    text = json.dumps(signed, indent=2, ensure_ascii=False)
    write(run / MANIFEST, f"{text}\n".encode())

  def with_files(self, run: pathlib.Path, *names: str) -> Self:
    """Returns the manifest with the digests of files of the run."""
    found = {
      name: integrity.Prefix.of((run / name).read_bytes())
      for name in names
      if processes.is_first() and (run / name).exists()
    }
    return self.model_copy(update={"files": self.files | found})

  def check_files(self, run: pathlib.Path) -> None:
    """Raises a UserError if a file of a finished run is not what it was."""
    for name, expected in self.files.items():
      path = run / name
      text = f"{path}: has changed since the run was finished"
      if not path.is_file():
        text = f"{path}: is gone; the run had it when it was finished"
      elif integrity.Prefix.of(path.read_bytes()) == expected:
        continue
      raise errors.UserError(f"{text}; put it back from a copy")


def _digest(values: dict[str, Any]) -> str:
  return hashlib.sha256(files.to_json(values).encode()).hexdigest()


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file of a run; the first of its processes does so."""
  if processes.is_first():
    files.write_bytes(path, data)


def open_to_append(path: pathlib.Path) -> TextIO:
  """Opens a file of a run to append to it; nothing is kept of other processes.

  Args:
    path: the file.
  """
  return (path if processes.is_first() else pathlib.Path(os.devnull)).open(
    "a", encoding="utf-8"
  )


def now() -> str:
  """Returns the time in UTC, ISO 8601 to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def new_run_id(prefix: str) -> str:
  """Returns a directory name made of a prefix and the time in UTC."""
  stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
  return f"{prefix}-{stamp}"


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that matter."""
  found = {"python": platform.python_version()}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def git_state() -> tuple[str | None, bool | None]:
  """Returns the commit of this code and whether files differ from it."""

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", *arguments],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # An installed copy may lie inside somebody else's repository.
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != _project_root():
      return None, None
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
  except (OSError, subprocess.CalledProcessError):
    return None, None


def _project_root() -> pathlib.Path:
  return pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def hold(run: pathlib.Path) -> Iterator[None]:
  """Holds a run directory for this process, and those that it works with.

  Raises:
    errors.UserError: if another process holds it.
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


def of_model(model: str | pathlib.Path) -> pathlib.Path | None:
  """Returns the directory of the run that a model is of.

  Args:
    model: a run or one of its checkpoints; others are of no run.
  """
  path = pathlib.Path(model)
  directory = path.parent if path.name.startswith("checkpoint-") else path
  return directory if (directory / MANIFEST).is_file() else None


def config_of_model(
  model: str | pathlib.Path, settings: Sequence[str] = ()
) -> config_lib.SFTConfig | None:
  """Returns the settings of the run that a model is of; None for no run's.

  Args:
    model: a run or one of its checkpoints.
    settings: assignments that replace what the run's manifest says.

  Raises:
    errors.UserError: if they are wrong.
  """
  run = of_model(model)
  if run is None:
    return None
  manifest = RunManifest.read(run)
  kind = config_lib.RECIPES[manifest.recipe]
  return config_lib.load(kind, manifest.config, settings)


def checkpoint_steps(run: pathlib.Path) -> list[int]:
  """Returns the steps of which there is a checkpoint, in order."""
  found = (run / CHECKPOINTS).glob("*")
  return sorted(int(path.name) for path in found if path.name.isdecimal())


class MetricsFile:
  """Appends rows to a run's `metrics.jsonl`."""

  def __init__(self, run: pathlib.Path):
    self._file = open_to_append(run / METRICS)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row; it is in the file when this returns."""
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_metrics(run: pathlib.Path | str) -> list[dict[str, Any]]:
  """Returns the rows of a run's `metrics.jsonl`.

  A last line that was cut short, as a killed run leaves it, is none.

  Raises:
    errors.UserError: if another line is no row of metrics.
  """
  path = pathlib.Path(run) / METRICS
  lines = list(files.scan_jsonl(path, "file of metrics"))
  if lines and lines[-1].row is None:
    lines.pop()
  rows = []
  for line in lines:
    fault = line.fault or _fault_of_metrics(line.row or {})
    if line.row is None or fault:
      raise errors.UserError(f"{path}:{line.number}: {fault}")
    rows.append(line.row)
  return rows


def _fault_of_metrics(row: dict[str, Any]) -> str:
  """Returns what keeps a row from being one of metrics, if anything does."""
  if not {"step", "split"} <= row.keys():
    return "a row of metrics has a step and a split"
  for name, value in row.items():
    kind = {"step": int, "split": str}.get(name, int | float)
    if not isinstance(value, kind) or isinstance(value, bool):
      expected = "text" if kind is str else "a number"
      return f"{name}: expected {expected}, found {errors.quote(value)}"
  return ""


class TextLog:
  """Prints lines to the console and keeps them in a run's text log."""

  def __init__(self, run: pathlib.Path, recipe: str):
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d_%H%M%S")
    path = run / f"{recipe}_training_logs_{stamp}.txt"
    self._file = open_to_append(path)
    self._file.write(f"=== {recipe.upper()} Training Logs ===\n")
    self._file.write(f"Started at: {now()}\n{'=' * 50}\n\n")
    self._file.flush()

  def write(self, line: str) -> None:
    """Appends a line; it is in the file when this returns."""
    self._file.write(line + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
