"""Several processes that do one run together, through `jax.distributed`.

Each has some of the devices and computes its part of everything; the first one
writes manifests, metrics and reports into the directory that all of them share.
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

# Words of JAX's own errors when another process is lost, by who notices it.
_LOST = ("Gloo", "NCCL", "coordination", "heartbeat", "Barrier", "Connection")
_ALONE = (
  "error: a process of this run has ended or was not to be reached, and none can"
  " go on alone; start all of them again, with --resume latest if the run had"
  " begun"
)
# JAX ends a process from outside Python when another one is lost, with a stack
# trace of its own. This outlives it, and says what that means.
_WATCH = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
_GRACE = 3.0

_watcher: subprocess.Popen[str] | None = None


def start(config: config_lib.DistributedConfig | None) -> None:
  """Joins the processes of a run; does nothing where there is only this one.

  JAX must not have computed anything before.

  Args:
    config: where they meet; None for a single process.

  Raises:
    errors.UserError: if they cannot be joined.
  """
  if config is None:
    return
  import jax

  _watch()
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
    raise errors.UserError(f"distributed: {_first_line(error)}") from None
  if not is_first():
    # All would say the same.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def joined() -> bool:
  """Returns whether this process has others to wait for at its end."""
  return _watcher is not None


def several() -> bool:
  """Returns whether there are other processes."""
  import jax

  # First what needs no devices, which a script that only writes leaves alone.
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Returns whether this process is the one that writes."""
  import jax

  return not several() or jax.process_index() == 0


def wait(place: str) -> None:
  """Returns when all processes have come to a place in the program."""
  if several():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(place)


def largest(value: int) -> int:
  """Returns the largest of the processes' values; all must come here."""
  if not several():
    return value
  from jax.experimental import multihost_utils
  import numpy as np

  return int(multihost_utils.process_allgather(np.int32(value)).max())


def remove(path: pathlib.Path) -> None:
  """Removes a directory, if it is there; returns when it is gone for all."""
  if is_first():
    shutil.rmtree(path, ignore_errors=True)
  wait(f"removed {path}")


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """As `files.new_directory`, for what all processes write together."""
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
  """Returns an unexpected error's traceback, explained if a process was lost.

  Only JAX's own errors tell of a lost process. Other errors may name a
  connection as well, such as one to a hub.
  """
  text = "".join(traceback.format_exception(error))
  return f"{text}\n{_ALONE}" if _is_lost_process(error) else text


def _is_lost_process(error: BaseException | None) -> bool:
  import jax

  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError) and any(
      word in str(error) for word in _LOST
    ):
      return True
    error = error.__cause__ or error.__context__
  return False


def leave(code: int) -> NoReturn:
  """Ends this process, and if it is one of several, so all of them.

  An ordinary exit would wait for the others, which wait for this one.
  """
  if joined() and is_first():
    # The others end with the first one, and may have as much to tell.
    time.sleep(_GRACE)
  let_go()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _first_line(error: BaseException) -> str:
  return (str(error) or type(error).__name__).splitlines()[0]


def _watch() -> None:
  global _watcher
  _watcher = subprocess.Popen(
    [sys.executable, "-c", _WATCH, _ALONE],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
    # Ctrl-C is for this process, which explains its end itself.
    start_new_session=True,
  )
  atexit.register(let_go)


def let_go() -> None:
  """Tells the watcher that the end of this process has been explained."""
  global _watcher
  if _watcher is not None:
    _watcher.communicate("ended")
    _watcher = None
