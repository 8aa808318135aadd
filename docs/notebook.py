"""Makes the notebooks of pages: their text and code in cells, and what it prints.

`python docs/notebook.py` writes the sources and keeps the outputs of a notebook whose
code is the same. `--execute` runs the notebooks, each in an empty directory, keeps
what they print and show, and prints how many minutes each took.
"""

import argparse
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import nbclient
import nbformat

DOCS = pathlib.Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
# Where executed notebooks find the package.
PACKAGE = DOCS.parent
PAGES = {
  "first_run": DOCS / "lessons" / "first_run.md",
  "your_own_game": DOCS / "your_own_game.md",
  "self_play": DOCS / "lessons" / "self_play.md",
  "adapters": DOCS / "lessons" / "adapters.md",
  "silent_failures": DOCS / "lessons" / "silent_failures.md",
}
SETUP = """\
## Setup

The next cell does nothing where the package is installed. Otherwise it installs the
package with versions that work together, from `ADDRESS`, from a wheel beside this
notebook, or from the checkout that the notebook lies in, and prints which. On Colab,
either upload `tunix_ttt-0.1.0-py3-none-any.whl`, which `pip wheel --no-deps .` makes in
a checkout, or set `ADDRESS`. With a GPU (*Runtime*, *Change runtime type*) JAX is
installed for it."""
INSTALL = """\
import importlib.util
import pathlib
import shutil

# A wheel's URL, or "git+https://", your repository's address, "@" and a commit.
ADDRESS = ""

if None in map(importlib.util.find_spec, ("tunix_ttt", "tunix")):
  here = pathlib.Path.cwd()
  sources = sorted(here.glob("tunix_ttt-*.whl")) + [
    d for d in (here, *here.parents) if (d / "tunix_ttt/cli.py").is_file()
  ]
  if not (ADDRESS or sources):
    raise SystemExit(
      "tunix_ttt is not installed. Put its wheel beside this notebook, or set"
      " ADDRESS, above, to a wheel or a repository, and run this cell again."
    )
  ADDRESS = ADDRESS or sources[0].as_uri()
  print("Installing tunix_ttt from", ADDRESS)
  jax = "jax[cuda12]==0.10.2" if shutil.which("nvidia-smi") else "jax==0.10.2"
  %pip install -q "tunix_ttt @ {ADDRESS}" "{jax}" google-tunix==0.1.7 flax==0.12.8 qwix==0.1.8 optax==0.2.8 orbax-checkpoint==0.12.8

%matplotlib inline"""
METADATA = {
  "colab": {"provenance": [], "toc_visible": True},
  "kernelspec": {
    "display_name": "Python 3",
    "language": "python",
    "name": "python3",
  },
  "language_info": {"name": "python"},
}
_BLOCK = re.compile(r"^```(?:python|py)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
# A page's link to its notebook, a paragraph that the notebook leaves out.
_TO_NOTEBOOK = re.compile(r"^As a notebook, .*?\n\n", re.MULTILINE | re.DOTALL)
# Differs from one execution to the next: speeds, and the names of runs.
_CHANGING = re.compile(
  r"  [\d,]+ \w+/s.*$|^.*artifacts/training_runs.*\n?", re.MULTILINE
)
# How an output is shown, the best first; text is kept besides.
_SHOWN = ("image/png", "text/html")


def build(name: str) -> Any:
  """Returns the notebook of a page without outputs."""
  page = PAGES[name]

  def from_notebook(match: re.Match[str]) -> str:
    path = os.path.relpath((page.parent / match[1]).resolve(), NOTEBOOKS)
    return f"]({path}"

  text = _LINK.sub(from_notebook, _TO_NOTEBOOK.sub("", page.read_text()))
  title, heading, rest = text.partition("\n## ")
  markdown = nbformat.v4.new_markdown_cell
  cells = [
    markdown(title.strip(), id="title"),
    markdown(SETUP, id="setup"),
    nbformat.v4.new_code_cell(INSTALL, id="install"),
  ]
  section, counts = "", dict[str, int]()

  def new_id(kind: str) -> str:
    stem = f"{section}{kind}"
    counts[stem] = counts.get(stem, 0) + 1
    return stem + (f"-{counts[stem]}" if counts[stem] > 1 else "")

  for number, part in enumerate(_BLOCK.split(heading.strip("\n") + rest)):
    if not part.strip():
      continue
    if number % 2 == 0:
      for title in re.findall(r"^##+ (.+)$", part, re.MULTILINE):
        section = re.sub(r"\W+", "-", title.lower()).strip("-")[:50]
      cells.append(markdown(part.strip(), id=new_id("-text")))
    elif cells[-1].cell_type == "code":
      # Blocks without a text between them.
      cells[-1].source += "\n\n\n" + part
    else:
      cells.append(nbformat.v4.new_code_cell(part, id=new_id("")))
  return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def code(notebook: Any) -> list[tuple[str, str]]:
  """Returns the names and the sources of the cells that outputs depend on."""
  return [
    (cell.id, cell.source)
    for cell in notebook.cells
    if cell.cell_type == "code" and cell.id != "install"
  ]


def keep_outputs(notebook: Any, executed: Any) -> None:
  """Gives a notebook the outputs of one with the same code."""
  outputs = {
    cell.id: cell for cell in executed.cells if cell.cell_type == "code"
  }
  for cell in notebook.cells:
    if cell.cell_type != "code":
      continue
    cell.execution_count = outputs[cell.id].execution_count
    for output in filter(None, map(clean, outputs[cell.id].outputs)):
      if cell.outputs and "text" in output and "text" in cell.outputs[-1]:
        # Lines that were printed one by one.
        cell.outputs[-1].text += output.text
      else:
        cell.outputs.append(output)


def clean(output: Any) -> Any:
  """Returns what is kept of an output, or None."""
  if output.output_type == "stream":
    text = _CHANGING.sub("", output.text)
    if output.name != "stdout" or not text.strip():
      return None
    return nbformat.v4.new_output("stream", name="stdout", text=text)
  best = next((kind for kind in _SHOWN if kind in output.data), None)
  kept = {
    kind: data
    for kind, data in output.data.items()
    if kind in (best, "text/plain")
  }
  output.data, output.metadata = nbformat.from_dict(kept), {}
  return output


def execute(notebook: Any, directory: pathlib.Path | str) -> None:
  """Runs a notebook in a directory, with the package of `PACKAGE`.

  Nothing is compiled before, as on a machine that runs its first notebook.
  """
  with tempfile.TemporaryDirectory() as cache:
    nbclient.NotebookClient(
      notebook,
      timeout=3600,
      record_timing=False,
      resources={"metadata": {"path": str(directory)}},
    ).execute(
      env=os.environ | {"PYTHONPATH": str(PACKAGE), "XDG_CACHE_HOME": cache}
    )


def write(name: str, notebook: Any) -> None:
  """Writes a notebook so that a change of it is a small one."""
  text = nbformat.writes(notebook, ensure_ascii=False, sort_keys=True)
  (NOTEBOOKS / f"{name}.ipynb").write_text(text + "\n")


def main() -> None:
  """Makes the notebooks."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
  parser.add_argument("--execute", action="store_true", help="make the outputs")
  flags = parser.parse_args()
  for name in flags.names or PAGES:
    notebook, path = build(name), NOTEBOOKS / f"{name}.ipynb"
    if flags.execute:
      executed, start = build(name), time.monotonic()
      with tempfile.TemporaryDirectory() as directory:
        execute(executed, directory)
      minutes = (time.monotonic() - start) / 60
      keep_outputs(notebook, executed)
      print(f"{name}: {minutes:.1f} minutes", flush=True)
    elif path.exists():
      old = nbformat.read(path, as_version=4)
      if code(old) == code(notebook):
        keep_outputs(notebook, old)
    write(name, notebook)


if __name__ == "__main__":
  main()
