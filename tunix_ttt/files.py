"""Reading other people's files strictly, and writing our own whole."""

import codecs
from collections.abc import Iterator, Mapping
import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import platform
import re
import secrets
import shutil
import sys
import threading
from typing import Any, BinaryIO, NamedTuple

from tunix_ttt import errors

_SURROGATE = re.compile("[\ud800-\udfff]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
  """Returns whether a name has the form of a hub id, such as Qwen/Qwen3-0.6B."""
  return _HUB_ID.fullmatch(name) is not None


def read_text(path: pathlib.Path, what: str) -> str:
  """Reads UTF-8 text, with or without a byte order mark; CRLF becomes LF.

  Args:
    path: the file.
    what: what it is to the user ("config", "data file"), for the message.

  Raises:
    errors.UserError: if there is no such file or it is not UTF-8.
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


def digest(path: pathlib.Path, what: str) -> str:
  """Returns the SHA-256 of a file's bytes.

  Raises:
    errors.UserError: if it cannot be read.
  """
  with _opened(path, what) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


class Line(NamedTuple):
  """A line of JSONL that is not blank.

  Attributes:
    number: from 1.
    row: the object; None where there is none.
    fault: what is wrong with the line, where `row` is None.
  """

  number: int
  row: dict[str, Any] | None
  fault: str = ""


def scan_jsonl(path: pathlib.Path, what: str) -> Iterator[Line]:
  """Yields the lines of a JSONL file, good and bad; see `read_text`.

  Raises:
    errors.UserError: if the file cannot be read.
  """
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
    found = type(row).__name__
    return Line(number, None, f"expected a JSON object, found {found}")
  return Line(number, row)


def read_jsonl(
  path: pathlib.Path, what: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number, object) for each line that is not blank.

  Raises:
    errors.UserError: if the file cannot be read or holds no object, or at the
      first line that is not a JSON object.
  """
  found = False
  for line in scan_jsonl(path, what):
    if line.row is None:
      raise errors.UserError(f"{path}:{line.number}: {line.fault}")
    found = True
    yield line.number, line.row
  if not found:
    raise errors.UserError(f"{path}: this {what} has no rows")


def read_json(path: pathlib.Path, what: str) -> dict[str, Any]:
  """Reads a file that is one JSON object.

  Raises:
    errors.UserError: if it cannot be read or is something else.
  """
  try:
    value = _from_json(read_text(path, what))
  except (ValueError, RecursionError) as error:
    line = getattr(error, "lineno", 1)
    detail = getattr(error, "msg", str(error))
    raise errors.UserError(
      f"{path}:{line}: this {what} is not valid JSON: {detail}"
    ) from None
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: expected a JSON object, found {type(value).__name__}"
    )
  return value


def _from_json(text: str) -> Any:
  """Reads JSON, without numbers beyond floats and halves of characters."""
  value = json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
  # Escapes may spell what no text in UTF-8 has.
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
  """Returns compact JSON on one line, text in UTF-8."""
  return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all: beside its place, then renamed."""
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file whole or not at all: beside its place, then renamed."""
  with _put(path) as file:
    file.write(data)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Gives a file to write, which becomes `path` when the block ends.

  Where the block raises, nothing is left behind.

  Raises:
    errors.UserError: if `path` exists or cannot be written.
  """
  check_absent(path)
  with _put(path) as file:
    yield file
    check_absent(path)


@contextlib.contextmanager
def _put(path: pathlib.Path) -> Iterator[BinaryIO]:
  with _beside(path) as beside:
    with beside.open("wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    beside.replace(path)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives the path of a temporary, which is removed when the block ends.

  The directories above it are made, and removed if the block raises.
  """
  made = [parent for parent in path.parents if not os.path.lexists(parent)]
  beside = path.with_name(f"{_temporary(path)}{secrets.token_hex(2)}")
  try:
    # Where a file or a loop of links is in the way, the writer's error says so.
    with contextlib.suppress(FileExistsError):
      path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(path)
    yield beside
  except BaseException as error:
    remove(beside)
    for parent in made:
      with contextlib.suppress(OSError):
        parent.rmdir()
    if isinstance(error, OSError):
      raise cannot_write(path, error) from None
    raise
  remove(beside)


def _temporary(path: pathlib.Path, pid: int | str | None = None) -> str:
  """Returns how the names of a process's temporaries for `path` begin."""
  # Process ids mean something on one machine, within one container.
  place = platform.node()
  with contextlib.suppress(OSError):
    place += os.readlink("/proc/self/ns/pid")
  place = hashlib.sha256(place.encode()).hexdigest()[:6]
  return f".{path.name}.{place}-{pid or os.getpid()}-"


def _remove_dead(path: pathlib.Path) -> None:
  """Removes what killed processes of this machine left beside `path`."""
  before, _, after = _temporary(path, "PID").rpartition("PID")
  pattern = re.compile(rf"{re.escape(before)}(\d+){after}[0-9a-f]+")
  with contextlib.suppress(OSError):
    for other in path.parent.iterdir():
      found = pattern.fullmatch(other.name)
      if found and not _is_alive(int(found[1])):
        remove(other)


def _is_alive(pid: int) -> bool:
  if os.name != "posix":
    return True
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    pass
  return True


def remove(path: pathlib.Path) -> None:
  """Removes a file or a directory, if it is there and can be removed."""
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()


def write_all(directory: pathlib.Path, contents: Mapping[str, bytes]) -> None:
  """Writes files by their paths under a directory."""
  for name, data in contents.items():
    write_bytes(directory / name, data)


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a directory to fill, which becomes `path` when the block ends.

  Where the block raises, nothing is left behind.

  Raises:
    errors.UserError: if `path` exists or cannot be written.
  """
  check_absent(path)
  with _beside(path) as beside:
    beside.mkdir()
    yield beside
    check_absent(path)
    beside.rename(path)


def check_absent(path: pathlib.Path) -> None:
  """Raises a UserError if something stands at `path`."""
  if os.path.lexists(path):
    raise errors.UserError(
      f"{path}: already exists and is never written over; choose another path"
    )


def check_output(path: pathlib.Path) -> None:
  """Raises a UserError if `path` exists or cannot be written.

  A file is written beside it and removed: work that ends in writing `path`
  should not be found to be lost only then.
  """
  check_absent(path)
  with contextlib.suppress(_Written), _put(path) as file:
    file.write(b"0")
    file.flush()
    raise _Written


class _Written(Exception):  # noqa: N818
  """Ends `check_output`, so that all it has made is removed."""


def cannot_write(
  path: pathlib.Path | str, error: BaseException
) -> errors.UserError:
  """Returns what to raise where a path could not be written."""
  reason = getattr(error, "strerror", None) or str(error)
  return errors.UserError(f"{path}: cannot write this: {reason}")


# Faults of a disk, and then of a path, and not of a program.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_OF_PATHS = (
  errno.EACCES,
  errno.EIO,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.ENOTDIR,
)


def fault_of_disk(error: Exception) -> str | None:
  """Returns which fault of a disk or a path an error reports, if any.

  Args:
    error: An error of Python, or of Orbax, which has Python's words in its own.
  """
  if isinstance(error, errors.UserError):
    return None
  if not isinstance(error, OSError):
    reasons = map(os.strerror, _OF_DISKS)
    return next((reason for reason in reasons if reason in str(error)), None)
  if error.filename and error.errno in _OF_DISKS + _OF_PATHS:
    return f"{error.filename}: {error.strerror}"
  return error.strerror if error.errno in _OF_DISKS else None


# Loggers of Orbax, of its event loops and of their callbacks.
_LOGGERS = ("absl", "asyncio", "concurrent.futures")


def or_packaged(path: pathlib.Path, folder: str) -> pathlib.Path:
  """Returns a file, or the one of its name that comes with the package.

  Args:
    path: Path that a user named; a bare name, or one in `folder`, may be of
      the package.
    folder: `configs` or `evalsets`.
  """
  if path.exists() or str(path.parent) not in (".", folder):
    return path
  package = pathlib.Path(__file__).parent
  for root in (package, package.parent):
    for name in (path.name, f"{path.name}.yaml", f"{path.name}.jsonl"):
      if (root / folder / name).is_file():
        return root / folder / name
  return path


@contextlib.contextmanager
def silence_after_disk_fault() -> Iterator[None]:
  """Silences threads, event loops and exit handlers after a fault of the disk.

  Orbax and TensorBoard write in threads. Each of them reports the fault that
  the caller gets as an exception, and then that the others have ended. After a
  fault they stay silent, since some report as the process ends.
  """
  is_faulty = False

  def is_expected(error: Any) -> bool:
    nonlocal is_faulty
    if isinstance(error, Exception) and fault_of_disk(error):
      is_faulty = True
    # Threads of TensorStore report that Orbax closed an event loop before the
    # caller gets the fault because of which Orbax closed it.
    in_thread = threading.current_thread() is not threading.main_thread()
    return is_faulty or (in_thread and str(error) == "Event loop is closed")

  def of_thread(arguments: Any) -> None:
    if not is_expected(arguments.exc_value):
      thread_hook(arguments)

  def of_collection(arguments: Any) -> None:
    if not is_expected(arguments.exc_value):
      unraisable_hook(arguments)

  def of_callback(kind: Any, error: Any, trace: Any) -> None:
    in_thread = threading.current_thread() is not threading.main_thread()
    if not (in_thread and is_expected(error)):
      print_hook(kind, error, trace)

  def of_log(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    message = Exception(record.getMessage())
    return not (is_expected(error) or is_expected(message))

  thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook
  print_hook = sys.excepthook
  threading.excepthook, sys.unraisablehook = of_thread, of_collection
  sys.excepthook = of_callback
  for name in _LOGGERS:
    logging.getLogger(name).addFilter(of_log)
  try:
    yield
  except Exception as error:
    is_expected(error.__cause__ or error.__context__ or error)
    raise
  finally:
    if not is_faulty:
      threading.excepthook = thread_hook
      sys.unraisablehook = unraisable_hook
      sys.excepthook = print_hook
      for name in _LOGGERS:
        logging.getLogger(name).removeFilter(of_log)
