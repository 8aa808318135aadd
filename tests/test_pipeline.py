"""The pipeline script: every stage from the one before, and going on."""

import json
import pathlib

import pytest
import yaml

from tests import conftest
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

SCRIPT = conftest.ROOT / "training" / "pipeline.py"
SHORT = ["training.max_steps=1", "training.batch_size=8"]
SHORT += ["training.warmup_steps=0", "checkpoint.save_interval_steps=1"]
CONFIG = {
  "pairs": {"count": 20},
  "sft": {
    "config": "configs/sft_cold_start.yaml",
    "set": [*SHORT, "data.games.num_games=60", "model.num_layers=1"],
  },
  "dpo": {"config": "configs/dpo_tiny.yaml", "set": SHORT},
  "grpo": {
    "config": "configs/grpo_tiny.yaml",
    "set": SHORT,
  },
}


@pytest.mark.slow
def test_stages_follow_each_other(run, tmp_path, monkeypatch):
  monkeypatch.chdir(conftest.ROOT)
  config, output = tmp_path / "pipeline.yaml", tmp_path / "out"
  config.write_text(yaml.safe_dump(CONFIG))
  command = [SCRIPT, "--config", config, "--output", output]
  code, _, err = run(*command)
  assert code == 0, err
  manifest = json.loads((output / "pipeline_manifest.json").read_text())
  assert [*manifest["stages"]] == ["sft", "pairs", "dpo", "grpo"]
  for name, before in (("dpo", "sft"), ("grpo", "dpo")):
    made = run_manifest.RunManifest.read(output / name)
    assert made.status == "finished"
    assert made.model.name == str(
      output / before / run_directory.FINAL_CHECKPOINT
    )
    assert manifest["stages"][name]["exact_play"]["X"]["lines"] > 0
  # What is finished is not done again, and what is not is gone on with.
  text = (output / "pipeline_manifest.json").read_text()
  code, _, err = run(*command)
  assert code == 0, err
  assert (output / "pipeline_manifest.json").read_text() == text
  code, _, err = run(*command, "--set", "pairs.count=21")
  assert code == 2 and "belongs to a pipeline with another config" in err


def test_a_wrong_stage_is_told_before_anything_is_made(run, tmp_path):
  config = tmp_path / "pipeline.yaml"
  stage = {"config": str(pathlib.Path("none.yaml"))}
  config.write_text(yaml.safe_dump({**CONFIG, "dpo": stage}))
  output = tmp_path / "out"
  code, _, err = run(SCRIPT, "--config", config, "--output", output)
  assert code == 2 and "none.yaml" in err
  assert not output.exists()
