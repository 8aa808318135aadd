"""Every setting of a run as a page of tables, from the settings' classes.

Types and defaults are those of the fields, meanings those of the docstrings'
`Attributes`, so there is nothing to keep in step.
"""

from collections.abc import Iterator
import dataclasses
import inspect
import json
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_PLAIN = {str: "text", bool: "true or false", int: "whole number"}
_PLAIN[float] = "number"
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """A key of a config, in Markdown.

  Attributes:
    key: dotted, as `--set` takes it.
    type: what may be written.
    default: as it is written in YAML.
    meaning: from the docstring; empty if that does not say.
  """

  key: str
  type: str
  default: str
  meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """The settings of one class.

  Attributes:
    key: dotted, empty for the whole config.
    about: what the class's docstring says of it.
    settings: its keys, those of sections within it among them.
  """

  key: str
  about: str
  settings: tuple[Setting, ...]


def sections(kind: type) -> list[Section]:
  """Lists a config and each section within it, in the order of its fields.

  Args:
    kind: a class of settings, such as `SFTConfig`.
  """
  return list(_sections(kind, None, ""))


def markdown(kind: type) -> str:
  """Returns a page's text: a table for each section.

  Args:
    kind: a class of settings, such as `SFTConfig`.
  """
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


def documented(kind: type) -> dict[str, str]:
  """Returns the meaning of each attribute that the docstrings document.

  Args:
    kind: a class of settings; what it inherits is among them.
  """
  found: dict[str, str] = {}
  for cls in reversed(kind.__mro__):
    found |= _docstring(cls)[1]
  return found


def _sections(kind: type, values: Any, prefix: str) -> Iterator[Section]:
  """Yields a class's section and then those within it.

  Args:
    kind: the class.
    values: its settings where the section around it has set some; else None.
    prefix: the section's key and a dot, or nothing.
  """
  meanings = documented(kind)
  settings, inner = [], []
  for field in dataclasses.fields(kind):
    section = _section(field.type)
    default = getattr(values, field.name, _default(field))
    settings.append(
      Setting(
        key=prefix + field.name,
        type=type_name(field.type),
        default=_written(default),
        meaning=meanings.get(field.name, ""),
      )
    )
    if section:
      is_set = isinstance(default, section)
      inner.append((section, default if is_set else None, settings[-1].key))
  about = _docstring(kind)[0]
  yield Section(key=prefix[:-1], about=about, settings=tuple(settings))
  for section, default, key in inner:
    yield from _sections(section, default, key + ".")


def type_name(annotation: Any) -> str:
  """Says what may be written in YAML for an annotation, in Markdown."""
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
  # Pydantic's fields hold the bounds of annotated-types.
  held = [
    bound for field in metadata for bound in getattr(field, "metadata", ())
  ]
  limits = [
    f"{sign} {getattr(bound, name)}"
    for bound in held
    for name, sign in _BOUNDS.items()
    if hasattr(bound, name)
  ]
  return " " + " and ".join(limits) if limits else ""


def _section(annotation: Any) -> type | None:
  """Returns the class of a section, which may be one of a union."""
  for member in (annotation, *get_args(annotation)):
    if inspect.isclass(member) and dataclasses.is_dataclass(member):
      return member
  return None


def _default(field: Any) -> Any:
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default


def _written(default: Any) -> str:
  if default is dataclasses.MISSING:
    return "required"
  if dataclasses.is_dataclass(default):
    return "below"
  return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _docstring(cls: type) -> tuple[str, dict[str, str]]:
  """Splits a docstring into its text and its attributes' meanings."""
  text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
  about, _, attributes = text.partition("\nAttributes:\n")
  found = {}
  # An attribute's name is indented by two spaces, its further lines by four.
  for entry in re.split(r"\n(?=  \w)", "\n" + attributes)[1:]:
    name, _, meaning = entry.strip().partition(": ")
    found[name] = _in_yaml(" ".join(meaning.split()))
  return _in_yaml(about.strip()), found


def _in_yaml(text: str) -> str:
  """Returns text of Python in YAML's words."""
  return re.sub(r"\bNone\b", "`null`", text)
