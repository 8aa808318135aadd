"""Tests SFT runs: files, determinism and exact resuming."""

import dataclasses
import json
import pathlib
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.data import datasets
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import recorder
from tunix_ttt.train import sft

SCRIPT = "train_sft_tunix"
STEPS = 8
CONFIG = config_lib.SFTConfig(
  model=conftest.SMALL_MODEL,
  data=config_lib.DataConfig(
    games=config_lib.GamesConfig(num_games=60), eval_fraction=0.1
  ),
  training=config_lib.TrainingConfig(
    max_steps=STEPS, batch_size=8, learning_rate=3e-3, eval_every_n_steps=3
  ),
  checkpoint=config_lib.CheckpointConfig(save_interval_steps=3),
)
LORA = dataclasses.replace(CONFIG, lora=config_lib.LoraConfig(rank=2))


def rows(run: pathlib.Path):
  """The metrics of a run, less what depends on the machine's speed."""
  text = (run / run_directory.METRICS).read_text()
  parsed = [json.loads(line) for line in text.splitlines()]
  return [
    {k: v for k, v in row.items() if k not in recorder.TIMES} for row in parsed
  ]


def final(run: pathlib.Path):
  description = json.loads((run / "checkpoint-final/model.json").read_text())
  return description["params"]


def optimizer_state(run: pathlib.Path):
  step = max(int(p.name) for p in (run / run_directory.CHECKPOINTS).iterdir())
  path = (
    run / run_directory.CHECKPOINTS / str(step) / "optimizer_state"
  ).absolute()
  with ocp.PyTreeCheckpointer() as checkpointer:
    metadata = checkpointer.metadata(path).item_metadata
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
    )
    tree = checkpointer.restore(path, restore_args=as_numpy)
  leaves = ocp.tree.to_flat_dict(tree)
  return step, {str(k): np.asarray(v).tobytes() for k, v in leaves.items()}


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request):
  """A finished run, of the whole model or of an adapter."""
  if request.param == "full":
    return CONFIG, request.getfixturevalue("sft_run")
  return LORA, request.getfixturevalue("sft_lora_run")


# Runs of adapters are slow tests where they are made anew.
whole_model = pytest.mark.parametrize(
  "finished", conftest.slow_but(["full"], ["full", "lora"]), indirect=True
)


def test_a_run_leaves_what_it_should(finished):
  _config, run = finished
  names = {p.name for p in run.iterdir()}
  log = next(n for n in names if n.startswith("sft_training_logs_"))
  assert names == {
    ".lock",
    "run_manifest.json",
    "metrics.jsonl",
    log,
    "tensorboard",
    "tokenizer.model",
    "checkpoints",
    "checkpoint-final",
  }
  assert {p.name for p in (run / "checkpoints").iterdir()} == {"3", "6", "8"}
  assert list((run / "tensorboard").glob("events.*"))
  assert "=== SFT Training Logs ===" in (run / log).read_text()


def test_what_rows_begin_with_is_trained_once(sft_run, tmp_path, packed_behind):
  prepared = sft.plan(CONFIG)
  assert datasets.prefix(prepared.dataset)
  run = recipes.train_sft(CONFIG, tmp_path / "run")
  assert 2 in packed_behind
  for one, other in zip(rows(run), rows(sft_run), strict=True):
    assert one["step"] == other["step"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_every_step_is_recorded_once_and_in_order(finished):
  _, run = finished
  found = [(row["step"], row["split"]) for row in rows(run)]
  expected = [(0, "eval")]
  for step in range(1, STEPS + 1):
    expected.append((step, "train"))
    if step % 3 == 0 or step == STEPS:
      expected.append((step, "eval"))
  assert found == expected
  train = [row for row in rows(run) if row["split"] == "train"]
  assert all(row["grad_norm"] > 0 for row in train)
  tokens = [row["num_tokens"] for row in train]
  assert tokens == sorted(set(tokens))


def test_the_manifest_says_what_made_the_run(finished):
  config, run = finished
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.status == "finished" and manifest.finished_at
  assert manifest.seed == config.seed
  assert manifest.config == config_lib.to_dict(config)
  assert manifest.versions["google-tunix"] == "0.1.7"
  assert manifest.devices and manifest.mesh == {"fsdp": 1, "tp": 1}
  assert [s.from_step for s in manifest.sessions] == [0]
  data = manifest.dataset
  assert data is not None
  assert data.rows == data.train_rows + data.eval_rows + data.dropped_too_long
  model = manifest.model
  whole = model.parameters == model.trainable_parameters
  assert whole == (config.lora is None)
  assert manifest.final_metrics["eval/loss"] == rows(run)[-1]["loss"]


def test_training_changes_what_is_trained_and_nothing_else(finished):
  config, run = finished
  start = sft.plan(config).model
  trained = checkpoints.load(run)
  before, after = (specs.parameters(m.module) for m in (start, trained))
  changed = {k for k in before if not np.array_equal(before[k], after[k])}
  kinds = specs.parameters(trained.module, start.trainable)
  assert changed == set(kinds)


def test_the_loss_falls(finished):
  _, run = finished
  losses = [row["loss"] for row in rows(run) if row["split"] == "eval"]
  assert losses[-1] < losses[0]


@whole_model
def test_the_same_config_gives_the_same_run(finished, tmp_path):
  config, run = finished
  again = recipes.train_sft(config, tmp_path / "again")
  assert rows(again) == rows(run)
  assert final(again) == final(run)


@whole_model
def test_accumulation_gives_the_update_of_one_batch(finished, tmp_path):
  config, run = finished
  parts = dataclasses.replace(
    config,
    training=dataclasses.replace(
      config.training, gradient_accumulation_steps=4
    ),
  )
  split = recipes.train_sft(parts, tmp_path / "parts")
  for ours, theirs in zip(rows(run), rows(split), strict=True):
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)
  a, b = (specs.parameters(checkpoints.load(r).module) for r in (run, split))
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=2e-4)


def test_a_finished_run_is_left_alone(finished):
  config, run = finished
  before = (run / run_directory.MANIFEST).read_bytes()
  assert recipes.resume(run, config) == run
  assert (run / run_directory.MANIFEST).read_bytes() == before


@whole_model
def test_resuming_from_an_earlier_step_ends_the_same(finished, tmp_path):
  config, run = finished
  copy = tmp_path / "copy"
  subprocess.run(["cp", "-r", run, copy], check=True)
  recipes.resume(copy, config, step=3)
  assert rows(copy) == rows(run)
  assert final(copy) == final(run)
  assert optimizer_state(copy) == optimizer_state(run)
  aside = next(copy.glob("superseded-*"))
  assert {p.name for p in aside.iterdir()} == {"6", "8", "checkpoint-final"}
  sessions = run_manifest.RunManifest.read(copy).sessions
  assert [s.from_step for s in sessions] == [0, 3]


def test_what_resuming_refuses(finished, tmp_path):
  config, run = finished
  with pytest.raises(
    errors.UserError, match="no checkpoint of step 5; available: 3, 6, 8"
  ):
    recipes.resume(run, config, step=5)
  other = dataclasses.replace(config, seed=1)
  with pytest.raises(errors.UserError, match="these keys differ .*: seed"):
    recipes.resume(run, other)
  with pytest.raises(errors.UserError, match="no such run manifest"):
    recipes.resume(tmp_path, config)
  logging = config_lib.LoggingConfig(log_every_n_steps=1)
  free = dataclasses.replace(config, logging=logging)
  assert recipes.resume(run, free) == run


def test_a_run_that_is_being_worked_on_is_refused(finished):
  config, run = finished
  working = pytest.raises(errors.UserError, match="another process is working")
  with run_directory.hold(run), working:
    recipes.resume(run, config, step=3)


def test_a_directory_in_use_is_refused_and_left_alone(finished):
  config, run = finished
  before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
  with pytest.raises(errors.UserError, match="already exists"):
    recipes.train_sft(config, run)
  assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_change_of_the_data_is_noticed(tmp_path):
  data = tmp_path / "rows.jsonl"
  data.write_text('{"text": "abc"}\n' * 20)
  config = dataclasses.replace(
    CONFIG, data=config_lib.DataConfig(path=str(data))
  )
  run = recipes.train_sft(config, tmp_path / "run")
  data.write_text('{"text": "abd"}\n' * 20)
  with pytest.raises(errors.UserError, match="the data has changed"):
    recipes.resume(run, config, step=3)


def test_a_diverging_run_says_so(tmp_path):
  config = dataclasses.replace(
    CONFIG,
    training=dataclasses.replace(
      CONFIG.training, learning_rate=1e30, max_grad_norm=1e30
    ),
  )
  with pytest.raises(errors.UserError, match="has diverged; lower"):
    recipes.train_sft(config, tmp_path / "run")


@pytest.mark.slow
def test_lora_on_a_model_that_was_trained_first(sft_run, tmp_path):
  base = sft_run
  config = dataclasses.replace(
    LORA, model=config_lib.ModelConfig(name=str(base / "checkpoint-final"))
  )
  run = recipes.train_sft(config, tmp_path / "lora")
  first = rows(run)[0]
  assert first["loss"] == pytest.approx(rows(base)[-1]["loss"], rel=1e-5)
  assert rows(run)[-1]["loss"] < first["loss"]
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.model.revision == final(base)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_killed_runs_end_as_if_they_had_not_been(lora, tmp_path):
  steps = 240
  config = dataclasses.replace(
    LORA if lora else CONFIG,
    training=dataclasses.replace(
      CONFIG.training, max_steps=steps, eval_every_n_steps=25
    ),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=10),
  )
  path = tmp_path / "config.yaml"
  path.write_text(yaml.safe_dump(config_lib.to_dict(config)))
  run = tmp_path / "killed"
  # Before the first checkpoint, then between checkpoints.
  conftest.kill_at(conftest.start(SCRIPT, path, run), run, 4)
  conftest.kill_at(
    conftest.start(SCRIPT, path, run, "--resume", "latest"), run, 87
  )
  process = conftest.start(SCRIPT, path, run, "--resume", "latest")
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert f"trained model: {run}/checkpoint-final" in out

  whole = recipes.train_sft(config, tmp_path / "whole")
  assert rows(run) == rows(whole)
  assert final(run) == final(whole)
  assert optimizer_state(run) == optimizer_state(whole)
  sessions = [s.from_step for s in run_manifest.RunManifest.read(run).sessions]
  assert sessions[0] == sessions[1] == 0 and 80 <= sessions[2] < steps
