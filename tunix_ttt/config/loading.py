"""From YAML to configs and back to plain data, mistakes named by their place."""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import pathlib
from typing import Any, TypeVar, get_args

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.config import dpo_config
from tunix_ttt.config import grpo_config
from tunix_ttt.config import sections
from tunix_ttt.config import yaml_source

ConfigT = TypeVar("ConfigT")
# A YAML file, or what one would say.
Settings = pathlib.Path | str | Mapping[str, Any]
# By what trains; where keys do not tell them apart, the first.
RECIPES: dict[str, type[sections.SFTConfig]] = {
  "sft": sections.SFTConfig,
  "grpo": grpo_config.GRPOConfig,
  "dpo": dpo_config.DPOConfig,
}
# Keys of earlier versions and the keys that replace them.
RENAMED_KEYS = {"episodes.luck": "episodes.opponent_seed"}


def load(
  kind: type[ConfigT], source: Settings, overrides: Sequence[str] = ()
) -> ConfigT:
  """Returns a config, checked; what is not set has its default.

  Args:
    kind: the config's dataclass.
    source: a YAML file, or its keys and values as a dictionary.
    overrides: `a.b=value` assignments that replace what it says.

  Raises:
    errors.UserError: a line for each mistake, with its place and what to do.
  """
  return _parse(kind, _read(source, overrides))


def load_any(
  path: pathlib.Path, overrides: Sequence[str] = ()
) -> sections.SFTConfig:
  """Reads the config of a run of any kind, told by its keys; see `load`."""
  source = _read(path, overrides)

  def known(kind: type) -> int:
    return len(source.values.keys() & _fields(kind).keys())

  return _parse(max(RECIPES.values(), key=known), source)


def _read(settings: Settings, overrides: Sequence[str]) -> yaml_source.Source:
  if isinstance(settings, str | pathlib.Path):
    settings = files.or_packaged(pathlib.Path(settings), "configs")
  source = yaml_source.Source(settings)
  if {"run_id", "recipe", "config"} <= source.values.keys():
    raise errors.UserError(
      f"{source.path}: this is the manifest of a run, not a config; its settings"
      f" are RunManifest.read({str(source.path.parent)!r}).config"
    )
  for assignment in overrides:
    source.set(assignment)
  return source


def _parse(kind: type[ConfigT], source: yaml_source.Source) -> ConfigT:
  try:
    return pydantic.TypeAdapter(kind).validate_python(source.values)
  except pydantic.ValidationError as error:
    raise errors.UserError(_explain(kind, source, error.errors())) from None


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config as plain data, every default spelled out."""
  return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
  """Returns the config that `to_dict` gave `values` for.

  Raises:
    ValueError: if a key was renamed or Pydantic finds a mistake.
  """
  for key in flatten(values):
    if key in RENAMED_KEYS:
      raise ValueError(f"{key}: {_renamed(key)}")
  return pydantic.TypeAdapter(kind).validate_python(values)


def flatten(values: Any, key: str = "") -> dict[str, Any]:
  """Returns plain data by dotted keys.

  Args:
    values: what `to_dict` returns, or a part of it.
    key: Key of the section.
  """
  if not isinstance(values, dict):
    return {key: values}
  flat = {}
  for name, value in values.items():
    flat |= flatten(value, f"{key}.{name}" if key else name)
  return flat


def differences(ours: Any, theirs: Any) -> list[str]:
  """Lists the dotted keys in which two configs of one kind differ."""
  a, b = flatten(to_dict(ours)), flatten(to_dict(theirs))
  return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def _explain(kind: type, source: yaml_source.Source, found: list[Any]) -> str:
  """Returns a line for each key that Pydantic found fault with."""
  faults: dict[tuple[str, ...], list[str]] = {}
  for error in found:
    key = _key(kind, error)
    if ".".join(key) in RENAMED_KEYS:
      fault = _renamed(".".join(key))
    elif error["type"] == "unexpected_keyword_argument":
      known = list(_fields(_section_at(kind, key[:-1])))
      fault = f"unknown key; {_suggest(key[-1][:200], known)}"
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


def _key(kind: type, error: Any) -> tuple[str, ...]:
  """Returns the config key of an error, less the names of union members."""
  key, section = [], kind
  for part in error["loc"]:
    fields = _fields(section)
    if part in fields or (
      section and error["type"] == "unexpected_keyword_argument"
    ):
      key.append(part)
      section = _section_type(fields.get(part))
  return tuple(key)


def _fields(section: type | None) -> dict[str, Any]:
  if section is None:
    return {}
  return {f.name: f.type for f in dataclasses.fields(section)}


def _section_type(annotation: Any) -> type | None:
  """Returns the dataclass that an annotation is, or has among its members."""
  for member in (annotation, *get_args(annotation)):
    if dataclasses.is_dataclass(member) and isinstance(member, type):
      return member
  return None


def _section_at(kind: type, key: Sequence[str]) -> type | None:
  section: type | None = kind
  for name in key:
    section = _section_type(_fields(section).get(name))
  return section


def _renamed(key: str) -> str:
  return f"this key was renamed; use {RENAMED_KEYS[key]}"


def _suggest(name: str, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"the keys here are {', '.join(known)}"
