"""Run manifests: the records that reproduce a run."""

from collections.abc import Sequence
import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any, Literal, Self, TypeVar

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory

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

RecordT = TypeVar("RecordT", bound=pydantic.BaseModel)


class Record(pydantic.BaseModel):
  """Base class of manifests and their parts: frozen, no unknown keys."""

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def read_record(kind: type[RecordT], path: pathlib.Path, what: str) -> RecordT:
  """Reads and validates a JSON file that holds one record.

  `what` is the noun for the file in messages, such as "run manifest".

  Raises:
    errors.UserError: if the file is missing or does not fit the class.
  """
  return _validated(kind, files.read_json(path, what), path, what)


def _validated(
  kind: type[RecordT], values: dict[str, Any], path: pathlib.Path, what: str
) -> RecordT:
  try:
    return kind.model_validate_json(files.to_json(values))
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    message = f"{path}: not a {what}: {key}: {first['msg']}"
    raise errors.UserError(message) from None


class DatasetRecord(Record):
  """The dataset of a run.

  Attributes:
    key: Short name: the file's name, or `expert-games`.
    path: Data file, directory or hub id; None for generated games.
    digest: SHA-256 of the file's bytes, or of the rows.
    name: Name of a dataset that `build_dataset.py` built.
    version: Version of such a dataset.
    rows: Number of rows in the source, or of rows read if a limit is set.
    dropped_too_long: Number of rows over the length limit.
    train_rows: Number of rows for training.
    eval_rows: Number of rows held out for the eval loss.
    bad_rows: Number of unreadable rows that were skipped.
    first_bad_rows: Place and reason of the first skipped rows.
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
    name: Name in the config.
    revision: SHA-256 of the base model's parameters or files.
    tokenizer: SHA-256 of the tokenizer.
    commit: Commit of a model from the Hugging Face hub; None for other models.
    parameters: Number of parameters, adapters included.
    trainable_parameters: Number of trained parameters.
  """

  name: str
  revision: str
  tokenizer: str
  parameters: int
  trainable_parameters: int
  commit: str | None = None


class RewardRecord(Record):
  """A reward function that was passed from Python.

  Attributes:
    function: Name of the function.
    weight: Weight of the reward in the sum.
    source: SHA-256 of the source code; None if Python cannot read the source.
  """

  function: str
  weight: float
  source: str | None


class Session(Record):
  """The work of one process on a run.

  Attributes:
    started_at: Start in UTC, ISO 8601.
    from_step: Number of steps trained before the session.
  """

  started_at: str
  from_step: int


class RunManifest(Record):
  """The manifest of a run: everything that is needed to reproduce it.

  Attributes:
    run_id: Name of the run directory.
    created_at: Creation time in UTC, ISO 8601.
    recipe: Recipe that trained the model: `sft`, `dpo` or `grpo`.
    status: `running` until the final checkpoint is saved, then `finished`.
    seed: Random seed.
    config: Whole config, with every default.
    dataset: Training data; None if the model trains on games that it plays.
    dataset_key: Short name of the data.
    model: Base model.
    rewards: Custom rewards by name.
    functions: SHA-256 of the source of each other function that the config
      names, by its key; None for a function without source.
    versions: Versions of Python and of the main packages.
    platform: Operating system and architecture of the machine.
    devices: Kind of each device.
    mesh: Number of devices along each mesh axis.
    git_sha: Commit of the code; None outside a checkout.
    git_dirty: Whether files differed from that commit.
    artifacts_path: Path at which the run was created.
    working_directory: Directory that relative paths start from.
    sessions: One entry for each process that worked on the run.
    finished_at: Time of the final checkpoint in UTC; None before.
    final_metrics: Last metrics of training and of evaluation.
    wandb_url: Address of the run's page on W&B; None without one.
    files: Digests of a finished run's metrics and games, by name.
    digest: SHA-256 of the other fields.
  """

  schema_version: Literal[1] = 1
  run_id: str
  created_at: str
  recipe: config_lib.Recipe
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
      errors.UserError: if the manifest is missing, does not fit the schema, or
        has changed since it was written.
    """
    path = pathlib.Path(run) / run_directory.MANIFEST
    values = files.read_json(path, "run manifest")
    manifest = _validated(cls, values, path, "run manifest")
    # The digest covers the file's fields; an older file may lack newer fields.
    if values.pop("digest", None) not in (None, _digest(values)):
      raise errors.UserError(
        f"{path}: this run manifest has changed since it was written; put back"
        " the one that the run wrote"
      )
    return manifest

  def load_config(
    self, run: pathlib.Path, overrides: Sequence[str] = ()
  ) -> config_lib.SFTConfig:
    """Returns the run's settings, of the class of its recipe.

    `overrides` are `a.b=value` assignments that replace settings.

    Raises:
      errors.UserError: if the config or an assignment is wrong.
    """
    path = run / run_directory.MANIFEST
    if self.recipe != "sft" and self.recipe not in self.config:
      raise errors.UserError(
        f"{path}: recipe: {self.recipe!r} has no section in the config"
      )
    kind = config_lib.RECIPES[self.recipe]
    # Processes are those of a session; later work has its own.
    values = {**self.config, "distributed": None}
    return config_lib.load(kind, values, overrides, name=f"{path}: config")

  def write(self, run: pathlib.Path) -> None:
    """Writes the manifest into a run directory and replaces an older one."""
    values = json.loads(self.model_dump_json(exclude={"digest"}))
    signed = {**values, "digest": _digest(values)}
    text = json.dumps(signed, indent=2, ensure_ascii=False)
    run_directory.write(run / run_directory.MANIFEST, f"{text}\n".encode())

  def with_files(self, run: pathlib.Path, *names: str) -> Self:
    """Returns the manifest with the digests of files of the run."""
    digests = {
      name: integrity.Prefix.of((run / name).read_bytes())
      for name in names
      if processes.is_first() and (run / name).exists()
    }
    return self.model_copy(update={"files": self.files | digests})

  def check_files(self, run: pathlib.Path) -> None:
    """Raises a UserError if a file of a finished run is gone or changed."""
    for name, expected in self.files.items():
      path = run / name
      if not path.is_file():
        fault = "is gone; the run had it when it was finished"
      elif integrity.Prefix.of(path.read_bytes()) != expected:
        fault = "has changed since the run was finished"
      else:
        continue
      raise errors.UserError(f"{path}: {fault}; put it back from a copy")


def _digest(values: dict[str, Any]) -> str:
  return hashlib.sha256(files.to_json(values).encode()).hexdigest()


def config_of_model(
  model: str | pathlib.Path, settings: Sequence[str] = ()
) -> config_lib.SFTConfig | None:
  """Returns the config of the run that made a model; None without a run.

  The model is a run directory or one of its checkpoints; `settings` are
  `a.b=value` assignments that replace recorded settings.
  """
  run = run_directory.of_model(model)
  return run and RunManifest.read(run).load_config(run, settings)


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the main packages."""
  by_name = {"python": platform.python_version()}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      by_name[package] = importlib.metadata.version(package)
  return by_name


def git_state() -> tuple[str | None, bool | None]:
  """Returns the commit of this code, and whether files differ from it."""
  path = pathlib.Path(__file__).resolve()

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", *arguments],
      cwd=path.parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # An installed copy may lie inside another project's repository.
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != path.parents[2]:
      return None, None
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
  except (OSError, subprocess.CalledProcessError):
    return None, None
