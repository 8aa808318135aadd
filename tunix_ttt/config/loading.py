"""Loads configs from YAML or dictionaries and reports the place of mistakes."""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import pathlib
from typing import Any, TypeVar

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.config import dpo_config
from tunix_ttt.config import grpo_config
from tunix_ttt.config import sections
from tunix_ttt.config import yaml_source

ConfigT = TypeVar("ConfigT")
# Path of a YAML file, or its content as a dictionary.
Settings = pathlib.Path | str | Mapping[str, Any]
# Config classes by recipe. `load_any` prefers the first of equal matches.
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
  """Loads and validates a config; missing settings have their defaults.

  Args:
    kind: Class of the config.
    source: Path of a YAML file, or its content as a dictionary.
    overrides: `a.b=value` assignments that replace settings of the source.

  Raises:
    errors.UserError: if settings are wrong; one line for each mistake.
  """
  return _parse(kind, _read(source, overrides))


def load_any(
  path: pathlib.Path, overrides: Sequence[str] = ()
) -> sections.SFTConfig:
  """Loads a config of the recipe whose class has the most of its keys."""
  source = _read(path, overrides)

  def num_shared_keys(kind: type) -> int:
    return len(source.values.keys() & _fields(kind).keys())

  return _parse(max(RECIPES.values(), key=num_shared_keys), source)


def _read(settings: Settings, overrides: Sequence[str]) -> yaml_source.Source:
  if isinstance(settings, str | pathlib.Path):
    settings = files.or_packaged(pathlib.Path(settings), "configs")
  source = yaml_source.Source(settings)
  if {"run_id", "recipe", "config"} <= source.values.keys():
    raise errors.UserError(
      f"{source.path}: this is a run manifest, not a config; its settings are"
      f" RunManifest.read({str(source.path.parent)!r}).config"
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
  """Returns a config as plain data, with every default."""
  return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
  """Returns the config of `to_dict`'s result.

  Raises:
    ValueError: if a key was renamed or Pydantic finds a mistake.
  """
  for key in flatten(values):
    if key in RENAMED_KEYS:
      raise ValueError(f"{key}: {_renamed(key)}")
  return pydantic.TypeAdapter(kind).validate_python(values)


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


def _explain(kind: type, source: yaml_source.Source, details: list[Any]) -> str:
  """Returns a line for each key that Pydantic rejects."""
  faults: dict[tuple[str, ...], list[str]] = {}
  for error in details:
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
  """Returns the config key of an error, without the names of union members."""
  key, section = [], kind
  for part in error["loc"]:
    fields = _fields(section)
    if part in fields or (
      section and error["type"] == "unexpected_keyword_argument"
    ):
      key.append(part)
      section = sections.section_type(fields.get(part))
  return tuple(key)


def _fields(section: type | None) -> dict[str, Any]:
  if section is None:
    return {}
  return {f.name: f.type for f in dataclasses.fields(section)}


def _section_at(kind: type, key: Sequence[str]) -> type | None:
  section: type | None = kind
  for name in key:
    section = sections.section_type(_fields(section).get(name))
  return section


def _renamed(key: str) -> str:
  return f"this key was renamed; use {RENAMED_KEYS[key]}"


def _suggest(name: str, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"the keys here are {', '.join(known)}"
