"""Recognizes faults of a disk and silences the errors that follow them."""

from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import sys
import threading
from typing import Any

from tunix_ttt import errors

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

  Args:
    error: Error of Python, or of Orbax, which quotes Python's message.
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
    is_expected(error.__cause__ or error.__context__ or error)
    raise
  finally:
    if not is_faulty:
      threading.excepthook = thread_hook
      sys.unraisablehook = unraisable_hook
      sys.excepthook = print_hook
      for name in _LOGGERS:
        logging.getLogger(name).removeFilter(log_filter)
