"""Checks installed package versions and device memory before work starts."""

from collections.abc import Iterator
import importlib.metadata
import os

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
  unmet = {
    f"{requirement.name}{requirement.specifier}": version
    for requirement, version in _installed()
    if version is None or not requirement.specifier.contains(version, True)
  }
  if not unmet:
    return
  problems = ", ".join(
    f"{needed} ({f'found {version}' if version else 'not installed'})"
    for needed, version in unmet.items()
  )
  install = " ".join(f"'{needed}'" for needed in unmet)
  raise errors.UserError(
    f"{_PACKAGE} needs {problems}; run: python -m pip install {install}"
  )


def _installed() -> Iterator[tuple[requirements.Requirement, str | None]]:
  """Yields this package's requirements with their installed versions."""
  try:
    texts = importlib.metadata.requires(_PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    # The source tree is on the path, but not installed.
    return
  for text in texts:
    requirement = requirements.Requirement(text)
    # Skip the requirements of extras and of other platforms.
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
      continue
    try:
      yield requirement, importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
      yield requirement, None


def check_fits(needed: int, what: str, advice: str) -> None:
  """Raises a UserError if work needs far more memory than a device has.

  Args:
    needed: Estimated bytes on each device.
    what: Name of the work, for the message.
    advice: Settings to lower, for the message.
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
