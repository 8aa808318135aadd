"""Reads users' files strictly and writes files atomically."""

import codecs
from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import re
import secrets
import shutil
from typing import Any, BinaryIO, NamedTuple, TypeVar

import pydantic

from tunix_ttt import errors

RowT = TypeVar("RowT", bound=pydantic.BaseModel)
_SURROGATE = re.compile("[\ud800-\udfff]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
  """Returns whether a name has the form of a hub id, such as Qwen/Qwen3-0.6B."""
  return _HUB_ID.fullmatch(name) is not None


def read_text(path: pathlib.Path, what: str) -> str:
  """Reads UTF-8 text, with or without a byte order mark; CRLF becomes LF.

  `what` is the noun for the file in error messages, such as "data file".

  Raises:
    errors.UserError: if the file is missing or not UTF-8.
  """
  with _opened(path, what) as file:
    data = file.read()
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise errors.UserError(
      f"{path}:{line}: {_not_utf8(data[error.start], what)}"
    ) from None
  return text.replace("\r\n", "\n")


@contextlib.contextmanager
def _opened(path: pathlib.Path, what: str) -> Iterator[io.BufferedReader]:
  try:
    file = path.open("rb")
  except FileNotFoundError:
    raise errors.UserError(f"{path}: no such {what}") from None
  except OSError as error:
    raise errors.UserError(
      f"{path}: cannot read this {what}: {error.strerror}"
    ) from None
  with file:
    yield file


def _not_utf8(byte: int, what: str) -> str:
  return f"this {what} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8"


def or_packaged(path: pathlib.Path, folder: str) -> pathlib.Path:
  """Returns a path, or the packaged file of its name if the path is missing.

  Only a bare name or a path in `folder` may stand for a packaged file. The
  folder is `configs` or `evalsets`.
  """
  if path.exists() or str(path.parent) not in (".", folder):
    return path
  package = pathlib.Path(__file__).parent
  for root in (package, package.parent):
    for name in (path.name, f"{path.name}.yaml", f"{path.name}.jsonl"):
      if (root / folder / name).is_file():
        return root / folder / name
  return path


def digest(path: pathlib.Path, what: str) -> str:
  """Returns the SHA-256 of a file; raises a UserError if it is unreadable."""
  with _opened(path, what) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


class Line(NamedTuple):
  """A line of JSONL that is not blank.

  Attributes:
    number: Line number, from 1.
    row: JSON object; None if the line has a fault.
    fault: Description of the fault; empty if `row` is set.
  """

  number: int
  row: dict[str, Any] | None
  fault: str = ""


def scan_jsonl(path: pathlib.Path, what: str) -> Iterator[Line]:
  """Yields the lines of a JSONL file, including lines with faults."""
  with _opened(path, what) as file:
    for number, data in enumerate(file, start=1):
      text = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
      if text.strip():
        yield _parse_line(number, text, what)


def _parse_line(number: int, data: bytes, what: str) -> Line:
  try:
    row = _from_json(data.decode())
  except UnicodeDecodeError as error:
    return Line(number, None, _not_utf8(data[error.start], what))
  except (ValueError, RecursionError) as error:
    detail = getattr(error, "msg", str(error))
    return Line(number, None, f"not valid JSON: {detail}")
  if not isinstance(row, dict):
    return Line(number, None, _not_an_object(row))
  return Line(number, row)


def _not_an_object(value: Any) -> str:
  return f"expected a JSON object, found {type(value).__name__}"


def read_jsonl(
  path: pathlib.Path, what: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number, object) for each line that is not blank.

  Raises:
    errors.UserError: if there are no rows, or at the first line that is not a
      JSON object.
  """
  is_empty = True
  for line in scan_jsonl(path, what):
    if line.row is None:
      raise errors.UserError(f"{path}:{line.number}: {line.fault}")
    is_empty = False
    yield line.number, line.row
  if is_empty:
    raise errors.UserError(f"{path}: this {what} has no rows")


class Row(pydantic.BaseModel):
  """A strict, frozen record; an unknown key is an error."""

  model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


def read_rows(
  kind: type[RowT], path: pathlib.Path, what: str, script: str | None = None
) -> Iterator[tuple[int, RowT]]:
  """Yields (line number, row) of a JSONL file.

  Args:
    kind: Class that validates rows.
    path: Path of the file.
    what: Noun for the file in error messages.
    script: Script that writes such files, for error messages.

  Raises:
    errors.UserError: if a row is wrong, with its file, line and field.
  """
  for number, row in read_jsonl(path, what):
    try:
      yield number, kind.model_validate(row)
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      fault = first["msg"].removeprefix("Value error, ")
      if first["loc"]:
        fault = f"{'.'.join(map(str, first['loc']))}: {fault}"
      if script is not None:
        fault += f"; is this a file that {script} wrote?"
      raise errors.UserError(f"{path}:{number}: {fault}") from None


def read_json(path: pathlib.Path, what: str) -> dict[str, Any]:
  """Reads a file that holds one JSON object."""
  try:
    value = _from_json(read_text(path, what))
  except (ValueError, RecursionError) as error:
    line = getattr(error, "lineno", 1)
    detail = getattr(error, "msg", str(error))
    raise errors.UserError(
      f"{path}:{line}: this {what} is not valid JSON: {detail}"
    ) from None
  if not isinstance(value, dict):
    raise errors.UserError(f"{path}: {_not_an_object(value)}")
  return value


def _from_json(text: str) -> Any:
  """Parses JSON; rejects infinite numbers and halves of surrogate pairs."""
  value = json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
  # Escapes may spell characters that UTF-8 cannot encode.
  if "\\ud" in text.lower():
    half = _SURROGATE.search(json.dumps(value, ensure_ascii=False))
    if half is not None:
      raise ValueError(f"{ascii(half[0])[1:-1]} is half of a surrogate pair")
  return value


def _reject_constant(name: str) -> None:
  raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
  if math.isinf(value := float(text)):
    raise ValueError(f"{text[:20]} is beyond the numbers of 64 bits")
  return value


def to_json(value: Any) -> str:
  """Returns compact JSON on one line, without escapes of Unicode text."""
  return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a UTF-8 file atomically."""
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file atomically: to a temporary beside it, then renamed."""
  with _replacing(path) as file:
    file.write(data)


def write_all(directory: pathlib.Path, contents: Mapping[str, bytes]) -> None:
  """Writes files atomically, by their paths relative to a directory."""
  for name, data in contents.items():
    write_bytes(directory / name, data)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Yields a file that becomes `path`, unless the block raises.

  Raises:
    errors.UserError: if `path` exists or cannot be written.
  """
  check_absent(path)
  with _replacing(path) as file:
    yield file
    check_absent(path)


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a directory that becomes `path`, unless the block raises.

  Raises:
    errors.UserError: if `path` exists or cannot be written.
  """
  check_absent(path)
  with _temporary(path) as temporary:
    temporary.mkdir()
    yield temporary
    check_absent(path)
    temporary.rename(path)


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
  with _temporary(path) as temporary:
    with temporary.open("wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, which is removed at the end.

  Parent directories are created, and removed again if they are empty then.
  """
  created = [parent for parent in path.parents if not os.path.lexists(parent)]
  temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(2)}")
  try:
    # If a file or a loop of links is in the way, the write below reports it.
    with contextlib.suppress(FileExistsError):
      path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(path)
    yield temporary
  except OSError as error:
    reason = error.strerror or str(error)
    raise errors.UserError(f"{path}: cannot write this: {reason}") from None
  finally:
    remove(temporary)
    for parent in created:
      with contextlib.suppress(OSError):
        parent.rmdir()


def _prefix(path: pathlib.Path, pid: int | str | None = None) -> str:
  """Returns the prefix of the names of a process's temporaries for `path`."""
  # Process ids are unique only on one machine and within one container.
  place = platform.node()
  with contextlib.suppress(OSError):
    place += os.readlink("/proc/self/ns/pid")
  place = hashlib.sha256(place.encode()).hexdigest()[:6]
  return f".{path.name}.{place}-{pid or os.getpid()}-"


def _remove_dead(path: pathlib.Path) -> None:
  """Removes temporaries of `path` that killed processes left on this machine."""
  before, _, after = _prefix(path, "PID").rpartition("PID")
  pattern = re.compile(rf"{re.escape(before)}(\d+){after}[0-9a-f]+")
  with contextlib.suppress(OSError):
    for other in path.parent.iterdir():
      match = pattern.fullmatch(other.name)
      if match and not _is_alive(int(match[1])):
        remove(other)


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    # The process is another user's.
    return True
  return True


def remove(path: pathlib.Path) -> None:
  """Removes a file or directory; ignores errors and missing paths."""
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()


def check_absent(path: pathlib.Path) -> None:
  """Raises a UserError if `path` exists, even as a dangling link."""
  if os.path.lexists(path):
    raise errors.UserError(
      f"{path}: already exists and is never written over; choose another path"
    )


def check_output(path: pathlib.Path) -> None:
  """Raises a UserError if `path` exists or cannot be written.

  Scripts call this before long work. A temporary file is written and removed.
  """
  check_absent(path)
  with _temporary(path) as temporary:
    temporary.write_bytes(b"0")
