"""Counts modules, lines and breaches of the rules of prose in a checkout.

python tests/prose.py [CHECKOUT]
"""

import argparse
import ast
from collections.abc import Iterator
import pathlib
import re
import statistics

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("tunix_ttt", "training", "benchmarks", "docs")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Names that do not say what a value is.
_VAGUE = re.compile(
  "alone|asked|begins|every_luck|exhibits|found|given|known|luck|made_up|own"
  "|said|shown|some|telling|theirs|there|together|told"
)
_RULES = {
  "begins with a relative or an interrogative": re.compile(
    r"\A(What|That|Those|How|Where|Who) "
  ),
  "has an entry that begins with 'of'": re.compile(r"^ *\*{0,2}\w+: of ", re.M),
  "has an entry that begins in lower case": re.compile(
    r"^ +\*{0,2}(?!\w*Error)\w+: (?!int|float|bool|uint)[a-z]", re.M
  ),
}


def sources(root: pathlib.Path) -> list[pathlib.Path]:
  """Lists the Python files of a checkout whose docstrings are held to rules."""
  return sorted(
    path
    for folder in FOLDERS
    for path in (root / folder).rglob("*.py")
    if "_build" not in path.parts
  )


def breaches(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields the rules that a file breaks, and where."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, DOCUMENTED):
      text = ast.get_docstring(node) or ""
      for rule, pattern in _RULES.items():
        if pattern.search(text):
          yield f"docstring {rule}", getattr(node, "name", "module")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      if _VAGUE.fullmatch(node.id):
        yield "vague name", node.id
    elif isinstance(node, ast.arg) and _VAGUE.fullmatch(node.arg):
      yield "vague name", node.arg


def main() -> None:
  """Prints the counts of a checkout."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("root", nargs="?", type=pathlib.Path, default=ROOT)
  root = parser.parse_args().root
  lines = [
    len(path.read_text().splitlines())
    for path in sources(root)
    if path.relative_to(root).parts[0] == "tunix_ttt"
    and path.name != "__init__.py"
  ]
  print(f"modules of tunix_ttt: {len(lines)}")
  print(f"median lines: {statistics.median(lines):g}, most: {max(lines)}")
  total = sum(
    len(path.read_text().splitlines())
    for folder in ("tunix_ttt", "training")
    for path in (root / folder).rglob("*.py")
  )
  print(f"lines of tunix_ttt and training: {total:,}")
  counts: dict[str, int] = {}
  for path in sources(root):
    for rule, _ in breaches(path):
      counts[rule] = counts.get(rule, 0) + 1
  for rule, count in sorted(counts.items()):
    print(f"{rule}: {count}")


if __name__ == "__main__":
  main()
