"""Rows from wherever they are: files, built datasets, the Hugging Face hub."""

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from typing import Any, TypeVar

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.data import manifests

T = TypeVar("T")
Row = dict[str, Any]

_JSONL = (".jsonl", ".json", ".ndjson")
_TABLES = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The source of rows.

  Attributes:
    path: as it was named: a file, a directory or a hub id.
    key: a short name.
    lines: reads them from the start.
    file: whose bytes say what they are; None for those of the hub.
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
    found = hashlib.sha256()
    for line in self.lines():
      found.update(files.to_json(line.row).encode() + b"\n")
    return found.hexdigest()


@dataclasses.dataclass
class Faults:
  """Bad rows: how many, and what is wrong with the first of them.

  Attributes:
    path: where they are.
    count: how many there are.
    first: a line for each of the first few.
  """

  path: str
  count: int = 0
  first: list[str] = dataclasses.field(default_factory=list)

  def add(self, number: int, fault: str) -> None:
    """Adds the bad row of a line."""
    self.count += 1
    if self.count <= manifests.FAULTS_KEPT:
      self.first.append(f"{self.path}:{number}: {fault}")

  def record(self) -> manifests.Skipped:
    """Returns what a manifest keeps of them."""
    return manifests.Skipped(rows=self.count, first=self.first)

  def check(self, found: int, *, skip_bad_rows: bool) -> None:
    """Decides whether to go on.

    Args:
      found: how many good rows there are.
      skip_bad_rows: whether to go on without the bad ones.

    Raises:
      errors.UserError: with a line for each bad row, or if no row is left.
    """
    if not self.count:
      if not found:
        raise errors.UserError(f"{self.path}: this data file has no rows")
      return
    lines = list(self.first)
    if more := self.count - len(self.first):
      lines.append(f"and {more:,} more bad rows")
    if not skip_bad_rows:
      lines[-1] += " (mend what is bad, or go on without it by --skip-bad-rows)"
    elif not found:
      lines.append(f"{self.path}: no good row is left")
    else:
      return
    raise errors.UserError("\n".join(lines))


def find(path: str, split: str = "train") -> Rows:
  """Finds rows; nothing is read yet but the manifest of a built dataset.

  Args:
    path: a file (JSONL, Parquet, CSV or Arrow), the directory of a built
      dataset, or the id of a dataset on the Hugging Face hub.
    split: Split of a dataset on the hub.

  Raises:
    errors.UserError: if a built dataset is not what its manifest says.
  """
  place = pathlib.Path(path)
  suffix = place.suffix.lower()
  # Unlike pathlib's, they are false for a name that is too long.
  if os.path.isdir(place):
    return _built(place)
  if suffix in _TABLES:
    return _table(place, _TABLES[suffix])
  is_file = os.path.exists(place) or suffix in _JSONL
  if not is_file and files.is_hub_id(path):
    return _hub(path, split)
  return _jsonl(place)


def read(
  rows: Rows, parse: Callable[[Row], T], faults: Faults
) -> Iterator[tuple[int, Row, T]]:
  """Yields each good row, its number first and what `parse` makes of it last.

  Args:
    rows: where from.
    parse: raises a ValueError for a bad row.
    faults: where bad rows are added; see `Faults.check`.
  """
  for line in rows.lines():
    if line.row is None:
      faults.add(line.number, line.fault)
      continue
    try:
      parsed = parse(line.row)
    except ValueError as error:
      faults.add(line.number, str(error))
      continue
    yield line.number, line.row, parsed


def _jsonl(path: pathlib.Path, **built: str) -> Rows:
  return Rows(
    path=str(path),
    key=path.stem,
    lines=lambda: files.scan_jsonl(path, "data file"),
    file=path,
    **built,
  )


def _built(directory: pathlib.Path) -> Rows:
  manifest = manifests.Version.read(directory / manifests.MANIFEST)
  found = _jsonl(
    directory / manifests.DATA, name=manifest.name, version=manifest.version
  )
  if found.digest() != manifest.digest:
    raise errors.UserError(
      f"{found.path}: changed since it was built, by the digest in"
      f" {manifests.MANIFEST}; build another version"
    )
  key = f"{manifest.name}-{manifest.version}"
  return dataclasses.replace(found, path=str(directory), key=key)


def _table(path: pathlib.Path, kind: str) -> Rows:
  def lines() -> Iterator[files.Line]:
    if not os.path.exists(path):
      raise errors.UserError(f"{path}: no such data file")
    yield from _of_datasets(
      str(path), kind, data_files=str(path), split="train", streaming=True
    )

  return Rows(path=str(path), key=path.stem, lines=lines, file=path)


def _hub(name: str, split: str) -> Rows:
  return Rows(
    path=name,
    key=f"{name}[{split}]",
    lines=lambda: _of_datasets(name, name, split=split),
    file=None,
  )


def _of_datasets(what: str, name: str, **settings: Any) -> Iterator[files.Line]:
  """Yields the rows of what `datasets.load_dataset` loads."""
  # Here, because it takes seconds, and JSONL does not need it.
  try:
    import datasets
    from datasets import exceptions
  except ImportError:
    raise errors.UserError(
      f"{what}: the package datasets is not installed; run: pip install datasets"
    ) from None
  # Its log repeats what it raises.
  logging.getLogger("datasets").setLevel(logging.CRITICAL)
  try:
    for number, row in enumerate(datasets.load_dataset(name, **settings), 1):
      yield files.Line(number, _plain(dict(row)))
  except exceptions.DatasetNotFoundError:
    reason = (
      "there is no such file, and no such dataset on the Hugging Face hub, or"
      " it is private and HF_TOKEN is not set"
    )
  except ConnectionError:
    reason = (
      "there is no such file; a dataset of that name is not in the local cache,"
      " and the Hugging Face hub cannot be reached"
    )
  except (exceptions.DatasetsError, OSError, ValueError) as error:
    reason = f"cannot be read as rows: {str(error).splitlines()[0]}"
  else:
    return
  raise errors.UserError(f"{what}: {reason}")


def _plain(row: Row) -> Row:
  """Returns a row as JSON has it, without the columns that it has not."""
  # What is missing in a CSV file is NaN, which does not equal itself.
  kept = {k: v for k, v in row.items() if v is not None and v == v}
  return json.loads(json.dumps(kept, default=str))
