"""Manifests of data files: how they were made, and from what."""

from collections.abc import Mapping
import pathlib
from typing import Any, Literal, Self

import pydantic

from tunix_ttt.runs import run_manifest

DATA = "data.jsonl"
MANIFEST = "manifest.json"
# Of how many bad rows it is said what is wrong; the others are counted.
FAULTS_KEPT = 20


class Skipped(run_manifest.Record):
  """Bad rows that were left out.

  Attributes:
    rows: how many.
    first: place and reason of the first of them.
  """

  rows: int = 0
  first: list[str] = pydantic.Field(default_factory=list)


class _Manifest(run_manifest.Record):
  """Fields common to all manifests.

  Attributes:
    created_at: UTC, ISO 8601.
    digest: SHA-256 of the data file's bytes.
    rows: lines of the data file.
  """

  schema_version: Literal[1] = 1
  created_at: str
  digest: str
  rows: int

  @classmethod
  def read(cls, path: pathlib.Path) -> Self:
    """Reads and validates a manifest.

    Raises:
      errors.UserError: if there is none or it does not fit the schema.
    """
    return run_manifest.read_record(cls, path, "dataset manifest")

  def to_bytes(self) -> bytes:
    """Returns the manifest's file."""
    return self.model_dump_json(indent=2).encode() + b"\n"


class Generated(_Manifest):
  """The manifest of a file of generated rows, written beside it.

  Attributes:
    generator: what kind of rows.
    settings: all that was asked for.
    seed: Random seed.
    counts: Counts of rows that were played or drawn, and of dropped rows.
  """

  generator: str
  settings: dict[str, Any]
  seed: int
  counts: dict[str, int]


class Parent(run_manifest.Record):
  """A source of a built dataset.

  Attributes:
    path: a file, a directory or a hub id.
    digest: SHA-256 of the file's bytes, or of the rows.
    rows: good rows that it has.
    skipped: its bad rows.
    name: Name of a parent that was built itself.
    version: Version of such a parent.
    generator: How a parent was generated: kind, settings, seed, counts.
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
    version: Version of this directory.
    parents: the sources, in order.
    filters: fields of rows and the text that each must have.
    limit: rows at the most, None for all.
    strategy: which rows are taken where there are more.
    seed: Random seed of the strategy `random`.
    counts: good rows read, filtered out and beyond the limit.
    formats: rows by format.
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
  """Returns where the manifest of a generated file is."""
  return path.with_name(path.name + ".manifest.json")
