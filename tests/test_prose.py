"""Docstrings say what they describe, in whole noun phrases."""

import ast
import re

import pytest

from tests import conftest

SOURCES = sorted(
  path
  for name in ("tunix_ttt", "training", "benchmarks", "docs")
  for path in (conftest.ROOT / name).rglob("*.py")
  if "_build" not in path.parts
)
DOCUMENTED = (
  ast.Module,
  ast.ClassDef,
  ast.FunctionDef,
  ast.AsyncFunctionDef,
)
FAULT = re.compile(
  r"\A(What|That|Those|How|Where|Who) |^ *\*{0,2}\w+: of ", re.M
)


@pytest.mark.parametrize(
  "path", SOURCES, ids=lambda path: str(path.relative_to(conftest.ROOT))
)
def test_docstrings(path):
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, DOCUMENTED):
      found = FAULT.search(ast.get_docstring(node) or "")
      assert not found, f"{getattr(node, 'name', 'module')}: {found}"
