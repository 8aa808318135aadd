"""SIGKILL at a random instant, or just before a chosen write."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import random
import re
import signal
import sys
import time
from typing import Any

from tests.faults import zygote

_CHANGES = {
  "os.link",
  "os.mkdir",
  "os.remove",
  "os.rename",
  "os.rmdir",
  "os.symlink",
  "os.truncate",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Temporary names, steps and times.
_NUMBERS = re.compile(r"(?<![a-z])[0-9a-f]{8,}|\d+")
_POLL = 0.002


def _kind(event: str, arguments: Sequence[Any], root: str) -> str | None:
  """Returns the kind of a write below `root`, None for other audit events."""
  if event == "open":
    path, _, flags = arguments
    if not flags & _WRITES:
      return None
  elif event in _CHANGES:
    path = arguments[1 if event in ("os.rename", "os.link") else 0]
  else:
    return None
  if not isinstance(path, (str, bytes, os.PathLike)):
    return None
  path = os.fsdecode(path)
  if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
    # As `shutil.rmtree` does it: relative to an open directory.
    path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
  path = os.path.abspath(path)
  if not path.startswith(root + os.sep):
    return None
  return f"{event} {_NUMBERS.sub('#', path[len(root) + 1 :])}"


@dataclasses.dataclass(frozen=True)
class Hook:
  """Has `act` called before each write below a directory, once it is called.

  Python announces what it opens, renames, makes and removes. What TensorStore
  writes in C++ is not announced; the renames that make it count are.

  Attributes:
    root: directory of the run.
    act: function of a write's kind, such as `os.rename run/metrics.jsonl`.
  """

  root: pathlib.Path
  act: Callable[[str], None]

  def __call__(self) -> None:
    root = str(self.root.resolve())

    def audit(event: str, arguments: Sequence[Any]) -> None:
      kind = _kind(event, arguments, root)
      if kind is not None:
        self.act(kind)

    sys.addaudithook(audit)


@dataclasses.dataclass(frozen=True)
class ListWrites:
  """Adds the kinds of writes to a file, one a line.

  Attributes:
    path: path of the file, outside the directory that is watched.
  """

  path: pathlib.Path

  def __call__(self, kind: str) -> None:
    with self.path.open("a") as file:
      file.write(f"{kind}\n")


@dataclasses.dataclass
class AtWrite:
  """Kills its process before a kind's n-th write.

  Attributes:
    kind: kind of write.
    left: number of such writes until then, that one included.
  """

  kind: str
  left: int

  def __call__(self, kind: str) -> None:
    self.left -= kind == self.kind
    if not self.left:
      os.kill(os.getpid(), signal.SIGKILL)


def choose_write(
  writes: Sequence[str], number: int, rng: random.Random
) -> tuple[str, int]:
  """Returns the kind of write for attack `number`, and which of its writes.

  Args:
    writes: kinds of an uninterrupted run's writes, in order.
    number: number of the attack; attacks go through the kinds in turn.
    rng: source of randomness.
  """
  kinds = sorted(set(writes))
  kind = kinds[number % len(kinds)]
  return kind, rng.randint(1, writes.count(kind))


def after(
  processes: Sequence[zygote.Process],
  victims: Sequence[zygote.Process],
  seconds: float,
  exists: pathlib.Path | None,
) -> bool:
  """Kills processes at an instant; returns whether they ran until then.

  Args:
    processes: processes of the run; the victims are among them.
    victims: processes to kill.
    seconds: seconds to wait.
    exists: path to wait for before that; None waits for nothing.
  """

  def is_running() -> bool:
    return all(process.code is None for process in processes)

  while exists is not None and is_running() and not exists.exists():
    time.sleep(_POLL)
  end = time.monotonic() + seconds
  while is_running() and (left := end - time.monotonic()) > 0:
    time.sleep(min(left, 0.05))
  killed = [victim.kill() for victim in victims]
  return all(killed)
