"""Tests that shipped configs load and that errors name file, line and key."""

import pathlib
import shlex

import pytest
import yaml

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.config import loading

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS: dict[str, type] = {
  "sft": config_lib.SFTConfig,
  "dpo": config_lib.DPOConfig,
  "grpo": config_lib.GRPOConfig,
  "pipeline": config_lib.PipelineConfig,
}
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def load(tmp_path, text, *overrides):
  path = tmp_path / "c.yaml"
  path.write_text(text)
  return config_lib.load(config_lib.SFTConfig, path, overrides)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configs_load_and_say_how_to_run_them(path):
  kind = KINDS[path.name.partition("_")[0]]
  assert type(config_lib.load(kind, path)) is kind
  if kind is not config_lib.PipelineConfig:
    # Evaluation scripts detect the kind of a config by its keys.
    assert type(config_lib.load_any(path)) is kind
  command = path.read_text().splitlines()[0]
  assert command.startswith("# python training/")
  words = shlex.split(command[2:])
  assert words[words.index("--config") + 1] == f"configs/{path.name}"
  assert (ROOT / words[1]).is_file()


def test_values_and_defaults(tmp_path):
  text = (
    "seed: 3\ntraining: {learning_rate: 1e-4, max_steps: 9}\nlora: {rank: 2}"
  )
  config = load(tmp_path, text)
  assert config.seed == 3
  assert config.training.learning_rate == 1e-4
  assert config.lora == config_lib.LoraConfig(rank=2)
  assert load(tmp_path, "") == config_lib.SFTConfig()


def test_settings_from_python(tmp_path):
  settings = {"training": {"max_steps": 9}}
  config = config_lib.load(config_lib.GRPOConfig, settings, ["seed=2"])
  assert (config.seed, config.training.max_steps) == (2, 9)
  assert settings == {"training": {"max_steps": 9}}
  path = tmp_path / "c.yaml"
  path.write_text(yaml.safe_dump(settings))
  assert config == config_lib.load(config_lib.GRPOConfig, str(path), ["seed=2"])
  wrong = {"training": {"max_step": 9, "batch_size": 0}}
  with pytest.raises(errors.UserError) as caught:
    config_lib.load(config_lib.SFTConfig, wrong, ["seed=-1"])
  assert str(caught.value).splitlines() == [
    "--set seed=-1: seed: must be greater than or equal to 0, found -1",
    "settings: training.batch_size: must be greater than or equal to 1, found"
    " 0",
    "settings: training.max_step: unknown key; did you mean 'max_steps'?",
  ]


def test_plain_data_round_trips(tmp_path):
  config = load(tmp_path, "lora: {target_modules: [q_proj]}")
  data = config_lib.to_dict(config)
  assert yaml.safe_load(yaml.safe_dump(data)) == data
  assert config_lib.load(config_lib.SFTConfig, data) == config


def test_overrides(tmp_path):
  config = load(
    tmp_path,
    "training: {max_steps: 5}",
    "training.max_steps=7",
    "lora.rank=2",
    "data.path=x.jsonl",
    "training.learning_rate=2e-3",
  )
  assert config.training.max_steps == 7
  assert config.lora is not None and config.lora.rank == 2
  assert config.data.path == "x.jsonl"
  assert config.training.learning_rate == 2e-3


@pytest.mark.parametrize(
  "text, message",
  [
    ("\ntraining:\n  max_stepz: 3", ":3: training.max_stepz: unknown key; did you mean 'max_steps'?"),
    ("trainin: {}", ":1: trainin: unknown key; did you mean 'training'?"),
    ("zzz: 1", ":1: zzz: unknown key; the keys here are seed, game,"),
    ("lora:\n  rnk: 1", ":2: lora.rnk: unknown key; did you mean 'rank'?"),
    ("training:\n  max_steps: -3", ":2: training.max_steps: must be greater than or equal to 1, found -3"),
    ("training: {max_steps: '3'}", ":1: training.max_steps: must be a valid integer, found '3'"),
    ("training: {max_steps: 2.5}", "must be a valid integer, found 2.5"),
    ("seed: true", ":1: seed: must be a valid integer, found True"),
    ("seed: 4294967296", ":1: seed: must be less than or equal to 4294967295, found 4294967296"),
    ("training: {learning_rate: fast}", "must be a valid number, found 'fast'"),
    ("training: {learning_rate: .inf}", "must be a finite number, found inf"),
    ("training: 3", ":1: training: must be a section of keys, found 3"),
    ("play: {constrained: illegal}", "must be a valid boolean, found 'illegal'; or must be 'legal'"),
    ("data: {format: csv}", ":1: data.format: must be 'auto', 'messages',"),
    ("lora: {target_modules: 3}", "must be 'all-linear', found 3; or must be a valid list"),
    ("training: {batch_size: 10, gradient_accumulation_steps: 3}", ":1: training: batch_size 10 is not divisible by gradient_accumulation_steps 3"),
    ("training: {max_steps: 5, warmup_steps: 5}", "warmup_steps 5 must be below max_steps 5"),
    ("lora: {}\ntraining: {optimizer: muon}", "muon is for whole models"),
    ("seed: 1\nseed: 2", ":2: seed: given twice"),
    ("- seed", "expected keys and values, found list"),
    ("seed: [1", ":1: not valid YAML"),
    ("!!python/object/apply:os.system ['true']", ":1: not valid YAML: could not determine a constructor"),
  ],
)  # fmt: skip
def test_mistakes(tmp_path, text, message):
  with pytest.raises(errors.UserError) as error:
    load(tmp_path, text)
  assert message in str(error.value)
  assert str(error.value).startswith(str(tmp_path / "c.yaml"))


def test_every_mistake_is_told_at_once(tmp_path):
  with pytest.raises(errors.UserError) as error:
    load(tmp_path, "seed: -1\ntraining:\n  max_steps: 0\n")
  assert len(str(error.value).splitlines()) == 2


def test_a_renamed_key_names_the_new_one(tmp_path):
  path = tmp_path / "c.yaml"
  path.write_text("seed: 1\nepisodes:\n  luck: game\n")
  renamed = "episodes.luck: this key was renamed; use episodes.opponent_seed"
  with pytest.raises(errors.UserError) as caught:
    config_lib.load(config_lib.GRPOConfig, path)
  assert str(caught.value) == f"{path}:3: {renamed}"
  with pytest.raises(errors.UserError) as caught:
    config_lib.load(config_lib.GRPOConfig, {}, ["episodes.luck=game"])
  assert str(caught.value) == f"--set episodes.luck=game: {renamed}"
  # Manifests of older runs contain the key, too.
  values = config_lib.to_dict(config_lib.GRPOConfig())
  values["episodes"]["luck"] = values["episodes"].pop("opponent_seed")
  with pytest.raises(errors.UserError, match=f"^manifest: {renamed}$"):
    config_lib.load(config_lib.GRPOConfig, values, name="manifest")


def test_every_renamed_key_is_gone_and_its_new_one_exists():
  keys = config_lib.flatten(config_lib.to_dict(config_lib.GRPOConfig()))
  for old, new in loading.RENAMED_KEYS.items():
    assert old not in keys and new in keys


@pytest.mark.parametrize(
  "override, message",
  [
    (
      "training.max_steps=-4",
      "--set training.max_steps=-4: training.max_steps:",
    ),
    ("traning.max_steps=4", "--set traning.max_steps=4: traning: unknown key"),
    ("seed", "--set seed: expected key=value"),
    (
      "seed=9223372036854775808",
      "seed: must be less than or equal to 4294967295",
    ),
    ("a..b=1", "expected key=value"),
    ("seed=[", "the value is not valid YAML"),
  ],
)
def test_mistakes_in_overrides(tmp_path, override, message):
  with pytest.raises(errors.UserError) as error:
    load(tmp_path, "seed: 1", override)
  assert message in str(error.value)


def test_missing_file(tmp_path):
  with pytest.raises(errors.UserError, match="none.yaml: no such config"):
    config_lib.load(config_lib.SFTConfig, tmp_path / "none.yaml")


def test_configs_made_in_python_are_checked_too():
  with pytest.raises(ValueError, match="greater than or equal to 1"):
    config_lib.TrainingConfig(max_steps=0)


def test_differences(tmp_path):
  ours = load(tmp_path, "seed: 1\nlora: {rank: 2}")
  theirs = load(tmp_path, "training: {max_steps: 4}")
  keys = config_lib.differences(ours, theirs)
  assert "seed" in keys and "training.max_steps" in keys and "lora.rank" in keys
  assert config_lib.differences(ours, ours) == []
