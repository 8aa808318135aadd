"""Sphinx configuration of these pages; `make docs` builds them."""

import enum
import importlib
import inspect
import pathlib
import pkgutil
import re
import sys
from typing import Any

from sphinx.application import Sphinx

import tunix_ttt
from tunix_ttt import config as config_lib
from tunix_ttt.report import training_curves

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS))
import reference  # noqa: E402

project = "tunix_ttt"
author = "the authors of tunix_ttt"
version = release = tunix_ttt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "tunix_ttt"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3

autodoc_default_options = {
  "members": True,
  "member-order": "bysource",
  "exclude-members": "replace",  # Of every pytree, and the same.
}
autodoc_typehints_format = "short"
napoleon_attr_annotations = False  # The signature has them.
napoleon_use_ivar = True

# Docstrings have code in single backticks, as Markdown has it.
_CODE = re.compile(r"(?<![`:\\])`([^`]+)`(?!`)(\w?)")
# Links that a reader on GitHub can follow.
_LEAVING = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")
_GENERATED = re.compile(
  r"^```\{(settings|modules|exports|curves)\} (\w+)\n```$", re.MULTILINE
)


def _settings(name: str) -> str:
  """Returns the tables of a config's settings, of ```{settings} GRPOConfig."""
  return reference.markdown(getattr(config_lib, name))


def _modules(name: str) -> str:
  """Returns a section for each module of a package, of ```{modules} data."""
  package = importlib.import_module(f"tunix_ttt.{name}")
  names = [
    module.name
    for module in pkgutil.walk_packages(
      getattr(package, "__path__", ()), f"{package.__name__}."
    )
    if not module.ispkg
  ]
  return "\n".join(
    f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
    for name in names or [package.__name__]
  )


def _exports(name: str) -> str:
  """Returns a table of what a module exports, of ```{exports} tunix_ttt."""
  module = importlib.import_module(name)
  lines = ["| name | what it is |", "|---|---|"]
  for export in sorted(vars(module)["_SOURCES"]):
    value = getattr(module, export)
    kinds = (inspect.ismodule, inspect.isclass, inspect.isroutine)
    if not any(is_kind(value) for is_kind in kinds):
      # The type of a function: there is nothing to link to.
      text = re.sub(r"\w+\.", "", str(value))
      lines.append(f"| `{export}` | `{text}` |")
      continue
    place = getattr(value, "__module__", "")
    target = f"{place}.{value.__name__}" if place else value.__name__
    about = (inspect.getdoc(value) or "").partition("\n\n")[0]
    about = " ".join(about.split()).replace("|", "\\|")
    lines.append(f"| {{py:obj}}`{export} <{target}>` | {about} |")
  return "\n".join(lines) if len(lines) > 2 else ""


def _curves(_name: str) -> str:
  """Returns a table of what to look for in curves, of ```{curves} panels."""
  lines = ["| curve | what to look for |", "|---|---|"]
  for title, hint in training_curves.PANELS.values():
    title = title.format(seat="a seat", opponent="an opponent")
    lines.append(f"| {title} | {hint} |")
  return "\n".join(lines)


def _read(_app: Sphinx, page: str, content: list[str]) -> None:
  """Puts what is generated into a page, and mends links that leave `docs`."""
  makers = {
    "settings": _settings,
    "modules": _modules,
    "exports": _exports,
    "curves": _curves,
  }
  folder = (DOCS / page).parent

  def inside(match: re.Match[str]) -> str:
    text, target = match.groups()
    if target.endswith("benchmarks/README.md"):
      return f"[{text}](/benchmarks.md)"
    # A folder is to be seen on GitHub alone.
    return text if (folder / target).is_dir() else match[0]

  text = _GENERATED.sub(lambda match: makers[match[1]](match[2]), content[0])
  content[0] = _LEAVING.sub(inside, text)


def _to_rest(*arguments: Any) -> None:
  """Rewrites the code in a docstring as reStructuredText has it."""
  lines: list[str] = arguments[-1]

  def literal(match: re.Match[str]) -> str:
    code, after = match.groups()
    return f"``{code}``" + (rf"\ {after}" if after else "")

  lines[:] = _CODE.sub(literal, "\n".join(lines)).split("\n")


def _shorten(*arguments: Any) -> tuple[str | None, str | None]:
  """Leaves the last part of names in a signature that Sphinx cannot parse."""
  signature, returned = arguments[-2:]
  if signature and "<" in signature:
    signature = re.sub(r"~[\w.]+\.", "", signature)
  return signature, returned


def _skip(*arguments: Any) -> bool | None:
  """Keeps members of enumerations; drops fields that say their number alone."""
  member = arguments[3]
  if isinstance(member, enum.Enum):
    return False
  doc = getattr(member, "__doc__", None) or ""
  return True if doc.startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
  """Connects how pages and docstrings are read."""
  app.connect("source-read", _read)
  # Before napoleon, which makes reStructuredText of a docstring's sections.
  app.connect("autodoc-process-docstring", _to_rest, priority=400)
  app.connect("autodoc-process-signature", _shorten)
  app.connect("autodoc-skip-member", _skip)
