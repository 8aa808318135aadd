"""The reference of settings: complete, and in the words of YAML."""

import dataclasses

import pytest

from docs import reference
from tunix_ttt import config as config_lib

KINDS = [
  config_lib.SFTConfig,
  config_lib.DPOConfig,
  config_lib.GRPOConfig,
  config_lib.PipelineConfig,
]
CLASSES = [
  value
  for value in vars(config_lib).values()
  if isinstance(value, type) and dataclasses.is_dataclass(value)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_field_is_documented_and_nothing_else(cls):
  fields = {field.name for field in dataclasses.fields(cls)}
  meanings = reference.documented(cls)
  assert meanings.keys() == fields
  assert all(meaning.endswith(".") for meaning in meanings.values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.__name__)
def test_every_key_is_in_the_reference(kind):
  found = [s.key for part in reference.sections(kind) for s in part.settings]
  assert len(set(found)) == len(found)
  page = reference.markdown(kind)
  assert all(f"| `{key}` |" in page for key in found)
  if kind is not config_lib.PipelineConfig:
    values = config_lib.to_dict(kind())
    assert set(found) >= set(dotted(values, ""))


def dotted(values, prefix):
  for key, value in values.items():
    yield prefix + key
    if isinstance(value, dict):
      yield from dotted(value, prefix + key + ".")


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda c: c.__name__)
def test_defaults_are_what_yaml_gives(kind, tmp_path):
  """A file that says every default is the config of an empty one."""
  empty = tmp_path / "empty.yaml"
  empty.write_text("")
  optional = ("lora", "distributed", "service", "opponents.mcts")
  assignments = [
    f"{setting.key}={setting.default.strip('`')}"
    for part in reference.sections(kind)
    if part.key not in optional
    for setting in part.settings
    if setting.default != "below"
  ]
  assert len(assignments) > 50
  assert config_lib.load(kind, empty, assignments) == kind()


@pytest.mark.parametrize(
  "kind, key, expected",
  [
    (
      config_lib.SFTConfig,
      "mesh.fsdp",
      ("whole number >= 1 or `auto`", "`1`"),
    ),
    (
      config_lib.SFTConfig,
      "lora.target_modules",
      ("`all-linear` or list of text", "`all-linear`"),
    ),
    (config_lib.SFTConfig, "lora", ("section or `null`", "`null`")),
    (
      config_lib.GRPOConfig,
      "opponents.random",
      ("[number >= 0, number >= 0]", "`[1.0, 1.0]`"),
    ),
    (config_lib.GRPOConfig, "rewards.outcome", ("section", "below")),
    # The run's own default, not the section's.
    (
      config_lib.DPOConfig,
      "training.max_steps",
      ("whole number >= 1", "`200`"),
    ),
    (
      config_lib.PipelineConfig,
      "pairs.rejected",
      (
        "keys `worse`, `illegal` or `format`, each with a number > 0",
        '`{"worse": 1.0, "illegal": 1.0, "format": 1.0}`',
      ),
    ),
    (config_lib.PipelineConfig, "sft.config", ("text", "required")),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_and_defaults(kind, key, expected):
  settings = {
    s.key: s for part in reference.sections(kind) for s in part.settings
  }
  assert (settings[key].type, settings[key].default) == expected


def test_meanings_are_in_the_words_of_yaml():
  assert "None" not in reference.markdown(config_lib.GRPOConfig)
