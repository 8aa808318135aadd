"""Models that transformers saved, from training to play, by the scripts."""

import importlib
import importlib.util
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest
import yaml

from tests import conftest
from tests import hugging_face as made
from tests import test_processes
from tunix_ttt import config as config_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.runs import run_manifest

MODELS = conftest.ROOT / "tests" / "fixtures" / "models"
VOCAB_SIZE = 400
SFT = {
  "model": {"dtype": "float32", "remat": "block"},
  "lora": {"rank": 2, "alpha": 4},
  "data": {
    "max_seq_length": 1024,
    "games": {"num_games": 4, "thoughts": "none"},
  },
  "training": {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2},
  "logging": {"report": False},
  "eval": {"max_new_tokens": 4, "batch_size": 4},
  # A model that has learned nothing gives answers, too.
  "play": {
    "max_new_tokens": 24,
    "batch_size": 4,
    "num_games": 4,
    "constrained": True,
  },
}
GRPO = {
  "training": {
    "max_steps": 1,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
  },
  "rollout": {"constrained": True},
  "grpo": {"num_generations": 4, "beta": 0.1},
  "exhaustive_eval": False,
}


def script(name: str) -> pathlib.Path:
  return conftest.ROOT / "training" / f"{name}.py"


@pytest.fixture
def model(request, tmp_path, monkeypatch) -> pathlib.Path:
  """A directory with a model that transformers made, and a tokenizer."""
  monkeypatch.chdir(tmp_path)
  family = request.param
  shutil.copytree(MODELS / family, tmp_path / "model")
  made.write_tokenizer(tmp_path / "model", family, VOCAB_SIZE)
  sft = {**SFT, "model": {**SFT["model"], "name": "model"}}
  pathlib.Path("sft.yaml").write_text(yaml.safe_dump(sft))
  pathlib.Path("grpo.yaml").write_text(yaml.safe_dump({**sft, **GRPO}))
  return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen2.5", "gemma3"], indirect=True)
def test_the_whole_path(run, model):
  code, out, err = run(
    script("train_sft_tunix"), "--config", "sft.yaml", "--dry-run"
  )
  assert code == 0, err
  assert "model    model: " in out and "in all" in out
  code, out, err = run(
    script("train_sft_tunix"), "--config", "sft.yaml", "--output", "sft"
  )
  assert code == 0, err
  assert re.search(r"^model model: [\d,]+ parameters, [\d,]+ trained \(", out)
  manifest = run_manifest.RunManifest.read(pathlib.Path("sft"))
  assert manifest.model.trainable_parameters < manifest.model.parameters / 5
  tuned = "sft/checkpoint-final"
  code, out, err = run(
    script("train_grpo_tunix"), "--config", "grpo.yaml", "--model", tuned,
    "--output", "grpo",
  )  # fmt: skip
  assert code == 0, err
  (row,) = [
    json.loads(line)
    for line in pathlib.Path("grpo/metrics.jsonl").read_text().splitlines()
    if '"train"' in line
  ]
  # The sampler and the trainer compute the same.
  assert row["log_ratio"] < 1e-4
  for name, config, answers in (
    ("base", "sft.yaml", "before.jsonl"),
    ("grpo/checkpoint-final", "grpo.yaml", "after.jsonl"),
  ):
    code, _, err = run(
      script("eval_generate"), "--model", name, "--config", config,
      "--eval-set", conftest.ROOT / "evalsets/tictactoe_v1.jsonl",
      "--max-examples", 4, "--output", answers,
    )  # fmt: skip
    assert code == 0, err
  code, _, err = run(
    script("eval_report"), "--before", "before.jsonl", "--after",
    "after.jsonl", "--output", "delta.md",
  )  # fmt: skip
  assert code == 0, err
  code, out, err = run(
    script("eval_play"), "--model", "grpo/checkpoint-final", "--config",
    "grpo.yaml", "--episodes", 4, "--output", "games.jsonl",
  )  # fmt: skip
  assert code == 0, err
  assert "as X: 4 games" in out
  check_exports(run)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen2.5"], indirect=True)
def test_two_processes(model, tmp_path):
  settings = [f"model.name={model}", "mesh.fsdp=2"]
  config = config_lib.load(
    config_lib.GRPOConfig, tmp_path / "grpo.yaml", settings
  )
  output = tmp_path / "runs" / "two"
  output.parent.mkdir()
  test_processes.finish(
    test_processes.start("train_grpo_tunix", config, output)
  )
  loaded = checkpoints.load(output)
  assert loaded.lora is not None
  assert loaded.base is not None and loaded.base.path == str(model)


def check_exports(run) -> None:
  """Exports what was trained both ways, and finds the same model in both."""
  trained = checkpoints.load(pathlib.Path("grpo"))
  tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 12))
  expected = logits(trained.module, tokens)
  base = sources.open_model("model", config_lib.ModelConfig(dtype="float32"))
  assert np.abs(expected - logits(base.module, tokens)).max() > 1e-3
  for name, flags in (("adapter", []), ("merged", ["--merge"])):
    code, _, err = run(
      script("export"), "--model", "grpo/checkpoint-final", "--output", name,
      "--evaluation", "games.summary.json", *flags,
    )  # fmt: skip
    assert code == 0, err
    loaded = sources.open_model(name, config_lib.ModelConfig(dtype="float32"))
    found = logits(loaded.module, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert loaded.tokenizer.template == trained.tokenizer.template
    assert pathlib.Path(name, "README.md").is_file()
    if importlib.util.find_spec("torch") and importlib.util.find_spec("peft"):
      theirs = transformers_logits(name, tokens)
      np.testing.assert_allclose(theirs, expected, atol=1e-4)


def logits(module: Any, tokens: np.ndarray) -> np.ndarray:
  length = tokens.shape[1]
  mask = np.tril(np.ones((1, length, length), bool))
  found, _ = module(tokens, np.arange(length)[None], None, mask)
  return np.asarray(found)


def transformers_logits(directory: str, tokens: np.ndarray) -> np.ndarray:
  torch: Any = importlib.import_module("torch")
  peft: Any = importlib.import_module("peft")
  transformers: Any = importlib.import_module("transformers")
  is_adapter = (pathlib.Path(directory) / "adapter_config.json").exists()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    "model" if is_adapter else directory,
    dtype="float32",
    attn_implementation="eager",
  )
  if is_adapter:
    model = peft.PeftModel.from_pretrained(model, directory)
  with torch.no_grad():
    return model(torch.from_numpy(tokens)).logits.numpy()


@pytest.mark.parametrize("model", ["qwen2.5"], indirect=True)
def test_bfloat16(run, model):
  sft = script("train_sft_tunix")
  flags = ["--config", "sft.yaml", "--set", "model.dtype=bfloat16"]
  code, _, err = run(sft, *flags, "--output", "whole")
  assert code == 0, err
  trained = checkpoints.load(pathlib.Path("whole"))
  values = specs.parameters(trained.module, trained.trainable)
  assert {str(value.dtype) for value in values.values()} == {"bfloat16"}
  assert all(value.any() for value in values.values())


def change_config(model: pathlib.Path, **changes: object) -> None:
  path = model / "config.json"
  values = json.loads(path.read_text())
  path.write_text(json.dumps({**values, **changes}))


def truncate(model: pathlib.Path) -> None:
  path = model / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def pickled(model: pathlib.Path) -> None:
  (model / "model.safetensors").rename(model / "pytorch_model.bin")


@pytest.mark.parametrize("model", ["qwen2.5"], indirect=True)
@pytest.mark.parametrize(
  ("spoil", "found"),
  [
    (lambda m: (m / "config.json").unlink(), "neither model.json nor config"),
    (
      lambda m: change_config(m, architectures=["LlamaForCausalLM"]),
      "supported are Qwen2ForCausalLM, Qwen3ForCausalLM, GemmaForCausalLM",
    ),
    (lambda m: change_config(m, vocab_size=200), "tokens, its model 200"),
    (truncate, "model.safetensors"),
    (pickled, "pickle"),
    (lambda m: (m / "chat_template.jinja").unlink(), "has no chat template"),
    (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer"),
  ],
)
def test_wrong_directories(run, model, spoil, found):
  spoil(model)
  flags = ["--config", "sft.yaml", "--output", "sft"]
  result = run(script("train_sft_tunix"), *flags)
  conftest.refused(result, found, "model")
  assert not pathlib.Path("sft").exists()


@pytest.mark.parametrize("model", ["qwen2.5"], indirect=True)
def test_no_network(run, model, monkeypatch):
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  empty = str(model.parent / "cache")
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", empty)
  code, _, err = run(
    script("train_sft_tunix"), "--config", "sft.yaml", "--set",
    "model.name=Qwen/Qwen2.5-0.5B-Instruct", "--output", "sft",
  )  # fmt: skip
  assert code == 2
  assert "Qwen/Qwen2.5-0.5B-Instruct: it is not in the local cache" in err
  assert not pathlib.Path("sft").exists()
