"""Prints the oldest versions that `pyproject.toml` allows, as constraints.

The standard library is enough: it runs before anything is installed.
"""

from collections.abc import Iterator
import pathlib
import re
import tomllib

_PYPROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"


def constraints() -> Iterator[str]:
  """Yields `name==version` for each lower bound."""
  project = tomllib.loads(_PYPROJECT.read_text())["project"]
  for texts in (
    project["dependencies"],
    *project["optional-dependencies"].values(),
  ):
    for text in texts:
      bound = re.match(r"([\w-]+)(?:\[\w+\])?[>=]=([\d.]+)", text)
      if bound:
        yield "{}=={}".format(*bound.groups())


if __name__ == "__main__":
  print(*dict.fromkeys(constraints()), sep="\n")
