"""Coordinates the processes of one run through `jax.distributed`.

Each process computes on its own devices; the first one writes manifests, metrics
and reports into a directory that all of them share.
"""

import atexit
from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
from typing import NoReturn

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files

# Words in JAX's errors about a lost process.
_LOST = ("Gloo", "NCCL", "coordination", "heartbeat", "Barrier", "Connection")
_EXPLANATION = (
  "error: a process of this run has ended or cannot be reached; start all"
  " processes again, with --resume latest if the run had begun"
)
# JAX kills a process from outside Python when another one is lost. The watcher
# outlives the process and prints the explanation below JAX's stack trace.
_WATCHER = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
_GRACE_SECONDS = 3.0
# NFS looks for a missing file again after 60 seconds at the latest, by default.
_PATH_SECONDS = 70.0

_watcher: subprocess.Popen[str] | None = None


def start(config: config_lib.DistributedConfig | None) -> None:
  """Joins the processes of a run, if it has several, before JAX computes.

  Raises:
    errors.UserError: if the processes cannot be joined.
  """
  if config is None:
    return
  import jax

  global _watcher
  _watcher = subprocess.Popen(
    [sys.executable, "-c", _WATCHER, _EXPLANATION],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
    # This process explains Ctrl-C itself.
    start_new_session=True,
  )
  atexit.register(let_go)
  try:
    jax.distributed.initialize(
      config.coordinator,
      config.num_processes,
      config.process_id,
      initialization_timeout=config.initialization_timeout_seconds,
      heartbeat_timeout_seconds=config.heartbeat_timeout_seconds,
    )
  except (RuntimeError, ValueError, TypeError) as error:
    let_go()
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise errors.UserError(f"distributed: {reason}") from None
  if not is_first():
    # All processes would print the same lines.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def let_go() -> None:
  """Tells the watcher that this process has explained its own end."""
  global _watcher
  if _watcher is not None:
    _watcher.communicate("ended")
    _watcher = None


def joined() -> bool:
  """Returns whether this process must wait for others at its end."""
  return _watcher is not None


def several() -> bool:
  """Returns whether the run has several processes."""
  import jax

  # `process_count` starts a backend, which scripts that only write avoid.
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Returns whether this process writes the run's files."""
  import jax

  return not several() or jax.process_index() == 0


def wait(place: str) -> None:
  """Waits until all processes reach a place in the program."""
  if several():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(place)


def largest(value: int) -> int:
  """Returns the largest value of all processes; each must call this."""
  if not several():
    return value
  from jax.experimental import multihost_utils
  import numpy as np

  return int(multihost_utils.process_allgather(np.int32(value)).max())


def await_path(path: pathlib.Path) -> None:
  """Waits until this host sees a path that another host sees, or gives up."""
  deadline = time.monotonic() + _PATH_SECONDS
  while not path.exists() and time.monotonic() < deadline:
    time.sleep(0.1)


def check_output(path: pathlib.Path) -> None:
  """Like `files.check_output`, for a path that only the first process writes."""
  files.check_absent(path)
  if is_first():
    files.check_output(path)


def remove(path: pathlib.Path) -> None:
  """Removes a directory and waits until it is gone for all processes."""
  if is_first():
    shutil.rmtree(path, ignore_errors=True)
  wait(f"removed {path}")


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Like `files.new_directory`, for a directory that all processes fill."""
  if not several():
    with files.new_directory(path) as new:
      yield new
    return
  files.check_absent(path)
  beside = path.with_name(f".{path.name}.new")
  wait(f"absent {path}")
  remove(beside)
  if is_first():
    beside.mkdir(parents=True)
  wait(f"made {path}")
  yield beside
  wait(f"filled {path}")
  if is_first():
    beside.rename(path)
  wait(f"renamed {path}")


def explain(error: BaseException) -> str:
  """Returns an error's traceback, with an explanation if a process was lost.

  Only errors of JAX report a lost process; others, such as an `OSError` of the
  hub, may mention a connection, too.
  """
  import jax

  text = "".join(traceback.format_exception(error))
  is_lost = any(
    # From version 0.12 on, JAX also raises a ValueError.
    isinstance(cause, jax.errors.JaxRuntimeError | ValueError)
    and any(word in str(cause) for word in _LOST)
    for cause in errors.causes(error)
  )
  return f"{text}\n{_EXPLANATION}" if is_lost else text


def leave(code: int) -> NoReturn:
  """Ends this process without waiting for the others, which wait for it."""
  if joined() and is_first():
    # The others end with the first process and may have more to print.
    time.sleep(_GRACE_SECONDS)
  let_go()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
