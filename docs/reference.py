"""Renders the settings of a config class as a Markdown reference page.

Types and defaults come from the fields, meanings from the `Attributes` of the
docstrings.
"""

from collections.abc import Iterator
import dataclasses
import inspect
import json
import re
import types
from typing import (
  Annotated,
  Any,
  Literal,
  NamedTuple,
  Union,
  get_args,
  get_origin,
)

from tunix_ttt.config import sections as sections_lib

_PLAIN = {
  str: "text",
  bool: "true or false",
  int: "whole number",
  float: "number",
  Any: "any value",
}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Setting(NamedTuple):
  """A row of a table, in Markdown; `key` is dotted, as for `--set`."""

  key: str
  type: str
  default: str
  meaning: str


class Section(NamedTuple):
  """The settings of one class; `key` is empty for the whole config."""

  key: str
  about: str
  settings: list[Setting]


def markdown(kind: type) -> str:
  """Returns the reference page of a config class: a table for each section."""
  lines = []
  for section in sections(kind):
    if section.key:
      lines += [f"## `{section.key}`", ""]
    lines += [section.about, "", "| key | type | default | meaning |"]
    lines += ["|---|---|---|---|"]
    for key, *cells in section.settings:
      row = " | ".join(cell.replace("|", "\\|") for cell in cells)
      lines.append(f"| `{key}` | {row} |")
    lines.append("")
  return "\n".join(lines)


def documented(kind: type) -> dict[str, str]:
  """Returns the documented attributes of a class and its base classes."""
  meanings: dict[str, str] = {}
  for cls in reversed(kind.__mro__):
    meanings |= _docstring(cls)[1]
  return meanings


def sections(
  kind: type, defaults: Any = None, prefix: str = ""
) -> Iterator[Section]:
  """Yields the section of a class, then its inner sections.

  `defaults` has the values that the outer section sets. `prefix` is empty, or
  the section's key and a dot.
  """
  meanings = documented(kind)
  settings, inner = [], []
  for field in dataclasses.fields(kind):
    key = prefix + field.name
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
      default = field.default_factory()
    default = getattr(defaults, field.name, default)
    type_, meaning = type_name(field.type), meanings.get(field.name, "")
    settings.append(Setting(key, type_, _in_yaml(default), meaning))
    if section := sections_lib.section_type(field.type):
      is_set = isinstance(default, section)
      inner.append((section, default if is_set else None, f"{key}."))
  yield Section(prefix[:-1], _docstring(kind)[0], settings)
  for arguments in inner:
    yield from sections(*arguments)


def type_name(annotation: Any) -> str:
  """Returns the YAML values that an annotation accepts, in Markdown."""
  *most, last = _alternatives(annotation)
  return f"{', '.join(most)} or {last}" if most else last


def _alternatives(annotation: Any) -> list[str]:
  origin, members = get_origin(annotation), get_args(annotation)
  if annotation is type(None):
    return ["`null`"]
  if origin is Literal:
    return [f"`{member}`" for member in members]
  if origin in (Union, types.UnionType):
    return [name for member in members for name in _alternatives(member)]
  if origin is Annotated:
    return [type_name(members[0]) + _bounds(members[1:])]
  if origin is list:
    return [f"list of {type_name(members[0])}"]
  if origin is tuple:
    return [f"[{', '.join(map(type_name, members))}]"]
  if origin is dict:
    keys, value = map(type_name, members)
    return [f"keys {keys}, each with a {value}"]
  if dataclasses.is_dataclass(annotation):
    return ["section"]
  return [_PLAIN[annotation]]


def _bounds(metadata: tuple[Any, ...]) -> str:
  limits = [
    f"{sign} {getattr(bound, name)}"
    for field in metadata
    for bound in getattr(field, "metadata", ())
    for name, sign in _BOUNDS.items()
    if hasattr(bound, name)
  ]
  return " " + " and ".join(limits) if limits else ""


def _in_yaml(default: Any) -> str:
  if default is dataclasses.MISSING:
    return "required"
  if dataclasses.is_dataclass(default):
    return "below"
  return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _docstring(cls: type) -> tuple[str, dict[str, str]]:
  """Splits a docstring into its text and the meanings of its attributes."""
  text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
  text = re.sub(r"\bNone\b", "`null`", text)
  about, _, attributes = text.partition("\nAttributes:\n")
  meanings = {}
  # Names are indented by two spaces, continuation lines by four.
  for entry in re.split(r"\n(?=  \w)", "\n" + attributes)[1:]:
    name, _, meaning = entry.strip().partition(": ")
    meanings[name] = " ".join(meaning.split())
  return about.strip(), meanings
