"""Prints progress: lines of a run to stdout, bars and notices to stderr."""

from collections.abc import Iterable, Iterator
import contextlib
import logging
import os
import sys
import threading
import time
from typing import Any

import tqdm

from tunix_ttt.runs import processes

# Whether to hide progress; the flag --quiet sets it.
quiet = False
# Whether `set_up` has chosen the log levels.
_is_set_up = False
# Seconds of work until a notice is printed.
PATIENCE = 1.0
LEVELS = ("debug", "info", "warning", "error")

_logger = logging.getLogger("tunix_ttt")
_OTHERS = ("absl", "jax", "orbax", "tunix", "qwix", "flax")


def set_up(is_quiet: bool, log_level: str | None) -> None:
  """Sets what a script prints: results and errors only if it is quiet.

  The log level is one of `LEVELS`; None shows only errors of other libraries.
  """
  global quiet, _is_set_up
  # Creates the logger "absl"; must run before any `getLogger("absl")`.
  import absl.logging

  quiet, _is_set_up = is_quiet, True
  logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
  _logger.setLevel((log_level or ("error" if quiet else "info")).upper())
  for name in _OTHERS:
    logging.getLogger(name).setLevel((log_level or "error").upper())
  absl.logging.set_verbosity(log_level or "error")
  if quiet:
    # Hugging Face's progress bars are hidden through the environment.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def hush() -> None:
  """Hides warnings of other libraries, which would break bars in notebooks.

  Does nothing after `set_up`, nor to loggers set to a level other than WARNING.
  """
  for name in () if _is_set_up else _OTHERS:
    logger = logging.getLogger(name)
    if logger.level in (logging.NOTSET, logging.WARNING):
      logger.setLevel(logging.ERROR)


def is_hidden() -> bool:
  """Returns whether this process prints no progress."""
  return quiet or (processes.joined() and not processes.is_first())


def say(text: str) -> None:
  """Prints a line to stdout, unless progress is hidden."""
  if not is_hidden():
    print(text, flush=True)


def bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm.tqdm:
  """Returns a tqdm progress bar, which is disabled without a terminal."""
  # With None, tqdm disables the bar without a terminal.
  disable = True if is_hidden() else None
  return tqdm.tqdm(
    items, **options, dynamic_ncols=True, file=sys.stderr, disable=disable
  )


@contextlib.contextmanager
def stage(what: str, *, has_bar: bool = False) -> Iterator[None]:
  """Prints a notice to stderr if the block takes longer than `PATIENCE`.

  `what` names the work, such as "loading the model". With `has_bar`, a terminal
  shows a bar instead.
  """
  start = time.monotonic()
  is_shown = not is_hidden() and not (has_bar and sys.stderr.isatty())
  # tqdm prints it above the bars.
  timer = threading.Timer(
    PATIENCE, tqdm.tqdm.write, [f"{what} …"], {"file": sys.stderr}
  )
  timer.daemon = True
  if is_shown:
    timer.start()
  try:
    yield
  finally:
    timer.cancel()
  _logger.debug("%s: %.1f s", what, time.monotonic() - start)
