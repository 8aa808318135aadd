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
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tunix_ttt.config import sections as config_sections

_PLAIN = {
  str: "text",
  bool: "true or false",
  int: "whole number",
  float: "number",
}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """A key of a config, in Markdown.

  Attributes:
    key: Dotted key, as for `--set`.
    type: Values that the key accepts.
    default: Default value in YAML.
    meaning: Description from the docstring.
  """

  key: str
  type: str
  default: str
  meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """The settings of one class.

  Attributes:
    key: Dotted key of the section; empty for the whole config.
    about: Description from the docstring.
    settings: Settings of the section, including keys of inner sections.
  """

  key: str
  about: str
  settings: tuple[Setting, ...]


def markdown(kind: type) -> str:
  """Returns the reference page of a config class: a table for each section."""
  lines = []
  for section in sections(kind):
    if section.key:
      lines += [f"## `{section.key}`", ""]
    lines += [section.about, "", "| key | type | default | meaning |"]
    lines += ["|---|---|---|---|"]
    for setting in section.settings:
      cells = (setting.type, setting.default, setting.meaning)
      row = " | ".join(cell.replace("|", "\\|") for cell in cells)
      lines.append(f"| `{setting.key}` | {row} |")
    lines.append("")
  return "\n".join(lines)


def sections(kind: type) -> list[Section]:
  """Lists a config and its sections, in the order of the fields."""
  return list(_sections(kind, None, ""))


def documented(kind: type) -> dict[str, str]:
  """Returns the documented attributes of a class and its base classes."""
  meanings: dict[str, str] = {}
  for cls in reversed(kind.__mro__):
    meanings |= _docstring(cls)[1]
  return meanings


def _sections(kind: type, values: Any, prefix: str) -> Iterator[Section]:
  """Yields the section of a class, then its inner sections.

  `values` has the defaults that the outer section sets, or is None. `prefix` is
  empty, or the section's key and a dot.
  """
  meanings = documented(kind)
  settings, inner = [], []
  for field in dataclasses.fields(kind):
    key = prefix + field.name
    default = getattr(values, field.name, _default(field))
    settings.append(
      Setting(
        key=key,
        type=type_name(field.type),
        default=_in_yaml(default),
        meaning=meanings.get(field.name, ""),
      )
    )
    if section := config_sections.section_type(field.type):
      is_set = isinstance(default, section)
      inner.append((section, default if is_set else None, f"{key}."))
  about = _docstring(kind)[0]
  yield Section(key=prefix[:-1], about=about, settings=tuple(settings))
  for arguments in inner:
    yield from _sections(*arguments)


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


def _default(field: Any) -> Any:
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default


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
