"""Shows progress on the terminal.

A run's course is on stdout, what only passes time on stderr: bars on a terminal
alone, and a line for what takes long.
"""

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

# Whether nothing of all this is shown; scripts set it by --quiet.
quiet = False
# Whether a script or program said which messages are shown.
_is_set_up = False

# Seconds until something takes long.
PATIENCE = 1.0

LEVELS = ("debug", "info", "warning", "error")

_logger = logging.getLogger("tunix_ttt")
_OTHERS = ("absl", "jax", "orbax", "tunix", "qwix", "flax")


def set_up(is_quiet: bool, log_level: str | None) -> None:
  """Says what a script shows, as its flags ask.

  Args:
    is_quiet: show results and errors only.
    log_level: Log level, one of `LEVELS`; None shows only errors of other
      libraries.
  """
  global quiet, _is_set_up
  # Here, since it must be there before anybody asks for its logger by name.
  import absl.logging

  quiet, _is_set_up = is_quiet, True
  logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
  _logger.setLevel((log_level or ("error" if quiet else "info")).upper())
  for name in _OTHERS:
    logging.getLogger(name).setLevel((log_level or "error").upper())
  absl.logging.set_verbosity(log_level or "error")
  if quiet:
    # Their downloads have bars of their own, which are asked for so.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def hush() -> None:
  """Shows errors alone of what other libraries log, where nobody asked for more.

  In a notebook their warnings would stand in the midst of bars. A logger that
  was set to show more than warnings is left as it is.
  """
  for name in () if _is_set_up else _OTHERS:
    logger = logging.getLogger(name)
    if logger.level in (logging.NOTSET, logging.WARNING):
      logger.setLevel(logging.ERROR)


def is_hidden() -> bool:
  """Returns whether nothing is shown, here or by the first process alone."""
  return quiet or (processes.joined() and not processes.is_first())


def say(text: str) -> None:
  """Prints a line of a run's course."""
  if not is_hidden():
    print(text, flush=True)


def bar(
  items: Iterable[Any] | None = None,
  *,
  total: int,
  unit: str,
  desc: str | None = None,
  initial: int = 0,
  leave: bool = True,
) -> tqdm.tqdm:
  """Returns a progress bar, which is disabled where there is no terminal.

  Args:
    items: what to go through; without, the bar is updated by its user.
    total: how many there are.
    unit: what one of them is.
    desc: stands before the bar.
    initial: how many are done already.
    leave: whether the bar stays when it is full.
  """
  return tqdm.tqdm(
    items,
    total=total,
    unit=unit,
    desc=desc,
    initial=initial,
    leave=leave,
    dynamic_ncols=True,
    file=sys.stderr,
    # None for wherever there is no terminal.
    disable=True if is_hidden() else None,
  )


@contextlib.contextmanager
def stage(what: str, *, has_bar: bool = False) -> Iterator[None]:
  """Says on stderr what is done in the block, once it takes long.

  Args:
    what: such as "loading the model".
    has_bar: whether a terminal has a bar of it, and needs no line.
  """
  began = time.monotonic()
  shown = not is_hidden() and not (has_bar and sys.stderr.isatty())
  timer = threading.Timer(PATIENCE, _show, [f"{what} …"])
  timer.daemon = True
  if shown:
    timer.start()
  try:
    yield
  finally:
    timer.cancel()
  _logger.debug("%s: %.1f s", what, time.monotonic() - began)


def _show(text: str) -> None:
  # Not in the midst of a bar.
  tqdm.tqdm.write(text, file=sys.stderr)
