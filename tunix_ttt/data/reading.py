"""Reads rows from files, built datasets and the Hugging Face hub."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from typing import Any, Literal, Self, TypeVar

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import run_manifest

DATA = "data.jsonl"
MANIFEST = "manifest.json"
# Number of bad rows that are described; further ones are only counted.
FAULTS_KEPT = 20


class Skipped(run_manifest.Record):
  """Bad rows that were skipped.

  Attributes:
    rows: Number of bad rows.
    first: Location and fault of each of the first `FAULTS_KEPT` bad rows.
  """

  rows: int = 0
  first: list[str] = pydantic.Field(default_factory=list)


class _Manifest(run_manifest.Record):
  """Fields of every manifest.

  Attributes:
    created_at: Creation time in UTC, ISO 8601.
    digest: SHA-256 of the data file's bytes.
    rows: Number of rows in the data file.
  """

  schema_version: Literal[1] = 1
  created_at: str
  digest: str
  rows: int

  @classmethod
  def read(cls, path: pathlib.Path) -> Self:
    """Reads and validates a manifest."""
    return run_manifest.read_record(cls, path, "dataset manifest")

  def to_bytes(self) -> bytes:
    """Returns the contents of the manifest's file."""
    return self.model_dump_json(indent=2).encode() + b"\n"


class Generated(_Manifest):
  """The manifest of a file of generated rows, written beside the file.

  Attributes:
    generator: Kind of the rows.
    settings: Settings of the generator.
    seed: Random seed.
    counts: Counts of generated and dropped games, positions, pairs or prompts.
  """

  generator: str
  settings: dict[str, Any]
  seed: int
  counts: dict[str, int]


class Parent(run_manifest.Record):
  """A source of a built dataset.

  Attributes:
    path: File, directory or hub id.
    digest: SHA-256 of the file's bytes, or of the rows.
    rows: Number of good rows.
    skipped: Bad rows.
    name: Dataset name of a built parent.
    version: Dataset version of a built parent.
    generator: Kind, settings, seed and counts of a generated parent.
  """

  path: str
  digest: str
  rows: int
  skipped: Skipped
  name: str | None = None
  version: str | None = None
  generator: dict[str, Any] | None = None


class Version(_Manifest):
  """The manifest of a built dataset.

  Attributes:
    name: Name of the dataset.
    version: Version of the dataset.
    parents: Sources, in order.
    filters: Required text of row fields.
    limit: Maximum number of rows, None for all.
    strategy: Rows to take if there are more than `limit`.
    seed: Random seed of the strategy `random`.
    counts: Numbers of good rows read, filtered out and over the limit.
    formats: Number of rows per format.
  """

  name: str
  version: str
  parents: list[Parent]
  filters: Mapping[str, str]
  limit: int | None
  strategy: Literal["latest", "random"]
  seed: int
  counts: dict[str, int]
  formats: dict[str, int]


def beside(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of a generated file's manifest."""
  return path.with_name(path.name + ".manifest.json")


T = TypeVar("T")
Row = dict[str, Any]

_JSONL = (".jsonl", ".json", ".ndjson")
_TABLES = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """A source of rows.

  Attributes:
    path: Path or hub id from the user.
    key: Short name of the source.
    lines: Function that reads all rows from the start.
    file: Data file to hash, None for a dataset on the hub.
    name: Name of a built dataset.
    version: Version of a built dataset.
  """

  path: str
  key: str
  lines: Callable[[], Iterator[files.Line]]
  file: pathlib.Path | None
  name: str | None = None
  version: str | None = None

  def digest(self) -> str:
    """Returns the SHA-256 of the file's bytes, or of the rows as JSON."""
    if self.file is not None:
      return files.digest(self.file, "data file")
    digest = hashlib.sha256()
    for line in self.lines():
      digest.update(files.to_json(line.row).encode() + b"\n")
    return digest.hexdigest()


@dataclasses.dataclass
class Faults:
  """Counts bad rows and describes the first of them.

  The location and fault of the first `FAULTS_KEPT` rows are kept.
  """

  path: str
  count: int = 0
  first: list[str] = dataclasses.field(default_factory=list)

  def add(self, number: int, fault: str) -> None:
    """Adds the bad row of a line."""
    self.count += 1
    if self.count <= FAULTS_KEPT:
      self.first.append(f"{self.path}:{number}: {fault}")

  def record(self) -> Skipped:
    """Returns the record for a manifest."""
    return Skipped(rows=self.count, first=self.first)

  def check(self, num_good: int, *, skip_bad_rows: bool) -> None:
    """Raises a UserError if a row is bad and not skipped, or none is good."""
    if num_good and (skip_bad_rows or not self.count):
      return
    if not self.count:
      raise errors.UserError(f"{self.path}: this data file has no rows")
    lines = list(self.first)
    if more := self.count - len(self.first):
      lines.append(f"and {more:,} more bad rows")
    if skip_bad_rows:
      lines.append(f"{self.path}: no good row is left")
    else:
      lines[-1] += " (fix the bad rows, or skip them by --skip-bad-rows)"
    raise errors.UserError("\n".join(lines))


def find(path: str, split: str = "train") -> Rows:
  """Finds a source of rows; reads only the manifest of a built dataset.

  The path names a JSONL, Parquet, CSV or Arrow file, the directory of a built
  dataset, or a dataset on the Hugging Face hub, which has splits.

  Raises:
    errors.UserError: If there is no such file, or a built dataset does not
      match its manifest.
  """
  place = pathlib.Path(path)
  suffix = place.suffix.lower()
  # os.path returns False for a name that is too long; pathlib raises.
  if os.path.isdir(place):
    return _built(place)
  is_file = os.path.exists(place)
  is_named = suffix in _JSONL or suffix in _TABLES
  if not is_file and not is_named and files.is_hub_id(path):
    return Rows(
      path=path,
      key=f"{path}[{split}]",
      lines=lambda: _load_dataset(path, path, split=split),
      file=None,
    )
  if not is_file:
    raise errors.UserError(f"{path}: no such data file")
  if suffix in _TABLES:
    return _table(place, _TABLES[suffix])
  return _jsonl(place)


def read(
  rows: Rows, parse: Callable[[Row], T], faults: Faults
) -> Iterator[tuple[int, Row, T]]:
  """Yields the line number, the fields and the parsed value of each good row.

  `parse` raises a ValueError for a bad row; `faults` collects them.
  """
  for line in rows.lines():
    if line.row is None:
      faults.add(line.number, line.fault)
      continue
    try:
      parsed = parse(line.row)
    except ValueError as error:
      faults.add(line.number, str(error))
    else:
      yield line.number, line.row, parsed


def _jsonl(path: pathlib.Path, **version: str) -> Rows:
  return Rows(
    path=str(path),
    key=path.stem,
    lines=lambda: files.scan_jsonl(path, "data file"),
    file=path,
    **version,
  )


def _built(directory: pathlib.Path) -> Rows:
  manifest = Version.read(directory / MANIFEST)
  rows = _jsonl(directory / DATA, name=manifest.name, version=manifest.version)
  if rows.digest() != manifest.digest:
    raise errors.UserError(
      f"{rows.path}: changed since it was built, by the digest in"
      f" {MANIFEST}; build another version"
    )
  key = f"{manifest.name}-{manifest.version}"
  return dataclasses.replace(rows, path=str(directory), key=key)


def _table(path: pathlib.Path, kind: str) -> Rows:
  def lines() -> Iterator[files.Line]:
    source = str(path)
    return _load_dataset(
      source, kind, data_files=source, split="train", streaming=True
    )

  return Rows(path=str(path), key=path.stem, lines=lines, file=path)


def _load_dataset(
  source: str, name: str, **settings: Any
) -> Iterator[files.Line]:
  """Yields the rows of `datasets.load_dataset`."""
  # Imported lazily: takes seconds, and JSONL does not need it.
  try:
    import datasets
    from datasets import exceptions
  except ImportError:
    raise errors.UserError(
      f"{source}: the package datasets is not installed; run: pip install"
      " datasets"
    ) from None
  # The package logs the errors that it raises.
  logging.getLogger("datasets").setLevel(logging.CRITICAL)
  try:
    for number, row in enumerate(datasets.load_dataset(name, **settings), 1):
      yield files.Line(number, _to_plain(dict(row)))
  except exceptions.DatasetNotFoundError:
    reason = (
      "no such file, and no such dataset on the Hugging Face hub, or it is"
      " private and HF_TOKEN is not set"
    )
  except ConnectionError:
    reason = (
      "no such file, and no such dataset in the local cache; the Hugging Face"
      " hub cannot be reached"
    )
  except (exceptions.DatasetsError, OSError, ValueError) as error:
    reason = f"cannot be read as rows: {str(error).splitlines()[0]}"
  else:
    return
  raise errors.UserError(f"{source}: {reason}")


def _to_plain(row: Row) -> Row:
  """Returns a row of JSON values without missing columns."""
  # NaN, the missing value of a CSV file, does not equal itself.
  present = {k: v for k, v in row.items() if v is not None and v == v}
  return json.loads(json.dumps(present, default=str))
