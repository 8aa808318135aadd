"""Stops runs at Ctrl-C and SIGTERM so that they can be resumed.

Within `between_steps`, the first signal waits for the end of the step; the run
then saves a checkpoint and raises `Interrupted`. Elsewhere a signal raises
`Interrupted` at once, and unfinished files are removed as after any error. In a
script (`in_script`) a second signal ends the process at once.

An exception is lost in a callback of the garbage collector, kills the process
while a library such as jaxlib loads, and leaves a temporary behind while it is
being removed. In these places the signal is sent again a moment later.
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

from tunix_ttt import errors
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Signals within this time count once: launchers may signal both a process and
# its group.
_SAME_SECONDS = 0.2
_RETRY_SECONDS = 0.01
# Functions that no exception may leave: Python's loader of compiled libraries,
# and the context manager of temporaries.
_UNINTERRUPTIBLE = {
  "ExtensionFileLoader.create_module",
  "ExtensionFileLoader.exec_module",
  "_temporary",
}


def _python_call(run: pathlib.Path | None) -> str:
  return "" if run is None else f"resume(config, {str(run)!r})"


# Returns the command that resumes a run directory, or starts again where there
# is none yet. Scripts replace it.
resume_command: Callable[[pathlib.Path | None], str] = _python_call

_run: pathlib.Path | None = None
_stop: "Stop | None" = None
# Text of the last exception. The thread may speak after it was handled.
_text = ""
# Number of signals sent again that `_watch` has not read yet.
_num_retries = 0


class Interrupted(KeyboardInterrupt):
  """Exception for a signal; its text names the command that resumes the run.

  Attributes:
    exit_code: Exit code of a script: 128 plus the signal's number.
  """

  def __init__(self, number: int = signal.SIGINT, step: int | None = None):
    """Describes the current run, whose last step is `step`, if it has one."""
    global _text
    self.exit_code, _text = 128 + number, _message(step)
    super().__init__(_text)


class Stop:
  """Request to stop a loop of steps.

  Nothing could be saved before the first step is done (`has_begun`): until then
  a signal raises `Interrupted` at once.
  """

  def __init__(self):
    self.has_begun = False
    # Number of the first signal and the one all processes agree on; 0 if none.
    self.number = self._agreed = 0
    self._time = 0.0

  def is_asked(self) -> bool:
    """Returns, after a step, whether to stop; the same in all processes."""
    self.has_begun = True
    # A signal that arrives during the exchange waits for the next step.
    self._agreed = processes.largest(self.number)
    return bool(self._agreed)

  def interrupted(self, step: int) -> Interrupted:
    """Returns the exception to raise once the step's checkpoint is saved."""
    return Interrupted(self._agreed, step)

  def hear(self, number: int, frame: FrameType | None = None) -> None:
    """Handles a signal: records the first one, raises at the second."""
    now = time.monotonic()
    if self.has_begun and not self.number:
      self.number, self._time = number, now
    elif now - self._time > _SAME_SECONDS:
      _raise(number, frame)


@contextlib.contextmanager
def between_steps() -> Iterator[Stop]:
  """Defers signals to the end of a step; does nothing outside the main thread."""
  global _stop
  stop = Stop()
  with _handled(stop.hear):
    _stop = stop
    try:
      yield stop
      # The signal came after the last step, whose checkpoint is saved.
      if stop.number and not processes.several():
        raise Interrupted(stop.number)
    finally:
      _stop = None


@contextlib.contextmanager
def working_on(run: pathlib.Path) -> Iterator[None]:
  """Names the run directory that messages refer to."""
  global _run
  _run = run
  try:
    yield
  except Interrupted:
    raise
  except KeyboardInterrupt as error:
    # Python's own exception has no message.
    raise Interrupted from error
  finally:
    _run = None


@contextlib.contextmanager
def in_script() -> Iterator[None]:
  """Raises `Interrupted` for a signal and ends the process at the second.

  A thread watches for signals as well, since JAX may be busy for minutes in
  code that Python cannot interrupt.
  """
  global resume_command, _num_retries, _text
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  _num_retries, _text = 0, ""
  previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(reader,), daemon=True).start()
  try:
    with _handled(_raise):
      yield
  finally:
    signal.set_wakeup_fd(previous)
    os.close(writer)
    resume_command = _python_call


def _watch(reader: int) -> None:
  """Reads signals from a pipe; ends the process at the second one."""
  global _num_retries
  first = 0.0
  while data := os.read(reader, 1):
    now = time.monotonic()
    if data[0] not in SIGNALS:
      continue
    if _num_retries:
      _num_retries -= 1
    elif not first:
      first = now
      if _stop is not None and _stop.has_begun:
        say("stopping after this step; a second signal stops without saving")
    elif now - first > _SAME_SECONDS:
      say(_text or _message(None))
      processes.let_go()
      os._exit(128 + data[0])
  os.close(reader)


def _raise(number: int, frame: FrameType | None) -> None:
  while frame is not None:
    if frame.f_code.co_qualname in _UNINTERRUPTIBLE:
      return _send_again(number)
    frame = frame.f_back
  raise Interrupted(number)


def _send_again(number: int) -> None:
  main = threading.get_ident()

  def send() -> None:
    global _num_retries
    _num_retries += 1
    signal.pthread_kill(main, number)

  timer = threading.Timer(_RETRY_SECONDS, send)
  timer.daemon = True
  timer.start()


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
  """Installs a handler of signals that are not ignored; restores the old one."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  unraisable_hook = sys.unraisablehook

  def hook(lost: "sys.UnraisableHookArgs") -> None:
    if isinstance(lost.exc_value, Interrupted):
      _send_again(lost.exc_value.exit_code - 128)
    else:
      unraisable_hook(lost)

  sys.unraisablehook = hook
  # Shells have background jobs ignore Ctrl-C.
  handlers = {
    number: signal.signal(number, handler)
    for number in SIGNALS
    if signal.getsignal(number) != signal.SIG_IGN
  }
  try:
    yield
  except Exception as error:
    # Compiled code that called Python may replace the exception.
    for cause in errors.causes(error):
      if isinstance(cause, Interrupted):
        raise cause from None
    raise
  finally:
    # `integrity.silence_consequences` leaves its own hook after a fault.
    if sys.unraisablehook is hook:
      sys.unraisablehook = unraisable_hook
    for number, previous in handlers.items():
      signal.signal(number, signal.SIG_DFL if previous is None else previous)


def say(text: str) -> None:
  """Prints a line to stderr, below an unfinished progress bar."""
  start = "\n" if sys.stderr.isatty() else ""
  # One write: two threads may print at a time.
  sys.stderr.write(f"{start}{text}\n")
  sys.stderr.flush()


def _message(step: int | None) -> str:
  place = "interrupted" + ("" if step is None else f" at step {step}")
  steps = [] if _run is None else run_directory.checkpoint_steps(_run)
  if saved := max(steps, default=0):
    which = ", which" if step == saved else f"; step {saved}"
    text = f"{place}{which} is saved"
  elif _stop is not None and _stop.has_begun:
    text = f"{place}; no step is saved yet"
  elif _run is None and resume_command is _python_call:
    return "interrupted"
  else:
    text = "interrupted; nothing was trained yet"
  command = resume_command(_run)
  return f"{text}. To resume: {command}" if command else text
