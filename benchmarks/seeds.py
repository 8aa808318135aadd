"""Cold start and GRPO with several seeds, judged on every line there is.

Each seed trains a poor player with `configs/sft_cold_start.yaml` and improves
it with `configs/grpo_tiny.yaml`; what is printed is how often each mark wins,
draws and loses before and after, exactly, on how many lines it fails, and the
share of right answers to all positions.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import evalsets
from tunix_ttt.runs import run_directory

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS, EVALSET = ROOT / "configs", ROOT / "evalsets" / "tictactoe_v1.jsonl"


def run(seed: int, output: pathlib.Path, settings: list[str]) -> dict[str, Any]:
  """Trains with one seed; returns the evaluations, first to last.

  Args:
    seed: Random seed of both runs.
    output: Directory for the runs.
    settings: Assignments that replace settings of both configs.
  """
  cold, improved = output / f"cold-{seed}", output / f"grpo-{seed}"
  changes = [*settings, f"seed={seed}"]
  path = CONFIGS / "sft_cold_start.yaml"
  recipes.train_sft(config_lib.load(config_lib.SFTConfig, path, changes), cold)
  changes.append(f"model.name={cold / run_directory.FINAL_CHECKPOINT}")
  path = CONFIGS / "grpo_tiny.yaml"
  config = config_lib.load(config_lib.GRPOConfig, path, changes)
  recipes.train_grpo(config, improved)
  lines = (improved / run_directory.METRICS).read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {
    "seed": seed,
    "accuracy": [accuracy(cold, config), accuracy(improved, config)],
    "seconds": round(max(row.get("seconds", 0) for row in rows)),
    "evaluations": [row for row in rows if row["split"] == "eval"],
  }


def accuracy(model: pathlib.Path, config: config_lib.GRPOConfig) -> float:
  """Returns the share of right answers of a run's model to the evalset."""
  items = evalsets.load(EVALSET, config.game)
  answers = recipes.answer_evalset(model, config, items)
  return round(statistics.mean(answer.score for answer in answers), 4)


def summary(results: list[dict[str, Any]], when: int) -> dict[str, Any]:
  """Returns mean, least and most of each rate over the seeds."""
  rows = [result["evaluations"][when] for result in results]
  # Some rates are left out where they are of nothing.
  every = set.intersection(*map(set, rows))
  names = [n for n in rows[0] if n in every and ("/" in n or n == "score")]
  return {
    name: {
      "mean": round(statistics.mean(row[name] for row in rows), 4),
      "min": round(min(row[name] for row in rows), 4),
      "max": round(max(row[name] for row in rows), 4),
    }
    for name in names
  }


def main() -> None:
  """Trains, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/seeds.py --runs RUNS --output seeds.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument(
    "--set",
    nargs="+",
    default=[],
    metavar="KEY=VALUE",
    help="replace settings of both configs, as in --set training.max_steps=50",
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  results = []
  for seed in flags.seeds:
    results.append(run(seed, flags.runs, flags.set))
    for row in results[-1]["evaluations"]:
      lost = {mark: row[f"{mark}/lines_lost"] for mark in "XO"}
      print(f"seed {seed}  step {row['step']:4}  lines lost {lost}", flush=True)
    print(f"seed {seed}  accuracy {results[-1]['accuracy']}", flush=True)
  report = {
    **cli.machine(),
    "before": summary(results, 0),
    "after": summary(results, -1),
    "seeds": results,
  }
  for name, after in report["after"].items():
    print(f"{name:28} before {report['before'][name]}  after {after}")
  cli.write_results(flags.output, report)


if __name__ == "__main__":
  cli.run(main)
