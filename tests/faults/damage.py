"""Damages files and directories, each kind by a function of (path, rng)."""

from collections.abc import Callable
import ctypes
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys

# More than any run of a campaign has.
_ROOMY = 2**30
# CLONE_NEWNS of unshare(2).
_NEW_MOUNTS = 0x20000


def flip(path: pathlib.Path, rng: random.Random) -> None:
  """Inverts one bit of a file."""
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


def cut(path: pathlib.Path, rng: random.Random) -> None:
  """Cuts a file short by one byte or more."""
  os.truncate(path, rng.randrange(path.stat().st_size))


def garble(path: pathlib.Path, rng: random.Random) -> None:
  """Writes random bytes over a stretch of a file."""
  data = bytearray(path.read_bytes())
  start = rng.randrange(len(data))
  size = min(rng.randint(1, 64), len(data) - start)
  data[start : start + size] = rng.randbytes(size)
  path.write_bytes(data)


def empty(path: pathlib.Path, rng: random.Random) -> None:
  """Empties a file or a directory."""
  del rng
  if path.is_dir():
    shutil.rmtree(path)
    path.mkdir()
  else:
    path.write_bytes(b"")


def remove(path: pathlib.Path, rng: random.Random) -> None:
  """Removes a file or a directory."""
  del rng
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace(path: pathlib.Path, rng: random.Random) -> None:
  """Puts a directory in place of a file, a file in place of a directory."""
  is_file = path.is_file()
  remove(path, rng)
  path.mkdir() if is_file else path.write_bytes(rng.randbytes(20))


OF_FILES: dict[str, Callable[[pathlib.Path, random.Random], None]] = {
  "flip": flip,
  "cut": cut,
  "garble": garble,
  "empty": empty,
  "remove": remove,
  "replace": replace,
}
OF_DIRECTORIES = {k: OF_FILES[k] for k in ("empty", "remove", "replace")}

# See `Disk` and `limit_files`.
OF_DISKS = ("full", "limit")


def kinds(path: pathlib.Path) -> list[str]:
  """Returns the kinds of damage that a file or a directory can have."""
  if path.is_dir():
    return [*OF_DIRECTORIES]
  return [*OF_FILES] if path.stat().st_size else ["remove", "replace"]


def limit_files(size: int) -> None:
  """Has this process fail to write beyond `size` bytes of a file."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def own_mounts() -> bool:
  """Gives this process mounts of its own; returns whether it may have them."""
  if sys.platform != "linux" or ctypes.CDLL(None).unshare(_NEW_MOUNTS):
    return False
  return not subprocess.call(["mount", "--make-rprivate", "/"])


class Disk:
  """A directory that is a disk of its own, by its size in bytes."""

  def __init__(self, path: pathlib.Path):
    """Mounts a roomy disk at `path`, an empty directory."""
    self._path = path
    self._mount(f"size={_ROOMY}")

  def fill(self, left: int) -> None:
    """Leaves so many bytes free."""
    usage = shutil.disk_usage(self._path)
    self._mount(f"remount,size={usage.used + left}")

  def enlarge(self) -> None:
    """Makes the disk roomy again."""
    self._mount(f"remount,size={_ROOMY}")

  def remove(self) -> None:
    """Unmounts the disk; what is on it is gone."""
    subprocess.run(["umount", self._path], check=True)

  def _mount(self, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self._path]
    subprocess.run(command, check=True)
