"""Writes and checks digests that reveal damage to a checkpoint's files."""

from collections.abc import Collection, Iterator, Mapping
import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import sys
import threading
from types import MappingProxyType
from typing import Any, NamedTuple, Self

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

  `run` is the state of the run's growing files; `skip` names files that may
  still change.
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
    for name, expected in Digests.read(directory).files.items():
      if files.digest(directory / name, "file") != expected:
        return f"{directory / name}: has changed since it was written"
  except errors.UserError as error:
    return str(error)
  return None


_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_OF_PATHS = (
  errno.EACCES,
  errno.EIO,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.ENOTDIR,
)
# Loggers of Orbax, of its event loops and of their callbacks.
_LOGGERS = ("absl", "asyncio", "concurrent.futures")


def describe(error: Exception) -> str | None:
  """Describes the fault of a disk or path that an error reports, if any.

  The error is Python's, or Orbax's, which quotes Python's message.
  """
  if isinstance(error, errors.UserError):
    return None
  if not isinstance(error, OSError):
    reasons = map(os.strerror, _OF_DISKS)
    return next((reason for reason in reasons if reason in str(error)), None)
  if error.filename and error.errno in _OF_DISKS + _OF_PATHS:
    return f"{error.filename}: {error.strerror}"
  return error.strerror if error.errno in _OF_DISKS else None


@contextlib.contextmanager
def silence_consequences() -> Iterator[None]:
  """Silences threads, event loops and exit handlers after a fault of the disk.

  Orbax and TensorBoard write in threads. Each thread reports the fault that the
  caller gets as an exception, and then the end of the other threads. The hooks
  stay after a fault, since some threads report as the process ends.
  """
  is_faulty = False

  def is_in_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()

  def is_expected(error: Any) -> bool:
    nonlocal is_faulty
    if isinstance(error, Exception) and describe(error):
      is_faulty = True
    # When Orbax closes an event loop because of a fault, TensorStore's threads
    # report the closed loop before the caller gets the fault.
    is_closed_loop = is_in_thread() and str(error) == "Event loop is closed"
    return is_faulty or is_closed_loop

  def on_thread_error(arguments: Any) -> None:
    if not is_expected(arguments.exc_value):
      thread_hook(arguments)

  def on_unraisable_error(arguments: Any) -> None:
    if not is_expected(arguments.exc_value):
      unraisable_hook(arguments)

  def on_error(kind: Any, error: Any, trace: Any) -> None:
    if not (is_in_thread() and is_expected(error)):
      print_hook(kind, error, trace)

  def log_filter(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    message = Exception(record.getMessage())
    return not (is_expected(error) or is_expected(message))

  thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook
  print_hook = sys.excepthook
  threading.excepthook, sys.unraisablehook = (
    on_thread_error,
    on_unraisable_error,
  )
  sys.excepthook = on_error
  for name in _LOGGERS:
    logging.getLogger(name).addFilter(log_filter)
  try:
    yield
  except Exception as error:
    # Another context may be of any length: an invalid config in full, say.
    context = error.__context__
    is_disk_fault = isinstance(context, OSError)
    is_expected(context if is_disk_fault else error.__cause__ or error)
    raise
  finally:
    if not is_faulty:
      threading.excepthook = thread_hook
      sys.unraisablehook = unraisable_hook
      sys.excepthook = print_hook
      for name in _LOGGERS:
        logging.getLogger(name).removeFilter(log_filter)
