"""Ctrl-C and SIGTERM: what is being done ends where it can be gone on with.

A run goes through steps within `between_steps`. There the first signal is
noted, and the run asks for it after each step, saves a checkpoint and raises
`Interrupted`. Anywhere else a signal raises `Interrupted` where it finds the
program, and files that were being written are left out, as with any error. In a
script (`in_script`) a second one ends the process at once.

An exception is lost in a callback of the garbage collector, ends the process
while a library such as jaxlib loads, and would leave a temporary that is being
removed: there the signal is sent again a moment later.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Seconds in which a signal that comes again is the same: some launchers send it
# to a process and to the process's group.
_SAME = 0.2

# Seconds after which a signal is sent again where it could not be raised.
_AGAIN = 0.01

_DEFERRED = (
  "ending after this step; once more to end at once, without saving it"
)


def _of_the_library(run: pathlib.Path | None) -> str:
  return "" if run is None else f"resume(config, {str(run)!r})"


# Given the run directory, None where there is none yet, returns how to go on.
# Scripts put the command here.
how_to_go_on: Callable[[pathlib.Path | None], str] = _of_the_library

# What signals find: the run, and its loop of steps.
_run: pathlib.Path | None = None
_stop: "Stop | None" = None

# Functions that no exception may leave: Python's loader of compiled libraries,
# and what makes and removes temporaries.
_WHOLE = {
  "ExtensionFileLoader.create_module",
  "ExtensionFileLoader.exec_module",
  "_beside",
}

# Signals that were sent again, and that `_watch` has not read yet.
_sent_again = 0


class Interrupted(KeyboardInterrupt):
  """The exception raised for a signal; its text names the command that resumes.

  Attributes:
    exit_code: that a script ends with, by convention 128 and the signal.
    step: the step of the run that was the last, None outside of steps.
  """

  def __init__(self, number: int = signal.SIGINT, step: int | None = None):
    """Describes the run as it is now.

    Args:
      number: Signal number.
      step: see above.
    """
    self.exit_code = 128 + number
    self.step = step
    super().__init__(_message(step))


class Stop:
  """Whether a loop of steps has been asked to end.

  Before the first step is done, nothing would be saved: until then a signal
  raises `Interrupted` at once.

  Attributes:
    has_begun: whether a step is done.
    number: Number of the first signal; 0 if there was none.
  """

  has_begun: bool = False
  number: int = 0
  _agreed: int = 0
  _asked_at: float = 0.0

  def is_asked(self) -> bool:
    """Returns, after a step, whether to end; all processes are told the same."""
    self.has_begun = True
    # One that comes meanwhile is told after the next step.
    self._agreed = processes.largest(self.number)
    return bool(self._agreed)

  def interrupted(self, step: int) -> Interrupted:
    """Returns what to raise after a step, when all that can be is saved."""
    return Interrupted(self._agreed, step)

  def hear(self, number: int, frame: FrameType | None = None) -> None:
    """Takes a signal: notes the first, raises at the second."""
    now = time.monotonic()
    if self.has_begun and not self.number:
      self.number, self._asked_at = number, now
    elif now - self._asked_at > _SAME:
      _raise(number, frame)


@contextlib.contextmanager
def between_steps() -> Iterator[Stop]:
  """Has signals wait for the end of a step; see the module.

  Signals reach the main thread alone; in others this does nothing.
  """
  global _stop
  stop = Stop()
  with _handled(stop.hear):
    _stop = stop
    try:
      yield stop
      # It came after the last step, whose checkpoint there is.
      if stop.number and not processes.several():
        raise Interrupted(stop.number)
    finally:
      _stop = None


@contextlib.contextmanager
def working_on(run: pathlib.Path) -> Iterator[None]:
  """Names the run that messages are of."""
  global _run
  _run = run
  try:
    yield
  except Interrupted:
    raise
  except KeyboardInterrupt as error:
    # Python's own, which says nothing.
    raise Interrupted from error
  finally:
    _run = None


@contextlib.contextmanager
def in_script() -> Iterator[None]:
  """Raises `Interrupted` for a signal, and at the second ends the process.

  JAX may be busy for minutes in code that Python cannot interrupt: a thread
  hears of signals besides.
  """
  global how_to_go_on, _sent_again
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  # Nobody has read those of a library's run before.
  _sent_again = 0
  thread = threading.Thread(target=_watch, args=(reader,), daemon=True)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  thread.start()
  try:
    with _handled(_raise):
      yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writer)
    how_to_go_on = _of_the_library


def _raise(number: int, frame: FrameType | None) -> None:
  while frame is not None:
    if frame.f_code.co_qualname in _WHOLE:
      _send_again(number)
      return
    frame = frame.f_back
  raise Interrupted(number)


def _send_again(number: int) -> None:
  main = threading.get_ident()

  def send() -> None:
    global _sent_again
    _sent_again += 1
    signal.pthread_kill(main, number)

  timer = threading.Timer(_AGAIN, send)
  timer.daemon = True
  timer.start()


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
  """Installs a handler of signals that are not ignored; puts the old one back."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {}
  unraisable = sys.unraisablehook

  def hook(lost: "sys.UnraisableHookArgs") -> None:
    if isinstance(lost.exc_value, Interrupted):
      _send_again(lost.exc_value.exit_code - 128)
    else:
      unraisable(lost)

  sys.unraisablehook = hook
  for number in SIGNALS:
    # A job in the background is told to ignore Ctrl-C.
    if signal.getsignal(number) != signal.SIG_IGN:
      before[number] = signal.signal(number, handler)
  try:
    yield
  except Exception as error:
    # Compiled code that called Python may have raised an error of its own.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Interrupted):
      cause = cause.__cause__ or cause.__context__
    if cause is not None:
      raise cause from None
    raise
  finally:
    # `files.silence_after_disk_fault` leaves its own hook after a fault.
    if sys.unraisablehook is hook:
      sys.unraisablehook = unraisable
    for number, old in before.items():
      signal.signal(number, signal.SIG_DFL if old is None else old)


def _watch(reader: int) -> None:
  """Reads the numbers of signals as they come, in a thread."""
  global _sent_again
  first = 0.0
  while data := os.read(reader, 1):
    now = time.monotonic()
    if data[0] not in SIGNALS:
      continue
    if _sent_again:
      _sent_again -= 1
      continue
    if not first:
      first = now
      if _stop is not None and _stop.has_begun:
        say(_DEFERRED)
    elif now - first > _SAME:
      say(_message(None))
      processes.let_go()
      os._exit(128 + data[0])
  os.close(reader)


def say(text: str) -> None:
  """Prints a line to stderr, which may be in the midst of a progress bar."""
  start = "\n" if sys.stderr.isatty() else ""
  # In one piece: two threads may have something to say.
  sys.stderr.write(f"{start}{text}\n")
  sys.stderr.flush()


def _message(step: int | None) -> str:
  saved = (
    0 if _run is None else max(run_directory.checkpoint_steps(_run), default=0)
  )
  at = "" if step is None else f" at step {step}"
  if saved:
    which = "which" if step == saved else f"step {saved}"
    text = f"interrupted{at}{',' if step == saved else ';'} {which} is saved"
  elif _stop is not None and _stop.has_begun:
    text = f"interrupted{at}; no step is saved yet"
  elif _run is None and how_to_go_on is _of_the_library:
    return "interrupted"
  else:
    text = "interrupted; nothing was trained yet"
  how = how_to_go_on(_run)
  return f"{text}. To go on: {how}" if how else text
