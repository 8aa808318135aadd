"""Starts scripts in forked processes, which need not import JAX again.

Importing starts no backend and no Python thread, so a process that has imported
everything can be forked; it must not use JAX itself.
"""

import atexit
from collections.abc import Callable, Sequence
import importlib
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "training"
TIMEOUT = 600.0
# These import all others, and JAX, Tunix and Orbax.
_IMPORTED = (
  "tunix_ttt.recipes",
  "tunix_ttt.report.comparison",
  "tunix_ttt.evaluate.matches",
  "tunix_ttt.pipeline",
)
_FORK = multiprocessing.get_context("fork")
_SPAWN = multiprocessing.get_context("spawn")


def prepare(cache: pathlib.Path) -> None:
  """Imports what processes need; compiled programs are kept in `cache`."""
  import jax

  for module in _IMPORTED:
    importlib.import_module(module)
  for name, value in (
    ("jax_platforms", "cpu"),
    ("jax_compilation_cache_dir", str(cache)),
    ("jax_persistent_cache_min_compile_time_secs", 0.0),
    ("jax_persistent_cache_min_entry_size_bytes", -1),
  ):
    jax.config.update(name, value)
  if threading.active_count() > 1:
    raise RuntimeError("a thread was started while importing")


def _run(
  arguments: Sequence[str],
  directory: pathlib.Path,
  out: pathlib.Path,
  err: pathlib.Path,
  *,
  devices: int,
  before: Callable[[], None] | None,
  keeps_programs: bool,
  cache: pathlib.Path | None,
) -> None:
  """Runs a script in this process; see `Process`."""
  os.setsid()
  for number, path in ((0, os.devnull), (1, out), (2, err)):
    with open(path, "wb" if number else "rb") as file:
      os.dup2(file.fileno(), number)
  # Nothing that the parent has buffered.
  sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
  os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={devices}"
    " --xla_backend_optimization_level=0"
  )
  if cache is not None:
    prepare(cache)
  if not keeps_programs:
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
  os.chdir(directory)
  sys.argv = [str(SCRIPTS / arguments[0]), *map(str, arguments[1:])]
  if before is not None:
    before()
  try:
    runpy.run_path(sys.argv[0], run_name="__main__")
  except SystemExit as error:
    # Frames that raised are alive at the end, as those of any script are.
    _leave(int(error.code or 0))
  except BaseException:
    traceback.print_exc()
    _leave(1)
  _leave(0)


def _leave(code: int) -> NoReturn:
  """Ends a forked process as the interpreter ends."""
  # `multiprocessing` leaves these out, and JAX says goodbye in one.
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


class Process:
  """A forked process in a session of its own.

  Attributes:
    out: file of its stdout.
    err: file of its stderr.
  """

  def __init__(
    self,
    arguments: Sequence[str],
    directory: pathlib.Path,
    log: pathlib.Path,
    *,
    devices: int = 1,
    before: Callable[[], None] | None = None,
    keeps_programs: bool = True,
    cache: pathlib.Path | None = None,
  ):
    """Starts a script.

    Args:
      arguments: name of a file in `training/` and its flags.
      directory: working directory of the process.
      log: path of the output's files, without suffix.
      devices: number of virtual devices.
      before: function that is called in the process first.
      keeps_programs: whether compiled programs are written to the cache. A
        killed process would leave half an entry.
      cache: see `prepare`, for a process that is not forked and imports
        everything itself. Processes that are forked from the same one wait
        for each other for ever.
    """
    self.out, self.err = (log.with_suffix(s) for s in (".out", ".err"))
    context = _FORK if cache is None else _SPAWN
    self._process = context.Process(
      target=_run,
      args=(arguments, directory, self.out, self.err),
      kwargs={
        "devices": devices,
        "before": before,
        "keeps_programs": keeps_programs,
        "cache": cache,
      },
      # It ends when this process does.
      daemon=True,
    )
    self._process.start()

  @property
  def code(self) -> int | None:
    """The exit code, negative for a signal; None while it runs."""
    return self._process.exitcode

  def wait(self, seconds: float = TIMEOUT) -> int | None:
    """Waits for the end at most so long; returns `code`."""
    self._process.join(seconds)
    return self.code

  def kill(self) -> bool:
    """Kills the process; returns whether it was running until then."""
    if self.code is None:
      self._process.kill()
    return self.wait() == -signal.SIGKILL


def call(function: Callable[..., Any], *arguments: Any) -> Any:
  """Returns the value of a function that a forked process computes."""
  reader, writer = _FORK.Pipe(duplex=False)
  process = _FORK.Process(
    target=lambda: writer.send(function(*arguments)), daemon=True
  )
  process.start()
  writer.close()
  try:
    value = reader.recv()
  except EOFError:
    raise RuntimeError(f"{function.__name__} failed") from None
  finally:
    process.join()
  return value
