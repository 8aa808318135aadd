"""Tests DPO runs: exact resuming and invalid input."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import yaml

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import dry_run
from tunix_ttt import recipes
from tunix_ttt.data import generate
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import recorder

SETTINGS: dict[str, Any] = {
  "model": conftest.SMALL_MODEL.shape(),
  "data": {"max_seq_length": 256, "eval_fraction": 0.1},
  "training": {
    "max_steps": 4,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "eval_every_n_steps": 2,
  },
  "checkpoint": {"save_interval_steps": 1},
  "logging": {"log_every_n_steps": 1},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
  generate.write(path, "dpo", board_kinds.Pairs(), 80, 0)
  return path


def settings(pairs, **changes) -> dict[str, Any]:
  merged = {k: {**SETTINGS.get(k, {}), **v} for k, v in changes.items()}
  found = {**SETTINGS, **merged}
  return {**found, "data": {**found["data"], "path": str(pairs)}}


def make(pairs, **changes):
  values = settings(pairs, **changes)
  return config_lib.load(config_lib.DPOConfig, values)


def rows(run):
  lines = (run / run_directory.METRICS).read_text().splitlines()
  found = [json.loads(line) for line in lines]
  for row in found:
    for name in recorder.TIMES:
      row.pop(name, None)
  return found


@pytest.mark.parametrize(
  "algorithm", ["dpo", pytest.param("orpo", marks=pytest.mark.slow)]
)
def test_a_run_learns_to_prefer(pairs, tmp_path, algorithm):
  config = make(pairs, dpo={"algorithm": algorithm}, training={"max_steps": 12})
  run = recipes.train_dpo(config, tmp_path / "run")
  train = [row for row in rows(run) if row["split"] == "train"]
  if algorithm == "dpo":
    # The model is the reference at first: -log(1/2).
    assert train[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert train[0]["rewards/margin"] == pytest.approx(0, abs=1e-5)
  assert train[-1]["loss"] < train[0]["loss"]
  assert train[-1]["rewards/margin"] > train[0]["rewards/margin"]
  manifest = run_manifest.RunManifest.read(run)
  assert (manifest.recipe, manifest.status) == ("dpo", "finished")
  assert manifest.dataset is not None and manifest.dataset.rows == 80
  assert [*run.glob("dpo_training_logs_*.txt")]


@pytest.mark.slow
def test_killed_and_resumed_is_the_same(pairs, tmp_path):
  whole = recipes.train_dpo(make(pairs), tmp_path / "whole")
  path = tmp_path / "config.yaml"
  path.write_text(yaml.safe_dump(settings(pairs)))
  run = tmp_path / "killed"
  process = conftest.start("train_dpo_tunix", path, run)
  conftest.kill_at(process, run, 2)
  recipes.resume(run, make(pairs))
  assert rows(run) == rows(whole)
  a, b = (specs.parameters(checkpoints.load(r).module) for r in (run, whole))
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name])


@pytest.mark.slow
def test_an_adapters_reference_is_the_model_without_it(pairs, tmp_path):
  config = make(pairs, lora={"rank": 2, "alpha": 4.0})
  run = recipes.train_dpo(config, tmp_path / "run")
  assert rows(run)[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.model.trainable_parameters < manifest.model.parameters / 4


def test_wrong_input(run, pairs, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  script = conftest.ROOT / "training" / "train_dpo_tunix.py"
  pathlib.Path("c.yaml").write_text(yaml.safe_dump(settings(pairs)))
  pathlib.Path("sft.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
  for flags, found in (
    (["--data", "sft.jsonl"], "sft.jsonl:1"),
    (["--data", "none.jsonl"], "none.jsonl"),
    (["--set", "data.path=null"], "DPO needs a file of preference pairs"),
    (["--set", "dpo.beta=0"], "dpo.beta"),
    (["--model", "nowhere"], "nowhere: no such model"),
  ):
    result = run(script, "--config", "c.yaml", "--output", "r", *flags)
    conftest.refused(result, found)
    assert not pathlib.Path("r").exists()
  code, out, _ = run(script, "--config", "c.yaml", "--dry-run")
  assert code == 0 and "in all" in out


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
  return recipes.train_dpo(make(pairs), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def padded(finished):
  return rows(finished)


def test_resuming_from_an_earlier_step_ends_the_same(pairs, finished, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  recipes.resume(copy, make(pairs), step=2)
  assert rows(copy) == rows(finished)
  a, b = (
    specs.parameters(checkpoints.load(r).module) for r in (copy, finished)
  )
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name])


@pytest.mark.parametrize(
  "changes",
  [
    pytest.param({"data": {"packing": True}}, id="packed"),
    pytest.param(
      {"mesh": {"fsdp": 2}}, id="on two devices", marks=pytest.mark.slow
    ),
  ],
)
def test_other_arrays_teach_the_same(pairs, padded, changes, tmp_path):
  config = make(pairs, **changes)
  text = dry_run.describe(config)
  assert ("packed into" in text) == ("data" in changes)
  assert ("fsdp 2" in text) == ("mesh" in changes)
  found = rows(recipes.train_dpo(config, tmp_path / "run"))
  assert len(found) == len(padded) > 0
  for row, expected in zip(found, map(dict, padded), strict=True):
    assert row.pop("split") == expected.pop("split")
    if row["step"] <= 1:
      # Margins of the reference itself are rounding.
      del row["rewards/accuracy"], expected["rewards/accuracy"]
    assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)
