"""Built datasets: named, versioned, and never changed.

`ROOT/NAME/VERSION/` holds `data.jsonl` and `manifest.json`, which says from
what it was built and how. Rows are kept as they are, with whatever fields they
have beside those of their format.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re
from typing import Any, Literal

import numpy as np

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import manifests
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.data import rows as rows_lib
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """Which rows are taken.

  Attributes:
    filters: fields and the text that each must have; `a.b` is b within a.
    limit: rows at the most, None for all.
    strategy: where there are more, the `latest` by `created_at`, or by their
      place where a row has none, or `random` ones; they keep their order.
    seed: Random seed of the strategy `random`.
  """

  filters: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limit: int | None = None
  strategy: Literal["latest", "random"] = "latest"
  seed: int = 0

  def passes(self, row: row_formats.Row) -> bool:
    """Returns whether a row has what the filters ask for."""
    return all(
      _text_of(row, key) == value for key, value in self.filters.items()
    )

  def take(self, created_at: Sequence[str | None]) -> np.ndarray:
    """Returns which rows to take: bool [N].

    Args:
      created_at: when each of N rows was made, None where it does not say.
    """
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
    taken = np.zeros(total, bool)
    taken[order[-self.limit :]] = True
    return taken


def _text_of(row: Any, key: str) -> str | None:
  """Returns a row's field as text, as JSON writes it where it is not text."""
  for part in key.split("."):
    if not isinstance(row, dict) or part not in row:
      return None
    row = row[part]
  return row if isinstance(row, str) else files.to_json(row)


def directory(root: pathlib.Path, name: str, version: str) -> pathlib.Path:
  """Returns where a version of a dataset is.

  Raises:
    errors.UserError: if these are no names.
  """
  for flag, text in (("--name", name), ("--version", version)):
    if not _NAME.fullmatch(text):
      raise errors.UserError(
        f"{flag}: {text!r} may have letters, digits, '.', '_' and '-' alone, and"
        " begins with a letter or digit"
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
) -> manifests.Version:
  """Builds a version of a dataset.

  Args:
    root: Directory of all datasets.
    name: Name of the dataset.
    version: a new one.
    sources: as `reading.find` takes them.
    choice: which of their rows.
    split: Split of sources on the hub.
    skip_bad_rows: go on without rows that cannot be read.

  Raises:
    errors.UserError: if the version exists, a source cannot be read, or no row
      is taken.
  """
  place = directory(root, name, version)
  files.check_output(place)
  found = [reading.find(source, split) for source in sources]
  created_at: list[str | None] = []
  parents, num_rows = [], 0
  for rows in found:
    faults = reading.Faults(rows.path)
    good = 0
    for _, row, _ in reading.read(rows, row_formats.parse_row, faults):
      good += 1
      if choice.passes(row):
        created_at.append(_text_of(row, "created_at"))
    faults.check(good, skip_bad_rows=skip_bad_rows)
    parents.append(_parent(rows, good, faults.record()))
    num_rows += good
  taken = choice.take(created_at)
  if not taken.any():
    raise errors.UserError(
      f"{place}: not built, because none of {num_rows:,} rows passes the filters"
      f" {dict(choice.filters)}"
    )
  kinds: Counter[str] = Counter()
  digest = hashlib.sha256()
  with files.new_directory(place) as new:
    with files.new_file(new / manifests.DATA) as data:
      for row in _taken(found, choice, taken):
        kinds[row_formats.name_of(row)] += 1
        line = files.to_json(row).encode() + b"\n"
        digest.update(line)
        data.write(line)
    manifest = manifests.Version(
      name=name,
      version=version,
      created_at=run_directory.now(),
      digest=digest.hexdigest(),
      rows=int(taken.sum()),
      parents=parents,
      filters=dict(choice.filters),
      limit=choice.limit,
      strategy=choice.strategy,
      seed=choice.seed,
      counts={
        "read": num_rows,
        "filtered_out": num_rows - len(taken),
        "over_limit": int((~taken).sum()),
      },
      formats=dict(kinds),
    )
    files.write_bytes(new / manifests.MANIFEST, manifest.to_bytes())
  return manifest


def _parent(
  rows: reading.Rows, good: int, skipped: manifests.Skipped
) -> manifests.Parent:
  generator, digest = None, rows.digest()
  if rows.file is not None and manifests.beside(rows.file).exists():
    made = manifests.Generated.read(manifests.beside(rows.file))
    if made.digest == digest:
      generator = made.model_dump(
        include={"generator", "settings", "seed", "counts"}
      )
  return manifests.Parent(
    path=rows.path,
    digest=digest,
    rows=good,
    skipped=skipped,
    name=rows.name,
    version=rows.version,
    generator=generator,
  )


def _taken(
  found: Sequence[reading.Rows], choice: Choice, taken: np.ndarray
) -> Iterator[row_formats.Row]:
  number = 0
  for rows in found:
    # What is bad was told on the first reading.
    bad = reading.Faults(rows.path)
    for _, row, _ in reading.read(rows, row_formats.parse_row, bad):
      if choice.passes(row):
        if taken[number]:
          yield row
        number += 1


@progress.stage("exporting the rows")
def export(place: pathlib.Path, output: pathlib.Path, data_format: str) -> int:
  """Writes a built dataset as JSONL of a format.

  Args:
    place: the version's directory.
    output: the file, which must not exist.
    data_format: a key of `export.FORMATS`.

  Returns:
    How many rows were written.

  Raises:
    errors.UserError: naming the rows that cannot be written so.
  """
  rows = reading.find(str(place))
  faults = reading.Faults(rows.path)

  def convert(row: row_formats.Row) -> list[row_formats.Row]:
    fields, _ = row_formats.FORMATS[row_formats.name_of(row)]
    other = {k: v for k, v in row.items() if k not in fields}
    return [
      {**other, **written}
      for sample in row_formats.parse_row(row)
      for written in rows_lib.rows(sample, data_format)
    ]

  count = 0
  with files.new_file(output) as file:
    for _, _, converted in reading.read(rows, convert, faults):
      for row in converted:
        file.write(files.to_json(row).encode() + b"\n")
        count += 1
    if faults.count:
      raise errors.UserError(
        f"{faults.first[0]}; so it cannot be written as {data_format}, nor can"
        f" {faults.count - 1:,} other rows"
      )
  return count
