"""Reads YAML and records the line of every key, for error messages."""

from collections.abc import Mapping
import copy
import pathlib
import re
from typing import Any

import yaml

from tunix_ttt import errors
from tunix_ttt import files

# Limits the growth of a short file through aliases.
_MAX_KEYS = 10_000
_DATE = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
  """A safe loader that reads 1e-3 as a number, as YAML 1.2, and dates as text."""

  def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
    # Python limits the digits of decimal numbers, but not of hexadecimal ones.
    if len(node.value) > 40:
      raise yaml.constructor.ConstructorError(
        None, None, "this number has too many digits", node.start_mark
      )
    return super().construct_yaml_int(node)

  def value(self, node: yaml.Node) -> Any:
    """Returns the value of a node; raises a YAMLError if it has none."""
    try:
      return self.construct_object(node, deep=True)
    except (
      ArithmeticError,
      AttributeError,
      LookupError,
      TypeError,
      ValueError,
    ):
      # The tag may name another type than the value has.
      raise yaml.constructor.ConstructorError(
        None, None, f"not a value of {node.tag}", node.start_mark
      ) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
  first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
  "tag:yaml.org,2002:float",
  re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
  list("-+0123456789"),
)


class Source:
  """A config's values as plain data, and the place of each key.

  Attributes:
    path: Path of the file; `settings` for a dictionary.
    values: Nested keys and values.
    places: `file:line` or `--set` assignment of each key.
  """

  def __init__(self, source: pathlib.Path | Mapping[str, Any]):
    """Reads a YAML file, or copies a dictionary.

    Args:
      source: Path of the file, or a dictionary.

    Raises:
      errors.UserError: if the file cannot be read, or is not a YAML mapping.
    """
    self.values: dict[str, Any]
    if isinstance(source, Mapping):
      self.path = pathlib.Path("settings")
      self.places: dict[tuple[str, ...], str] = {(): str(self.path)}
      self.values = copy.deepcopy(dict(source))
      return
    self.path = path = source
    self.places = {(): str(path)}
    try:
      loader = _Loader(files.read_text(path, "config"))
      node = loader.get_single_node()
      values = {} if node is None else self._read(loader, node, ())
    except (yaml.YAMLError, RecursionError) as error:
      mark = getattr(error, "problem_mark", None)
      place = f"{path}:{mark.line + 1}" if mark else path
      raise errors.UserError(
        f"{place}: not valid YAML: {_reason(error)}"
      ) from None
    if not isinstance(values, dict):
      raise errors.UserError(
        f"{path}: expected keys and values, found {type(values).__name__}"
      )
    self.values = values

  def _read(
    self, loader: _Loader, node: yaml.Node, key: tuple[str, ...]
  ) -> Any:
    self.places[key] = f"{self.path}:{node.start_mark.line + 1}"
    if len(self.places) > _MAX_KEYS:
      raise errors.UserError(f"{self.path}: more than {_MAX_KEYS:,} keys")
    if not isinstance(node, yaml.MappingNode):
      return loader.value(node)
    values = {}
    for name_node, value_node in node.value:
      name = str(loader.value(name_node))
      line = name_node.start_mark.line + 1
      if name in values:
        raise errors.UserError(
          f"{self.path}:{line}: {'.'.join((*key, name))}: given twice"
        )
      values[name] = self._read(loader, value_node, (*key, name))
      self.places[*key, name] = f"{self.path}:{line}"
    return values

  def set(self, assignment: str) -> None:
    """Applies an `a.b=value` assignment, whose value is YAML.

    Raises:
      errors.UserError: if the text is not such an assignment.
    """
    place = f"--set {assignment[:200]}"
    dotted, separator, text = assignment.partition("=")
    key = tuple(dotted.strip().split("."))
    if not separator or not all(key):
      raise errors.UserError(f"{place}: expected key=value, as in a.b=3")
    try:
      loader = _Loader(text)
      node = loader.get_single_node()
      value = None if node is None else loader.value(node)
    except (yaml.YAMLError, RecursionError) as error:
      raise errors.UserError(
        f"{place}: the value is not valid YAML: {_reason(error)}"
      ) from None
    section = self.values
    for depth, name in enumerate(key[:-1], start=1):
      if not isinstance(section.get(name), dict):
        section[name] = {}
        self.places[key[:depth]] = place
      section = section[name]
    section[key[-1]] = value
    self.places[key] = place

  def place(self, key: tuple[str, ...]) -> str:
    """Returns the place of a key, or of the nearest section that contains it."""
    while key not in self.places:
      key = key[:-1]
    return self.places[key]


def _reason(error: Exception) -> str:
  if isinstance(error, RecursionError):
    return "values are nested too deeply, or contain themselves"
  return str(getattr(error, "problem", None) or error).splitlines()[0]
