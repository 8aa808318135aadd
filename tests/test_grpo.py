"""Tests GRPO runs of a small model: files, metrics and exact resuming."""

from collections import Counter
import dataclasses
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
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.data import generate
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import recorder

CONFIG = config_lib.GRPOConfig(
  model=conftest.SMALL_MODEL,
  data=config_lib.DataConfig(games=config_lib.GamesConfig(num_games=60)),
  training=config_lib.TrainingConfig(
    max_steps=4, batch_size=16, learning_rate=1e-3, eval_every_n_steps=2
  ),
  # Constrained, so that a model that has learned nothing plays whole games.
  rollout=config_lib.RolloutConfig(constrained=True),
  play=config_lib.PlayConfig(
    max_new_tokens=12, max_turns=3, num_games=8, batch_size=8, constrained=True
  ),
  grpo=config_lib.AlgorithmConfig(num_generations=4),
  rewards=config_lib.RewardsConfig(regret_weight=0.5),
  exhaustive_eval=False,
  checkpoint=config_lib.CheckpointConfig(save_interval_steps=2),
  logging=config_lib.LoggingConfig(log_every_n_steps=2),
)


def changed(config, section, **changes):
  new = dataclasses.replace(getattr(config, section), **changes)
  return dataclasses.replace(config, **{section: new})


def train(config, output, rewards=None):
  return recipes.train_grpo(config, output, rewards=rewards)


def rows(run: pathlib.Path) -> list[dict[str, Any]]:
  lines = (run / run_directory.METRICS).read_text().splitlines()
  drop = (
    *recorder.TIMES,
    "seconds_sampling",
    "seconds_training",
    "seconds_checks",
    "memory_bytes",
  )
  return [
    {k: v for k, v in json.loads(line).items() if k not in drop}
    for line in lines
  ]


def final(run: pathlib.Path) -> str:
  model = checkpoints.load(run / run_directory.FINAL_CHECKPOINT)
  return checkpoints.revision(specs.parameters(model.module))


# The reference is what the model was at first, not at the checkpoint.
WITH_KL = changed(CONFIG, "grpo", beta=0.1)


@pytest.fixture(scope="module")
def run(grpo_run):
  return grpo_run


def test_a_run_leaves_what_it_should(run):
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.recipe == "grpo" and manifest.status == "finished"
  assert manifest.dataset is None and manifest.dataset_key == "games"
  found = rows(run)
  assert [(r["step"], r["split"]) for r in found] == [
    (0, "eval"),
    (1, "train"),
    (2, "train"),
    (2, "eval"),
    (3, "train"),
    (4, "train"),
    (4, "eval"),
  ]
  for row in found:
    if row["split"] == "eval":
      assert 0 <= row["score"] <= 1
      assert 0 <= row["X/random/win_rate"] <= 1
      # Little of what the model would say can be read.
      assert 0.5 < row["X/thought_no_claim_rate"] <= 1
      continue
    # The sampler and the trainer compute the same.
    assert row["log_ratio"] < 1e-4
    assert row["reward"] == pytest.approx(
      row["reward/outcome"] + row["reward/regret"], abs=1e-5
    )
    assert sum(v for k, v in row.items() if k in trajectory.RATES) == 1
    assert row["entropy"] > 0 and row["grad_norm"] > 0
    assert 0 < row["sampled_mass"] < 0.5
  games = [
    json.loads(line)
    for line in (run / run_directory.ROLLOUTS).read_text().splitlines()
  ]
  assert {game["step"] for game in games} == {1, 2, 4}
  assert games[0]["turns"][0]["response"]
  assert (run / run_directory.BEST_CHECKPOINT / "model.json").is_file()
  assert len(list(run.glob("grpo_training_logs_*.txt"))) == 1
  assert list((run / run_directory.TENSORBOARD).iterdir())


@pytest.mark.slow
def test_the_same_config_gives_the_same_run(run, tmp_path):
  again = train(WITH_KL, tmp_path / "again")
  assert rows(again) == rows(run)
  assert final(again) == final(run)


def test_going_on_from_a_checkpoint(run, tmp_path):
  other = tmp_path / "run"
  shutil.copytree(run, other)
  recipes.resume(other, WITH_KL, step=2)
  assert rows(other) == rows(run)
  assert final(other) == final(run)
  assert (other / run_directory.ROLLOUTS).read_text() == (
    run / run_directory.ROLLOUTS
  ).read_text()
  assert [
    s.from_step for s in run_manifest.RunManifest.read(other).sessions
  ] == [0, 2]


VARIANTS: dict[str, Any] = {
  "full, turns, lora, kl": {
    "play": {"context": "full"},
    "grpo": {"advantage_level": "turn", "beta": 0.05, "num_iterations": 2},
    "lora": config_lib.LoraConfig(rank=4),
  },
  "truncated, rloo, accumulation": {
    "play": {"context": "truncated"},
    "grpo": {"advantage_estimator": "rloo", "positive_only": True},
    "training": {"gradient_accumulation_steps": 2},
  },
  "positions, drgrpo, kl": {
    "episodes": {"source": "positions", "agent": "o"},
    "grpo": {"advantage_estimator": "drgrpo", "beta": 0.05},
  },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, tmp_path):
  config = changed(CONFIG, "training", max_steps=2)
  for section, changes in VARIANTS[name].items():
    if isinstance(changes, dict):
      config = changed(config, section, **changes)
    else:
      config = dataclasses.replace(config, **{section: changes})
  found = rows(train(config, tmp_path / "run"))
  trained = [row for row in found if row["split"] == "train"]
  assert all(row["log_ratio"] < 1e-4 for row in trained)
  assert trained[-1]["grad_norm"] > 0
  if config.grpo.beta:
    # At first the model is its own reference.
    assert abs(trained[0]["kl"]) < abs(trained[1]["kl"])
  if config.episodes.source == "positions":
    assert all(row["turns"] == 1 for row in trained)
    assert all(row["unfinished_rate"] > 0 for row in trained)
    assert all(row["truncated_rate"] == 0 for row in trained)


@pytest.mark.slow
def test_metrics_do_not_depend_on_accumulation(tmp_path):
  config = changed(CONFIG, "training", max_steps=1)
  config = changed(config, "grpo", beta=0.1, num_iterations=2)
  whole, parts = (
    rows(
      train(
        changed(config, "training", gradient_accumulation_steps=count),
        tmp_path / str(count),
      )
    )[1]
    for count in (1, 2)
  )
  for row in (whole, parts):
    assert row.pop("split") == "train"
    # Rounding errors alone.
    assert row.pop("log_ratio") < 1e-5
  assert parts == pytest.approx(whole, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["start", "base"])
def test_the_reference_of_a_model_with_trained_adapters(
  reference, tmp_path, capsys
):
  config = dataclasses.replace(CONFIG, lora=config_lib.LoraConfig(rank=4))
  config = changed(config, "training", max_steps=2)
  config = changed(config, "grpo", beta=0.05, reference=reference)
  config = changed(config, "checkpoint", save_interval_steps=1)
  first = train(config, tmp_path / "first")
  assert "the KL reference is" not in capsys.readouterr().out
  config = dataclasses.replace(
    config,
    model=config_lib.ModelConfig(
      name=str(first / run_directory.FINAL_CHECKPOINT)
    ),
  )
  second = train(config, tmp_path / "second")
  told = capsys.readouterr().out
  kl = [row["kl"] for row in rows(second) if row["split"] == "train"]
  if reference == "start":
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[1] > 1e-6
    assert "the KL reference is the model with its initial adapters" in told
  else:
    assert kl[0] > 1e-6
    assert "the KL reference is the model without adapters" in told
  recipes.resume(second, config, step=1)
  assert [r["kl"] for r in rows(second) if r["split"] == "train"] == kl


def test_what_prompts_begin_with_is_trained_once(tmp_path, packed_behind):
  config = changed(WITH_KL, "training", max_steps=1)
  row = next(r for r in rows(train(config, tmp_path / "run")) if r["step"] == 1)
  # Of the policy and of the reference.
  assert len(packed_behind) >= 2 and {*packed_behind} == {2}
  assert row["log_ratio"] < 1e-4 and abs(row["kl"]) < 1e-6


@pytest.mark.slow
def test_every_prompt_is_asked_before_any_comes_again(tmp_path):
  path = tmp_path / "prompts.jsonl"
  made = generate.write(path, "prompts", board_kinds.Prompts(), 6, 0)
  config = changed(CONFIG, "training", max_steps=3)
  config = changed(config, "data", path=str(path))
  config = changed(config, "episodes", source="prompts")
  config = dataclasses.replace(config, rollouts_per_log=16)
  config = changed(config, "logging", log_every_n_steps=1)
  run = train(config, tmp_path / "run")
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.dataset is not None and manifest.dataset.rows == 6
  assert manifest.dataset.digest == made.digest
  games = [
    json.loads(line)
    for line in (run / run_directory.ROLLOUTS).read_text().splitlines()
  ]
  # 3 steps of 4 groups of 4: each of 6 prompts comes up in two groups.
  asked = Counter(game["turns"][0]["board"] for game in games)
  rows_asked = [json.loads(line) for line in path.read_text().splitlines()]
  assert asked == Counter({row["board"]: 8 for row in rows_asked})
  assert all(len(game["turns"]) == 1 for game in games)
  # All games of a step are recorded, with the rewards of its metrics.
  for row in rows(run):
    if row["split"] == "train":
      rewards = [
        game["turns"][0]["reward"]
        for game in games
        if game["step"] == row["step"]
      ]
      assert np.mean(rewards) == pytest.approx(row["reward"], abs=1e-5)
  # They start on any board, and are read from the file all the same.
  assert len(recorded_games.read_games(run / run_directory.ROLLOUTS)) == 48
  assert "prompts: 6, 0 rows bad" in dry_run.describe(config)


@pytest.mark.slow
def test_past_selves_are_kept_and_met_again(tmp_path):
  config = dataclasses.replace(
    changed(CONFIG, "training", max_steps=4),
    opponents=config_lib.OpponentsConfig(
      random=(0.5, 0.0),
      optimal=(0.0, 0.5),
      past_selves=(0.5, 1.0),
      add_every_n_steps=1,
      pool_size=2,
    ),
  )
  run = train(config, tmp_path / "run")
  tables = sorted((run / run_directory.OPPONENTS).glob("*.bin"))
  assert [path.stem for path in tables] == ["1", "2", "3", "4"]
  table = np.frombuffer(tables[0].read_bytes(), np.int8)
  assert (table >= 0).sum() > 4000
  again = rows(run)
  recipes.resume(run, config, step=2)
  assert rows(run) == again


@pytest.mark.slow
def test_batches_without_a_signal_are_told(tmp_path):
  config = dataclasses.replace(
    changed(CONFIG, "training", max_steps=10, eval_every_n_steps=10),
    rewards=config_lib.RewardsConfig(
      # Nothing is ever worth more than anything else.
      outcome=config_lib.OutcomeConfig(weight=0.0),
      optimal_move_weight=1e-9,
    ),
  )
  run = train(config, tmp_path / "run")
  (log,) = run.glob("grpo_training_logs_*.txt")
  assert "WARNING: the last 10 steps trained nothing" in log.read_text()
  assert rows(run)[-2]["dropped_groups"] == 4


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"training": {"batch_size": 10}}, "batch_size 10 is not divisible by"),
    ({"grpo": {"num_generations": 1}}, "greater than or equal to 2"),
    (
      {"exhaustive_eval": True, "play": {"temperature": 1, "context": "full"}},
      "a sampled policy is judged exactly on single",
    ),
    (
      {"opponents": {"random": [0, 1]}},
      "the shares of all opponents are 0",
    ),
    ({"episodes": {"source": "prompts"}}, "prompts need a file; set data.path"),
    (
      {"episodes": {"source": "prompts", "agent": "x"}},
      "the prompts determine the model's seat",
    ),
    ({"rollout": {"temperature": 0}}, "greater than 0"),
    ({"grpo": {"advantage_estimator": "gae"}}, "'grpo', 'drgrpo' or 'rloo'"),
    (
      {"play": {"max_new_tokens": 64, "max_game_tokens": 48}},
      "max_new_tokens 64 leaves no room for the board in max_game_tokens 48",
    ),
  ],
)
def test_wrong_settings(settings, message, tmp_path):
  path = tmp_path / "config.yaml"
  path.write_text(yaml.safe_dump(settings))
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(config_lib.GRPOConfig, path)


def test_an_unknown_opponent_is_told_before_anything_is_written(tmp_path):
  config = changed(CONFIG, "play", opponent="perfect")
  with pytest.raises(errors.UserError, match="there is no opponent 'perfect'"):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
  config = changed(WITH_KL, "training", max_steps=40, eval_every_n_steps=20)
  path = tmp_path / "config.yaml"
  path.write_text(yaml.safe_dump(config_lib.to_dict(config)))
  killed = tmp_path / "killed"

  script = "train_grpo_tunix"
  conftest.kill_at(conftest.start(script, path, killed), killed, 7)
  process = conftest.start(script, path, killed, "--resume", "latest")
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert f"trained model: {killed}/checkpoint-final" in out
  whole = train(config, tmp_path / "whole")
  assert rows(killed) == rows(whole)
  assert final(killed) == final(whole)
  assert (killed / run_directory.ROLLOUTS).read_text() == (
    whole / run_directory.ROLLOUTS
  ).read_text()
