"""Exporting as users do it: a run, its adapter, its merged model, a mistake."""

import json
import pathlib
import shutil
from unittest import mock

import huggingface_hub
import pytest
import yaml

from tests import conftest
from tests import hugging_face as made
from tests import test_scripts as scripts
from tests.fixtures import make_models
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources

EXPORT = conftest.ROOT / "training" / "export.py"
CONFIG = {
  "model": {"name": "base"},
  "lora": {"rank": 2, "alpha": 4.0},
  "data": {"games": {"num_games": 20}, "max_seq_length": 1024},
  "training": {"max_steps": 2, "batch_size": 4},
  "play": {"max_new_tokens": 48, "batch_size": 16, "constrained": True},
  "logging": {"report": False},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(make_models.MODELS / "gemma3", "base")
  made.write_tokenizer(pathlib.Path("base"), "gemma3", 400)
  pathlib.Path("config.yaml").write_text(yaml.safe_dump(CONFIG))


@pytest.fixture
def scratch(tokenizer):
  model = sources.start_from(conftest.SMALL_MODEL, lambda: tokenizer, 0)
  path = pathlib.Path("scratch")
  checkpoints.save(model, path)
  return path


def play(run, model, output, *flags):
  code, _, err = run(
    scripts.PLAY, "--model", model, "--config", "config.yaml", "--episodes", 8,
    "--output", output, *flags,
  )  # fmt: skip
  assert code == 0, err
  return pathlib.Path(output).read_text()


@pytest.mark.slow
def test_from_a_run_to_others_and_back(run):
  code, _, err = run(
    scripts.TRAIN, "--config", "config.yaml", "--output", "run"
  )
  assert code == 0, err
  model = "run/checkpoint-final"
  games = play(run, model, "run/games.jsonl")
  before = scripts.listing()
  code, out, err = run(
    EXPORT, "--model", model, "--output", "adapter", "--dry-run"
  )
  assert code == 0 and scripts.listing() == before, err
  assert "would write adapter/adapter_model.safetensors: " in out
  for output, flags in (("adapter", ()), ("merged", ("--merge",))):
    code, out, err = run(EXPORT, "--model", model, "--output", output, *flags)
    assert (code, out) == (0, f"written: {output}\n"), err
    card = (pathlib.Path(output) / "README.md").read_text()
    assert "## Evaluation" in card and "| X | 8 sampled | random |" in card
    assert "| `training.max_steps` | <code>2</code> |" in card
    manifest = json.loads(pathlib.Path("run/run_manifest.json").read_text())
    assert manifest["dataset"]["digest"] in card
    assert str(pathlib.Path.cwd()) not in card
  assert play(run, "adapter", "adapter.jsonl") == games
  code, _, err = run(
    scripts.PLAY, "--model", "merged", "--config", "config.yaml",
    "--episodes", 8, "--output", "merged.jsonl",
  )  # fmt: skip
  assert "--set lora=null" in err
  assert play(run, "merged", "merged.jsonl", "--set", "lora=null") == games
  # The adapter is trained further with its own settings.
  code, _, err = run(
    scripts.TRAIN, "--config", "config.yaml", "--output", "more",
    "--set", "model.name=adapter",
  )  # fmt: skip
  assert code == 0, err
  scripts.refused(
    run(
      scripts.TRAIN, "--config", "config.yaml", "--output", "other",
      "--set", "model.name=adapter", "lora.rank=3",
    ),
    'write in the config: lora: {"rank": 2, "alpha": 4.0',
  )  # fmt: skip


def test_publishing(run, scratch):
  api = mock.Mock()
  api.create_repo.return_value = "https://hub/me/model"
  flags = ("--model", scratch, "--output", "out", "--push-to-hub", "me/model")
  with mock.patch.object(huggingface_hub, "HfApi", return_value=api):
    code, out, _ = run(EXPORT, *flags, "--private", "--dry-run")
    assert code == 0 and not api.mock_calls
    assert "would upload them to me/model, a new private repository" in out
    code, out, err = run(EXPORT, *flags, "--private")
    assert code == 0, err
    assert "published: https://hub/me/model" in out
    assert "# me/model" in pathlib.Path("out/README.md").read_text()
    api.create_repo.side_effect = ConnectionError("x")
    again = run(EXPORT, *flags[:3], "again", *flags[4:])
    scripts.refused(again, "cannot be reached", "hf upload me/model again")
  assert pathlib.Path("again/config.json").is_file()


def test_mistakes(run, scratch):
  def export(*flags, model=scratch, output="out"):
    return run(EXPORT, "--model", model, "--output", output, *flags)

  scripts.refused(export(output="base"), "base: already exists")
  scripts.refused(export(model="none"), "none: no such model")
  scripts.refused(export("--evaluation", "none"), "none: no such summary")
  scripts.refused(
    export("--push-to-hub", "../x"), "../x: not a name for a repository"
  )
  for flags, found in (
    (("--private",), "--private needs --push-to-hub"),
    (("--max-shard-size", "4XB"), "expected a size such as 4GB"),
  ):
    code, _, err = export(*flags)
    assert code == 2 and found in err
  assert not pathlib.Path("out").exists()
