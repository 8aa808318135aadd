"""Writes the notebook of a page: its text and its code, in cells.

The first cell of code installs the package, as in the other notebook.
"""

import pathlib
import re

import nbformat

DOCS = pathlib.Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
PAGE, NOTEBOOK = DOCS / "your_own_game.md", NOTEBOOKS / "your_own_game.ipynb"
_BLOCK = re.compile(r"```(?:python|py)\n(.*?)\n```", re.DOTALL)


def build() -> str:
  """Returns the notebook of the page as JSON."""
  other = nbformat.read(NOTEBOOKS / "tictactoe_colab.ipynb", as_version=4)
  setup = [c for c in other.cells if c.id in ("setup", "install")]
  if len(setup) != 2:
    raise LookupError("the other notebook has no cells setup and install")
  # Relative links hold for the notebook, too, whose directory is beside docs.
  cells, parts = [], _BLOCK.split(PAGE.read_text())
  for number, part in enumerate(parts):
    if not part.strip():
      continue
    make = nbformat.v4.new_code_cell
    if number % 2 == 0:
      make = nbformat.v4.new_markdown_cell
    cells.append(make(part.strip(), id=f"part-{number}"))
  cells[1:1] = setup
  notebook = nbformat.v4.new_notebook(cells=cells, metadata=other.metadata)
  return nbformat.writes(notebook, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
  NOTEBOOK.write_text(build())
