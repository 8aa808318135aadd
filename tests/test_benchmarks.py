"""Benchmarks start: each explains itself, and runs at its smallest size."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import yaml

from tests import conftest
from tests import test_pipeline

BENCHMARKS = conftest.ROOT / "benchmarks"
# Besides, there are modules that they share.
SCRIPTS = sorted(
  [*BENCHMARKS.glob("*.py"), conftest.ROOT / "docs/screenshots.py"]
)
for name in ("programs", "record", "seeds"):
  SCRIPTS.remove(BENCHMARKS / f"{name}.py")
SHAPE = [
  f"model.{name}={value}"
  for name, value in conftest.SMALL_MODEL.shape().items()
]
SFT = ["--config", conftest.ROOT / "configs/sft_tiny.yaml", "--set", *SHAPE]
SFT += ["data.games.num_games=60"]
# All that is not the size of the work is as in the pages.
SMALLEST = {
  "algorithms": [
    "--seeds", 0, "--runs", "runs", "--figure", "curves.svg", "--algorithms",
    "GRPO", "grpo_tiny", "--set",
    *test_pipeline.SHORT,
  ],
  "all": ["--benchmarks", "grpo", "--flags=--steps 1"],
  "ablations": ["--repeats", 1],
  "environment": ["--num-games", 3, "--repeats", 1],
  # A tokenizer that merges lines would not build the tables.
  "game_tables": ["--games", "leduc_poker", "--vocab-size", 2000],
  "connect_four": [
    "--games", 3, "--runs", "runs", "--set", "training.max_steps=2",
    "training.batch_size=4", "training.warmup_steps=0", "play.num_games=2",
    "play.batch_size=2",
  ],
  "exploitability": [
    "--games", "kuhn_poker", "--runs", "runs", "--set", "training.max_steps=1",
    "training.batch_size=16", "data.games.num_games=60",
  ],
  "games": [
    "--games", "kuhn_poker", "--batch-sizes", 3, "--repeats", 1,
    "--train-games", 5, "--train-steps", 1,
  ],
  "grpo": ["--steps", 1, "--no-peer"],
  "judge": [
    "--runs", "runs", "--games", 3, "--set", "training.max_steps=1",
    "training.warmup_steps=0", "training.batch_size=16",
    "training.eval_every_n_steps=1", "data.games.num_games=60",
    "--published", "Qwen/Qwen2.5-0.5B-Instruct", "--num-layers", 1,
    "--observations", 2,
  ],
  "layouts": ["--steps", 1, "--repeats", 1, "--new-tokens", 5],
  "memory_tables": ["--models", "Qwen/Qwen2.5-0.5B"],
  "opponents_that_lie": [
    "--runs", "runs", "--sets", 1, "--set", *test_pipeline.SHORT,
    "data.games.num_games=60",
  ],
  "operators": [
    *SFT, "training.batch_size=8", "--batch-size", 3, "--repeats", 1,
  ],
  "packing": [
    *SFT, "training.batch_size=8", "--steps", 1, "--repeats", 1, "--pairs", 60,
  ],
  "pipeline": ["--config", "pipeline.yaml", "--seeds", 0, "--runs", "runs"],
  "published_runs": [
    "--num-layers", 1, "--runs", "runs", "--steps", 2, "--repeat", "--set",
    "training.batch_size=8", "training.gradient_accumulation_steps=1",
    "data.games.num_games=20", "play.max_new_tokens=12", "eval.batch_size=8",
    "model.dtype=float32",
  ],
  "real_shapes": [
    "--num-layers", 1, "--rows", 1, "--length", 3, "--steps", 2,
    "--train-rows", 1, "--train-length", 3, "--rank", 2, "--repeats", 1,
  ],
  "sampler": [
    *SFT, "--model", "base", "--batch-sizes", 3, "--repeats", 1,
    "--contexts", "board", "truncated",
  ],
  "scaling": ["--axes", "games", "--points", 1, "--repeats", 1],
  "self_play": [
    "--games", "leduc_poker", "--seeds", 0, "--runs", "runs",
    "--arms", "mirror, role baseline", "exploiter", "--figure", "curves.svg",
    "--set", "training.max_steps=5", "training.batch_size=16",
    "--set-start", "training.max_steps=1", "training.batch_size=16",
    "data.games.num_games=60",
  ],
  "startup": ["--repeats", 1, "--set", *test_pipeline.SHORT],
}  # fmt: skip


def test_every_benchmark_is_run():
  names = {path.stem for path in SCRIPTS}
  # That of a service is run in `test_service_live`.
  assert names - SMALLEST.keys() == {"screenshots", "service", "trl_peer"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script, run, monkeypatch):
  if script.stem == "screenshots":
    pytest.importorskip("playwright")
  # A script imports modules beside it.
  monkeypatch.syspath_prepend(script.parent)
  code, out, err = run(script, "--help")
  assert (code, err) == (0, "")
  assert out.startswith(f"usage: {script.name}")


def smallest(name, directory):
  """Runs a benchmark in a process of its own; returns what it writes."""
  (directory / "pipeline.yaml").write_text(yaml.safe_dump(test_pipeline.CONFIG))
  # Paths in configs are those from the root of the project.
  (directory / "configs").symlink_to(conftest.ROOT / "configs")
  command = [sys.executable, BENCHMARKS / f"{name}.py", *SMALLEST[name]]
  done = subprocess.run(
    [*map(str, command), "--output", "results.json"],
    cwd=directory,
    # Some set how many devices there are.
    env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(conftest.ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout
  return json.loads((directory / "results.json").read_text())


def test_what_is_worse_than_the_baseline(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  worse = runpy.run_path(str(BENCHMARKS / "all.py"))["worse"]
  then = {"a: x": 2.0, "a: y, bytes": 100.0, "a: z": 1.0, "b: x": 1.0}
  now = {"a: x": 1.6, "a: y, bytes": 102.0, "a: new": 1.0}
  assert worse(then, now) == [
    "a: x: 20.0% slower than in the baseline",
    "a: y, bytes: 2.0% larger than in the baseline",
    "a: z: in the baseline, and not measured",
  ]
  assert worse(then, then | {"a: x": 1.8, "a: y, bytes": 90.0}) == []


@pytest.mark.slow
def test_memory_tables(run, tmp_path):
  output = tmp_path / "results.json"
  script = BENCHMARKS / "memory_tables.py"
  code, _, err = run(script, *SMALLEST[script.stem], "--output", output)
  assert code == 0, err
  (row,) = json.loads(output.read_text())["rows"]
  assert row["parameters"] == 494_032_768
  assert row["LoRA"].keys() == {"1", "2", "1 + 1", "8", "16"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLEST.keys() - {"memory_tables"}))
def test_smallest_size(name, tmp_path):
  if name == "environment":
    pytest.importorskip("pgx")
  results = smallest(name, tmp_path)
  assert results["device"] and results["platform"]
