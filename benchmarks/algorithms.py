"""Variants of GRPO over seeds, judged on every line there is.

Each seed trains a poor player with `configs/sft_cold_start.yaml`, which every
algorithm improves: the last by `configs/grpo_tiny.yaml`, the others with settings
that replace those of `configs/grpo_plain.yaml`. It prints how many lines the model
loses as X and as O, which is exact, and the share of optimal moves on all 13,306
observations. Runs that exist are read, not repeated, so that a benchmark can be
continued, or shared among processes by seeds.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

from matplotlib import figure as figure_lib
import numpy as np

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import state_judge
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.runs import run_directory

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_REGRET = ["rewards.outcome.weight=0", "rewards.regret_weight=1"]
_TURNS = [*_REGRET, "grpo.advantage_level=turn", "grpo.discount=0"]
# Config and settings by name.
ALGORITHMS: dict[str, tuple[str, list[str]]] = {
  "GRPO, outcomes": ("grpo_plain", []),
  "GRPO": ("grpo_plain", _REGRET),
  "Dr. GRPO": (
    "grpo_plain",
    [
      *_REGRET,
      "grpo.advantage_estimator=drgrpo",
      "grpo.loss_agg_mode=sequence-mean-token-scale",
    ],
  ),
  "RLOO": ("grpo_plain", [*_REGRET, "grpo.advantage_estimator=rloo"]),
  "role baseline": ("grpo_plain", [*_REGRET, "grpo.role_baseline_decay=0.95"]),
  "turn baseline": ("grpo_plain", [*_TURNS, "grpo.turn_baseline=turn"]),
  "state baseline": ("grpo_plain", [*_TURNS, "grpo.turn_baseline=state"]),
  "grpo_tiny": ("grpo_tiny", []),
}
COLORS = (
  "#999999",
  "#0072b2",
  "#56b4e9",
  "#009e73",
  "#f0e442",
  "#cc79a7",
  "#e69f00",
  "#d55e00",
)


def train(
  run: pathlib.Path,
  recipe: config_lib.Recipe,
  name: str,
  settings: list[str],
) -> config_lib.SFTConfig:
  """Trains by a config of `configs` unless a finished run is there.

  Args:
    run: Directory of the run.
    recipe: Its trainer.
    name: Name of the config.
    settings: Assignments that replace its settings.

  Returns:
    The config.
  """
  kind, start = {
    "sft": (config_lib.SFTConfig, recipes.train_sft),
    "grpo": (config_lib.GRPOConfig, recipes.train_grpo),
  }[recipe]
  settings = [*settings, "logging.report=false"]
  config = config_lib.load(kind, CONFIGS / f"{name}.yaml", settings)
  if run.exists():
    recipes.resume(run, config)
  else:
    start(config, run)
  return config


def measure(
  seed: int, algorithms: list[str], runs: pathlib.Path, changes: list[str]
) -> list[dict[str, Any]]:
  """Trains one model by each algorithm; returns their rows of the results.

  Args:
    seed: Random seed of all runs.
    algorithms: Names of the algorithms.
    runs: Directory for the runs.
    changes: Assignments that replace settings of all configs.
  """
  cold = runs / f"cold-{seed}"
  shared = [*changes, f"seed={seed}"]
  before = accuracy(cold, train(cold, "sft", "sft_cold_start", shared))
  shared.append(f"model.name={cold / run_directory.FINAL_CHECKPOINT}")
  rows = []
  for name in algorithms:
    run = runs / f"{name.replace(',', '').replace(' ', '-').lower()}-{seed}"
    file, settings = ALGORITHMS[name]
    config = train(run, "grpo", file, [*settings, *shared])
    lines = (run / run_directory.METRICS).read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    evaluations = [row for row in metrics if row["split"] == "eval"]
    rows.append(
      {
        "algorithm": name,
        "seed": seed,
        "seconds": round(max(row.get("seconds", 0) for row in metrics)),
        "accuracy": [before, accuracy(run, config)],
        "curve": [
          [e["step"], *(int(e[f"{mark}/lines_lost"]) for mark in "XO")]
          for e in evaluations
        ],
        "before": evaluations[0],
        "after": evaluations[-1],
      }
    )
    print(describe(rows[-1]), flush=True)
  return rows


def describe(row: dict[str, Any]) -> str:
  """Returns a row of the results as a line of text."""
  (_, *before), (step, *after) = row["curve"][0], row["curve"][-1]
  lost = " to ".join(" + ".join(map(str, lines)) for lines in (before, after))
  right = " to ".join(f"{share:.3f}" for share in row["accuracy"])
  return (
    f"{row['algorithm']:16} seed {row['seed']}  step {step:4}  lines lost {lost}"
    f"  optimal moves {right}  {row['seconds']} s"
  )


def accuracy(run: pathlib.Path, config: config_lib.SFTConfig) -> float:
  """Returns the share of optimal moves of a run's model on all observations."""
  model = checkpoints.load(run / run_directory.FINAL_CHECKPOINT)
  game, right = catalog.of(config), []
  answers = turn_player.GreedyAnswers(model, config)
  for seat, listed in enumerate(state_judge.shared_play(game).decisions):
    states = game.agent_states(listed.states, seat)
    right.append(game.regret(states, answers(states).moves) == 0)
  return round(float(np.concatenate(right).mean()), 4)


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the row of each algorithm in the table, over the seeds."""
  table = []
  for name in dict.fromkeys(row["algorithm"] for row in rows):
    same = [row for row in rows if row["algorithm"] == name]
    lost = sorted(sum(row["curve"][-1][1:]) for row in same)
    right = [row["accuracy"][1] - row["accuracy"][0] for row in same]
    seconds = [row["seconds"] for row in same]
    table.append(
      {
        "algorithm": name,
        "seeds": len(same),
        "without_loss": lost.count(0),
        "lost_median": statistics.median(lost),
        "lost_most": lost[-1],
        "accuracy_gain_mean": round(statistics.mean(right), 4),
        "accuracy_gain_least": round(min(right), 4),
        "seconds_median": statistics.median(seconds),
        "seconds_most": max(seconds),
      }
    )
  return table


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Writes each algorithm's median curve, with its range over seeds, as SVG.

  A run that stopped without a lost line has none from there on.
  """
  figure = figure_lib.Figure(figsize=(7.2, 4), layout="constrained")
  axes = figure.subplots()
  steps = sorted({point[0] for row in rows for point in row["curve"]})
  for name, color in zip(ALGORITHMS, COLORS, strict=True):
    curves = [row["curve"] for row in rows if row["algorithm"] == name]
    if not curves:
      continue
    ends = [curve[-1][0] for curve in curves if sum(curve[-1][1:])]
    drawn_steps = [
      step for step in steps if step <= min(ends, default=steps[-1])
    ]
    lost = np.zeros((len(curves), len(drawn_steps)))
    for number, curve in enumerate(curves):
      for step, *lines in curve:
        if step in drawn_steps:
          lost[number, drawn_steps.index(step)] = sum(lines)
    axes.plot(drawn_steps, np.median(lost, axis=0), color=color, label=name)
    low, high = lost.min(axis=0), lost.max(axis=0)
    axes.fill_between(
      drawn_steps, low, high, color=color, alpha=0.1, linewidth=0
    )
  # Linear up to one lost line, so that 0 can be drawn.
  axes.set_yscale("symlog", linthresh=1)
  axes.set(xlabel="step", ylabel="lines lost, X + O")
  axes.set_ylim(bottom=0)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize="small", ncols=2)
  figure.savefig(path, metadata={"Date": None})


def main() -> None:
  """Trains, prints, draws and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/algorithms.py --runs RUNS --output algorithms.json",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10)])
  parser.add_argument(
    "--algorithms", nargs="+", choices=ALGORITHMS, default=[*ALGORITHMS]
  )
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument(
    "--set",
    nargs="+",
    default=[],
    metavar="KEY=VALUE",
    help="replace settings of all configs, as in --set training.max_steps=50",
  )
  parser.add_argument("--figure", type=pathlib.Path, help="SVG to draw")
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  rows = []
  for seed in flags.seeds:
    rows += measure(seed, flags.algorithms, flags.runs, flags.set)
  table = summarize(rows)
  for row in table:
    print("  ".join(f"{key} {value}" for key, value in row.items()))
  if flags.figure:
    draw(rows, flags.figure)
  cli.write_results(
    flags.output, {**cli.machine(), "table": table, "rows": rows}
  )


if __name__ == "__main__":
  cli.run(main)
