"""Loads configs from YAML or dictionaries and reports the place of mistakes."""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import difflib
import pathlib
import re
from typing import Any, TypeVar

import pydantic
import yaml

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.config import recipe_configs
from tunix_ttt.config import sections

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


class _Source:
  """A config's values as plain data, and the place of each key.

  Attributes:
    values: Nested keys and values.
    places: `file:line` or `--set` assignment of keys. The empty key has the
      path of the file, or the name of a dictionary.
  """

  def __init__(self, source: pathlib.Path | Mapping[str, Any], name: str):
    self._name = name
    self.places: dict[tuple[str, ...], str] = {(): name}
    self.values: dict[str, Any]
    if isinstance(source, Mapping):
      self.values = copy.deepcopy(dict(source))
    else:
      self.values = self._read_file(source)

  def _read_file(self, path: pathlib.Path) -> dict[str, Any]:
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
    return values

  def _read(
    self, loader: _Loader, node: yaml.Node, key: tuple[str, ...]
  ) -> Any:
    self.places[key] = f"{self._name}:{node.start_mark.line + 1}"
    if len(self.places) > _MAX_KEYS:
      raise errors.UserError(f"{self._name}: more than {_MAX_KEYS:,} keys")
    if not isinstance(node, yaml.MappingNode):
      return loader.value(node)
    values = {}
    for name_node, value_node in node.value:
      name = str(loader.value(name_node))
      line = name_node.start_mark.line + 1
      if name in values:
        raise errors.UserError(
          f"{self._name}:{line}: {'.'.join((*key, name))}: given twice"
        )
      values[name] = self._read(loader, value_node, (*key, name))
      self.places[*key, name] = f"{self._name}:{line}"
    return values

  def set(self, assignment: str) -> None:
    """Applies an `a.b=value` assignment, whose value is YAML."""
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


ConfigT = TypeVar("ConfigT")
# Path of a YAML file, or its content as a dictionary.
Settings = pathlib.Path | str | Mapping[str, Any]
# Keys of earlier versions and the keys that replace them.
RENAMED_KEYS = {"episodes.luck": "episodes.opponent_seed"}


def load(
  kind: type[ConfigT],
  source: ConfigT | Settings,
  overrides: Sequence[str] = (),
  *,
  name: str = "settings",
) -> ConfigT:
  """Loads and validates a config; missing settings have their defaults.

  Args:
    kind: Class of the config.
    source: Path of a YAML file, its content as a dictionary, or a config.
    overrides: `a.b=value` assignments that replace settings of the source.
    name: Name of a dictionary in messages.

  Raises:
    errors.UserError: if settings are wrong; one line for each mistake.
  """
  if isinstance(source, kind) and not overrides:
    return source
  return _parse(kind, _read(source, overrides, kind, name))


def load_any(
  source: recipe_configs.SFTConfig | Settings, overrides: Sequence[str] = ()
) -> recipe_configs.SFTConfig:
  """Loads a config of the recipe whose class has the most of its keys."""
  if isinstance(source, recipe_configs.SFTConfig):
    return load(type(source), source, overrides)
  content = _read(source, overrides)

  def num_shared_keys(kind: type) -> int:
    return len(content.values.keys() & _fields(kind).keys())

  return _parse(
    max(recipe_configs.RECIPES.values(), key=num_shared_keys), content
  )


def recipe_of(config: recipe_configs.SFTConfig) -> recipe_configs.Recipe:
  """Returns the name of a config's recipe."""
  return next(
    name
    for name, kind in recipe_configs.RECIPES.items()
    if kind is type(config)
  )


def _read(
  source: Any,
  overrides: Sequence[str],
  kind: type = recipe_configs.SFTConfig,
  name: str = "settings",
) -> _Source:
  if isinstance(source, str | pathlib.Path):
    source = files.or_packaged(pathlib.Path(source), "configs")
    name = str(source)
  elif isinstance(source, kind):
    source = to_dict(source)
  elif not isinstance(source, Mapping):
    raise errors.UserError(
      f"config: expected a {kind.__name__}, a YAML file or a dictionary of its"
      f" keys, found a {type(source).__name__}"
    )
  content = _Source(source, name)
  if {"run_id", "recipe", "config"} <= content.values.keys():
    raise errors.UserError(
      f"{name}: this is a run manifest, not a config; its settings are"
      f" RunManifest.read({str(pathlib.Path(name).parent)!r}).config"
    )
  for assignment in overrides:
    content.set(assignment)
  return content


def _parse(kind: type[ConfigT], source: _Source) -> ConfigT:
  try:
    return pydantic.TypeAdapter(kind).validate_python(source.values)
  except pydantic.ValidationError as error:
    raise errors.UserError(_explain(kind, source, error.errors())) from None


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config as plain data, with every default."""
  return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def flatten(values: Any, key: str = "") -> dict[str, Any]:
  """Returns nested plain data by dotted keys, below `key`."""
  if not isinstance(values, dict):
    return {key: values}
  flat = {}
  for name, value in values.items():
    flat |= flatten(value, f"{key}.{name}" if key else name)
  return flat


def differences(first: Any, second: Any) -> list[str]:
  """Lists the dotted keys whose values differ between two configs."""
  a, b = flatten(to_dict(first)), flatten(to_dict(second))
  return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def _explain(kind: type, source: _Source, details: list[Any]) -> str:
  """Returns a line for each key that Pydantic rejects."""
  faults: dict[tuple[str, ...], list[str]] = {}
  for error in details:
    key, siblings = _locate(kind, error)
    if ".".join(key) in RENAMED_KEYS:
      fault = _renamed(".".join(key))
    elif error["type"] == "unexpected_keyword_argument":
      close = difflib.get_close_matches(key[-1][:200], siblings, n=1)
      fault = "unknown key; " + (
        f"did you mean {close[0]!r}?"
        if close
        else f"the keys here are {', '.join(siblings)}"
      )
    elif error["type"] == "value_error":
      fault = error["msg"].removeprefix("Value error, ")
    elif error["type"] == "dataclass_type":
      fault = f"must be a section of keys, found {errors.quote(error['input'])}"
    else:
      must = error["msg"].replace("Input should be", "must be")
      fault = f"{must}, found {errors.quote(error['input'])}"
    faults.setdefault(key, []).append(fault)
  return "\n".join(
    f"{source.place(key)}: {'.'.join(key)}: {'; or '.join(fault)}"
    for key, fault in faults.items()
  )


def _locate(kind: type, error: Any) -> tuple[tuple[str, ...], list[str]]:
  """Returns the config key of an error, and the known keys of its section."""
  key, section, siblings = [], kind, []
  # Other parts of the place are names of union members.
  for part in error["loc"]:
    fields = _fields(section)
    if part in fields or (
      section and error["type"] == "unexpected_keyword_argument"
    ):
      key.append(part)
      siblings = list(fields)
      section = sections.section_type(fields.get(part))
  return tuple(key), siblings


def _fields(section: type | None) -> dict[str, Any]:
  if section is None:
    return {}
  return {f.name: f.type for f in dataclasses.fields(section)}


def _renamed(key: str) -> str:
  return f"this key was renamed; use {RENAMED_KEYS[key]}"
