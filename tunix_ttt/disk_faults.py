"""Reports a full or failing disk once, whatever threads run into it."""

from collections.abc import Iterator
import contextlib
import logging
import sys
import threading
from typing import Any

from tunix_ttt import files

# Loggers of Orbax and of its event loops.
_LOGGERS = ("absl", "asyncio")


@contextlib.contextmanager
def told_once() -> Iterator[None]:
  """Silences threads, event loops and exit handlers at a fault of the disk.

  Orbax and TensorBoard write in threads. Each of them reports the fault that
  the caller gets as an exception, and then that the others are gone. After a
  fault they stay silent, since some report as the process ends.
  """
  is_faulty = False

  def is_known(error: Any) -> bool:
    nonlocal is_faulty
    if isinstance(error, Exception) and files.fault_of_disk(error):
      is_faulty = True
    return is_faulty

  def of_thread(arguments: Any) -> None:
    if not is_known(arguments.exc_value):
      thread_hook(arguments)

  def at_exit(arguments: Any) -> None:
    if not is_known(arguments.exc_value):
      exit_hook(arguments)

  def of_callback(kind: Any, error: Any, trace: Any) -> None:
    # TensorStore's threads tell that Orbax closed an event loop, before the
    # caller has the fault because of which it did.
    is_of_thread = threading.current_thread() is not threading.main_thread()
    is_closed = str(error) == "Event loop is closed"
    if not (is_of_thread and (is_known(error) or is_closed)):
      print_hook(kind, error, trace)

  def of_log(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (is_known(error) or is_known(Exception(record.getMessage())))

  thread_hook, exit_hook = threading.excepthook, sys.unraisablehook
  print_hook = sys.excepthook
  threading.excepthook, sys.unraisablehook = of_thread, at_exit
  sys.excepthook = of_callback
  for name in _LOGGERS:
    logging.getLogger(name).addFilter(of_log)
  try:
    yield
  except Exception as error:
    is_known(error.__cause__ or error.__context__ or error)
    raise
  finally:
    if not is_faulty:
      threading.excepthook, sys.unraisablehook = thread_hook, exit_hook
      sys.excepthook = print_hook
      for name in _LOGGERS:
        logging.getLogger(name).removeFilter(of_log)
