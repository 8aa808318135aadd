"""Defines the manifests that record how data files were made."""

from collections.abc import Mapping
import pathlib
from typing import Any, Literal, Self

import pydantic

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
    """Reads and validates a manifest.

    Raises:
      errors.UserError: If the file is missing or does not match the schema.
    """
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
