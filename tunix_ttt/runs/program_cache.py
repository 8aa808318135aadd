"""Keeps compiled programs on disk, so that the next process starts sooner."""

import hashlib
import os
import pathlib
import platform
from typing import Any

import filelock

# Of all programs that are kept; JAX removes those that were not used for longest.
_MAX_BYTES = 2**30
# Programs that compile faster are not worth a file.
_MIN_SECONDS = 0.2


def use() -> None:
  """Makes JAX keep compiled programs in the user's cache directory.

  A directory that JAX has been told, such as by `JAX_COMPILATION_CACHE_DIR`, stays,
  and `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing. Processes may share the
  directory; where it cannot be written, programs are compiled anew.
  """
  # Imported lazily: takes half a second.
  import jax

  # Type checkers do not know its fields.
  config: Any = jax.config
  if (
    config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache
  ):
    return
  try:
    path = directory()
    path.mkdir(parents=True, exist_ok=True)
    _remove_halves(path)
  except (OSError, RuntimeError, filelock.Timeout):
    # There may be no home directory.
    return
  config.update("jax_compilation_cache_dir", str(path))
  for name, default, value in (
    ("jax_compilation_cache_max_size", -1, _MAX_BYTES),
    ("jax_persistent_cache_min_compile_time_secs", 1.0, _MIN_SECONDS),
  ):
    if getattr(config, name) == default:
      config.update(name, value)


def directory() -> pathlib.Path:
  """Returns the directory of programs for this kind of processor.

  A home directory may be shared by machines, and JAX's names of programs do not
  tell apart processors that lack each other's instructions.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  features = platform.machine()
  cpu = pathlib.Path("/proc/cpuinfo")
  if cpu.exists():
    lines = cpu.read_text().splitlines()
    features += "".join(x for x in lines if x.startswith(("flags", "Features")))
  digest = hashlib.sha256(features.encode()).hexdigest()[:12]
  return pathlib.Path(cache) / "tunix_ttt" / f"programs-{digest}"


def _remove_halves(path: pathlib.Path) -> None:
  """Removes what a killed process left of a program.

  JAX writes a program and then the time of its use, which each later write needs.
  """
  with filelock.FileLock(path / ".lockfile", timeout=10):
    for program in path.glob("*-cache"):
      if not program.with_name(f"{program.name[:-6]}-atime").exists():
        program.unlink()
