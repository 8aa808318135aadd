"""Writes and checks digests that reveal damage to a checkpoint's files."""

from collections.abc import Collection, Mapping
import hashlib
import pathlib
from types import MappingProxyType
from typing import NamedTuple, Self

import pydantic

from tunix_ttt import errors
from tunix_ttt import files

DIGESTS = "digests.json"


class Prefix(NamedTuple):
  """Size in bytes and SHA-256 of the beginning of a file that grows."""

  size: int
  sha256: str

  @classmethod
  def of(cls, data: bytes) -> Self:
    """Returns the record of a file that starts with `data`."""
    return cls(len(data), hashlib.sha256(data).hexdigest())


class Digests(pydantic.BaseModel):
  """Content of `digests.json`.

  Attributes:
    files: SHA-256 of each file of the directory, by relative path.
    run: State of the run's growing files when a training checkpoint was saved,
      by path relative to the run.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  files: dict[str, str]
  run: dict[str, Prefix] = {}

  @classmethod
  def read(cls, directory: pathlib.Path) -> Self:
    """Reads `digests.json`; raises a UserError if it is missing or damaged."""
    path = directory / DIGESTS
    text = files.read_text(path, "file of digests")
    try:
      return cls.model_validate_json(text)
    except pydantic.ValidationError:
      raise errors.UserError(f"{path}: is damaged") from None


def write(
  directory: pathlib.Path,
  *,
  run: Mapping[str, Prefix] = MappingProxyType({}),
  skip: Collection[str] = (),
) -> None:
  """Writes `digests.json` into a directory whose other files are complete.

  Args:
    directory: Directory to protect.
    run: State of the run's growing files.
    skip: Names of files that may still change.
  """
  by_path = {
    path.relative_to(directory).as_posix(): files.digest(path, "file")
    for path in sorted(directory.rglob("*"))
    if path.is_file() and path.name not in skip
  }
  text = Digests(files=by_path, run=dict(run)).model_dump_json(indent=2)
  files.write_text(directory / DIGESTS, text + "\n")


def damage(directory: pathlib.Path) -> str | None:
  """Describes the first file that differs from its digest; None if all match."""
  try:
    digests = Digests.read(directory)
    for name, expected in digests.files.items():
      path = directory / name
      if files.digest(path, "file") != expected:
        return f"{path}: has changed since it was written"
  except errors.UserError as error:
    return str(error)
  return None
