"""The lessons' pages as modules: their definitions, without what takes long."""

import re
import sys
import types
from typing import Any

from tests import conftest

PAGES = conftest.ROOT / "docs" / "lessons"


def load(name: str) -> Any:
  """Runs the blocks of a lesson that define something, as a module."""
  text = (PAGES / f"{name}.md").read_text()
  blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
  module: Any = types.ModuleType(f"lesson_{name}")
  # Settings name functions by their module.
  sys.modules[module.__name__] = module
  exec("\n".join(blocks), vars(module))
  return module
