"""Checks that installed packages are of versions that this package allows."""

from collections.abc import Iterator
import importlib.metadata
import os

from packaging import requirements

from tunix_ttt import errors

_PACKAGE = "tunix_ttt"


def check() -> None:
  """Compares installed versions with this package's metadata; imports nothing.

  Raises:
    errors.UserError: if a required package is missing or out of bounds.
  """
  unmet = {
    f"{requirement.name}{requirement.specifier}": found
    for requirement, found in _installed()
    if found is None or not requirement.specifier.contains(found, True)
  }
  if not unmet:
    return
  problems = ", ".join(
    f"{needed} ({f'found {found}' if found else 'not installed'})"
    for needed, found in unmet.items()
  )
  install = " ".join(f"'{needed}'" for needed in unmet)
  raise errors.UserError(
    f"{_PACKAGE} needs {problems}; run: python -m pip install {install}"
  )


def _installed() -> Iterator[tuple[requirements.Requirement, str | None]]:
  """Yields what this package requires, with the version that is installed."""
  try:
    texts = importlib.metadata.requires(_PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    # The source tree is on the path, but not installed.
    return
  for text in texts:
    requirement = requirements.Requirement(text)
    # Requirements of extras are not required.
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
      continue
    try:
      yield requirement, importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
      yield requirement, None


# Estimates are of shapes alone, and may be so many times too high.
_LEEWAY = 2


def of_device() -> int:
  """Returns the bytes of memory that a device has."""
  # Imported lazily: starts a backend.
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  # Without memory of its own, as a CPU, it has the machine's.
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def check_fits(needed: int, what: str, advice: str) -> None:
  """Raises a UserError if something needs far more memory than a device has.

  Args:
    needed: Estimated bytes on each device.
    what: The thing that needs them, for the message.
    advice: The settings to lower.
  """
  available = of_device()
  if needed > _LEEWAY * available:
    raise errors.UserError(
      f"{what} needs about {_size(needed)} of memory on each device, which has"
      f" {_size(available)}; lower {advice}"
    )


def _size(count: int) -> str:
  return f"{min(count, 10**24) / 2**30:,.1f} GiB"
