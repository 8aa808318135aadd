"""Checks that installed packages are of versions that this package allows."""

from collections.abc import Iterator
import importlib.metadata

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
