"""Builds and exports named, versioned datasets, which never change.

`ROOT/NAME/VERSION/` holds `data.jsonl` and `manifest.json`, which records the
sources and the selection. Rows keep all their fields, also those outside their
format.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
import re
from typing import Literal

import numpy as np

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """The selection of rows.

  Attributes:
    filters: Required text of row fields; `a.b` is the field b within a. A row
      without the field is judged by that of its `metadata`.
    limit: Maximum number of rows, None for all.
    strategy: Rows to take if there are more: `random` ones, or the `latest` by
      `created_at`, or by their order if a row has no date. Rows keep their order.
    seed: Random seed of the strategy `random`.
  """

  filters: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limit: int | None = None
  strategy: Literal["latest", "random"] = "latest"
  seed: int = 0

  def passes(self, row: row_formats.Row) -> bool:
    """Returns whether a row passes the filters."""
    return all(_text_of(row, k) == v for k, v in self.filters.items())

  def take(self, created_at: Sequence[str | None]) -> np.ndarray:
    """Returns which of N rows to take, bool [N], by their creation times."""
    total = len(created_at)
    if self.limit is None or total <= self.limit:
      return np.ones(total, bool)
    if self.strategy == "random":
      rng = streams.generator(self.seed, streams.Stream.BUILT_ROWS)
      order = rng.permutation(total)
    elif None in created_at:
      order = np.arange(total)
    else:
      order = np.argsort(np.array(created_at), kind="stable")
    is_taken = np.zeros(total, bool)
    is_taken[order[-self.limit :]] = True
    return is_taken


def directory(root: pathlib.Path, name: str, version: str) -> pathlib.Path:
  """Returns the directory of a version; raises a UserError for a bad name."""
  for flag, text in (("--name", name), ("--version", version)):
    if not _NAME.fullmatch(text):
      raise errors.UserError(
        f"{flag}: {text!r} must start with a letter or digit and consist of"
        " letters, digits, '.', '_' and '-'"
      )
  return root / name / version


@progress.stage("building the version")
def build(
  root: pathlib.Path,
  name: str,
  version: str,
  sources: Sequence[str],
  choice: Choice,
  *,
  split: str = "train",
  skip_bad_rows: bool = False,
) -> reading.Version:
  """Builds a new version of a dataset in `ROOT/NAME/VERSION`.

  Sources are paths or hub ids, as for `reading.find`; `split` is of the latter.

  Raises:
    errors.UserError: If the version exists, or no row passes the filters.
  """
  place = directory(root, name, version)
  files.check_output(place)
  all_rows = [reading.find(source, split) for source in sources]
  created_at: list[str | None] = []
  parents, num_rows = [], 0
  for rows in all_rows:
    faults = reading.Faults(rows.path)
    num_good = 0
    for _, row, _ in reading.read(rows, row_formats.parse_row, faults):
      num_good += 1
      if choice.passes(row):
        created_at.append(_text_of(row, "created_at"))
    faults.check(num_good, skip_bad_rows=skip_bad_rows)
    parents.append(_parent(rows, num_good, faults.record()))
    num_rows += num_good
  is_taken = choice.take(created_at)
  if not is_taken.any():
    raise errors.UserError(
      f"{place}: not built, because none of {num_rows:,} rows passes the filters"
      f" {dict(choice.filters)}"
    )
  kinds: Counter[str] = Counter()
  with files.new_directory(place) as new:
    with files.new_file(new / reading.DATA) as data:
      # The first reading reported the bad rows.
      passing = (
        row
        for rows in all_rows
        for _, row, _ in reading.read(
          rows, row_formats.parse_row, reading.Faults(rows.path)
        )
        if choice.passes(row)
      )
      for row in itertools.compress(passing, is_taken):
        kinds[row_formats.name_of(row)] += 1
        data.write(files.to_json(row).encode() + b"\n")
    manifest = reading.Version(
      name=name,
      version=version,
      created_at=run_directory.now(),
      digest=files.digest(new / reading.DATA, "data file"),
      rows=int(is_taken.sum()),
      parents=parents,
      filters=dict(choice.filters),
      limit=choice.limit,
      strategy=choice.strategy,
      seed=choice.seed,
      counts={
        "read": num_rows,
        "filtered_out": num_rows - len(is_taken),
        "over_limit": int((~is_taken).sum()),
      },
      formats=dict(kinds),
    )
    files.write_bytes(new / reading.MANIFEST, manifest.to_bytes())
  return manifest


@progress.stage("exporting the rows")
def export(place: pathlib.Path, output: pathlib.Path, data_format: str) -> int:
  """Writes a built dataset as JSONL of a format; returns the number of rows.

  Raises:
    errors.UserError: If the file exists, or the format cannot hold a row.
  """
  rows = reading.find(str(place))
  faults, num_rows = reading.Faults(rows.path), 0

  def convert(row: row_formats.Row) -> list[row_formats.Row]:
    fields = row_formats.FORMATS[row_formats.name_of(row)].fields
    other = {k: v for k, v in row.items() if k not in fields}
    return [
      {**other, **converted}
      for sample in row_formats.parse_row(row)
      for converted in row_formats.FORMATS[data_format].write(sample)
    ]

  with files.new_file(output) as file:
    for _, _, converted_rows in reading.read(rows, convert, faults):
      for row in converted_rows:
        file.write(files.to_json(row).encode() + b"\n")
        num_rows += 1
    if faults.count:
      raise errors.UserError(
        f"{faults.first[0]}; {faults.count:,} rows cannot be written as"
        f" {data_format}; choose another format"
      )
  return num_rows


def _text_of(row: row_formats.Row, key: str) -> str | None:
  """Returns a field of a row, or else of its metadata, as text or JSON."""
  for value in (row, row.get("metadata")):
    for part in key.split("."):
      if not isinstance(value, dict) or part not in value:
        break
      value = value[part]
    else:
      return value if isinstance(value, str) else files.to_json(value)
  return None


def _parent(
  rows: reading.Rows, num_good: int, skipped: reading.Skipped
) -> reading.Parent:
  generator, digest = None, rows.digest()
  if rows.file is not None and reading.beside(rows.file).exists():
    manifest = reading.Generated.read(reading.beside(rows.file))
    if manifest.digest == digest:
      generator = manifest.model_dump(
        include={"generator", "settings", "seed", "counts"}
      )
  return reading.Parent(
    path=rows.path,
    digest=digest,
    rows=num_good,
    skipped=skipped,
    name=rows.name,
    version=rows.version,
    generator=generator,
  )
