"""Checks installed package versions and device memory before work starts."""

import importlib
import importlib.metadata
import os
from types import ModuleType

from packaging import requirements

from tunix_ttt import errors

_PACKAGE = "tunix_ttt"
# Memory estimates use shapes only and may be too high by this factor.
_LEEWAY = 2


def check() -> None:
  """Compares installed versions with this package's metadata; imports nothing.

  Raises:
    errors.UserError: if a required package is missing or out of bounds.
  """
  try:
    texts = importlib.metadata.requires(_PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    # The source tree is on the path, but not installed.
    return
  problems, needed = [], []
  for requirement in map(requirements.Requirement, texts):
    # Skip the requirements of extras and of other platforms.
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
      continue
    try:
      version = importlib.metadata.version(requirement.name)
      if requirement.specifier.contains(version, True):
        continue
      fault = f"found {version}"
    except importlib.metadata.PackageNotFoundError:
      fault = "not installed"
    needed.append(f"{requirement.name}{requirement.specifier}")
    problems.append(f"{needed[-1]} ({fault})")
  if problems:
    install = " ".join(f"'{name}'" for name in needed)
    raise errors.UserError(
      f"{_PACKAGE} needs {', '.join(problems)}; run: python -m pip install"
      f" {install}"
    )


def import_extra(name: str, extra: str) -> ModuleType:
  """Imports a module of an optional dependency.

  Raises:
    errors.UserError: if it is not installed; names the extra that has it.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise errors.UserError(
      f"{name} cannot be imported ({error}); run: pip install"
      f" '{_PACKAGE}[{extra}]'"
    ) from error


def check_fits(needed: int, what: str, advice: str) -> None:
  """Raises a UserError if work needs far more memory than a device has.

  `needed` is in bytes on each device; `advice` names the settings to lower.
  """
  available = device_memory()
  if needed > _LEEWAY * available:
    raise errors.UserError(
      f"{what} needs about {_size(needed)} of memory on each device, which has"
      f" {_size(available)}; lower {advice}"
    )


def device_memory() -> int:
  """Returns the bytes of memory of a device."""
  # Imported lazily: starts a backend.
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  # A CPU reports no memory of its own and uses the machine's.
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def _size(count: int) -> str:
  return f"{min(count, 10**24) / 2**30:,.1f} GiB"
