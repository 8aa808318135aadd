"""Variants of GRPO over seeds, judged on every line there is.

Each seed trains a poor player with `configs/sft_cold_start.yaml`, which every
algorithm improves: the last by `configs/grpo_tiny.yaml`, the others with settings
that replace those of `configs/grpo_plain.yaml`. It prints how many lines the model
loses as X and as O, which is exact, and the share of optimal moves on all 13,306
observations.
"""

from collections.abc import Iterator
import pathlib
import statistics
from typing import Any

from matplotlib import figure as figure_lib
import numpy as np
import seeds as seeds_lib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import state_judge
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.runs import run_directory

_REGRET = ["rewards.outcome.weight=0", "rewards.regret_weight=1"]
_TURNS = [*_REGRET, "grpo.advantage_level=turn", "grpo.discount=0"]
# Config and settings by name.
ALGORITHMS: dict[str, tuple[str, list[str]]] = {
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


def measure(
  seed: int, algorithms: list[str], runs: pathlib.Path, changes: list[str]
) -> Iterator[seeds_lib.Row]:
  """Trains one model by each algorithm; yields their rows of the results.

  Args:
    seed: Random seed of all runs.
    algorithms: Names of the algorithms.
    runs: Directory for the runs.
    changes: Assignments that replace settings of all configs.
  """
  shared = [*changes, f"seed={seed}", "logging.report=false"]
  cold = runs / f"cold-{seed}"
  path = seeds_lib.CONFIGS / "sft_cold_start.yaml"
  config = config_lib.load(config_lib.SFTConfig, path, shared)
  seeds_lib.train("sft", config, cold)
  before = accuracy(cold, config)
  shared.append(f"model.name={cold / run_directory.FINAL_CHECKPOINT}")
  for name in algorithms:
    run = runs / f"{name.replace(' ', '-').lower()}-{seed}"
    file, settings = ALGORITHMS[name]
    path = seeds_lib.CONFIGS / f"{file}.yaml"
    config = config_lib.load(config_lib.GRPOConfig, path, [*settings, *shared])
    evaluations, seconds = seeds_lib.train("grpo", config, run)
    yield {
      "algorithm": name,
      "seed": seed,
      "seconds": seconds,
      "accuracy": [before, accuracy(run, config)],
      "curve": [
        [e["step"], *(int(e[f"{mark}/lines_lost"]) for mark in "XO")]
        for e in evaluations
      ],
    }


def describe(row: seeds_lib.Row) -> str:
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


def summarize(rows: list[seeds_lib.Row]) -> list[dict[str, Any]]:
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


def draw(rows: list[seeds_lib.Row]) -> figure_lib.Figure:
  """Returns the curves of all algorithms; a run stops when it loses no line."""
  figure = figure_lib.Figure(figsize=(7.2, 4), layout="constrained")
  axes = figure.subplots()
  curves = {
    name: [
      [(step, sum(lost)) for step, *lost in row["curve"]]
      for row in rows
      if row["algorithm"] == name
    ]
    for name in ALGORITHMS
  }
  seeds_lib.draw(axes, curves)
  # Linear up to one lost line, so that 0 can be drawn.
  axes.set_yscale("symlog", linthresh=1)
  axes.set(ylabel="lines lost, X + O")
  axes.set_ylim(bottom=0)
  seeds_lib.add_legend(figure, axes)
  return figure


def main() -> None:
  """Trains, prints, draws and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/algorithms.py --runs RUNS --output algorithms.json",
  )
  seeds_lib.add_flags(parser, seeds=10)
  parser.add_argument(
    "--algorithms", nargs="+", choices=ALGORITHMS, default=[*ALGORITHMS]
  )
  flags = parser.parse_args()
  cli.require_tunix()
  rows = seeds_lib.read(flags.earlier)
  for seed in flags.seeds:
    for row in measure(seed, flags.algorithms, flags.runs, flags.set):
      print(describe(row), flush=True)
      rows.append(row)
  rows.sort(key=lambda row: [*ALGORITHMS].index(row["algorithm"]))
  seeds_lib.finish(flags, rows, summarize(rows), lambda: draw(rows))


if __name__ == "__main__":
  cli.run(main)
