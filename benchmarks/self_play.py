"""Self-play beside other opponents: exploitability as the policy learns.

Each seed makes one model by the shipped SFT config of a game, from which every
arm goes on by GRPO with the same settings, but for who plays the other seat and
what the baseline is. Poker is measured by NashConv of the policy as it is sampled,
tic-tac-toe by the lines that the greedy policy loses; both are exact, and 0 is
perfect.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
from typing import Any

from matplotlib import figure as figure_lib
import numpy as np

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.runs import run_directory

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SFT = {"kuhn_poker": "sft_kuhn_poker", "tictactoe": "sft_cold_start"}
GRPO = {"kuhn_poker": "grpo_kuhn_poker", "tictactoe": "grpo_plain"}
# Seats of self-play are compared without division by a deviation.
SETTINGS = {
  "kuhn_poker": ["play.constrained=false"],
  "tictactoe": ["grpo.advantage_estimator=drgrpo"],
}
# Opponents and, for self-play, the decay of the role baseline.
ARMS: dict[str, tuple[dict[str, Any] | None, float | None]] = {
  "mirror, group baseline": (None, None),
  "mirror, role baseline": (None, 0.95),
  "pool": ({"random": (1.0, 0.2), "past_selves": (0.0, 0.8)}, None),
  "random": ({}, None),
  "optimal mix": ({"random": (0.5, 0.5), "optimal": (0.5, 0.5)}, None),
  "exploiter": ({"random": (0.5, 0.5), "exploiter": (0.5, 0.5)}, None),
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def has_arm(game: str, arm: str) -> bool:
  """Returns whether an arm is for a game; poker has no optimal player."""
  return game == "tictactoe" or arm != "optimal mix"


def configure(game: str, arm: str, changes: list[str]) -> config_lib.GRPOConfig:
  """Returns the config of an arm."""
  path = CONFIGS / f"{GRPO[game]}.yaml"
  settings = [*SETTINGS[game], "logging.report=false", *changes]
  config = config_lib.load(config_lib.GRPOConfig, path, settings)
  opponents, decay = ARMS[arm]
  grpo = dataclasses.replace(config.grpo, role_baseline_decay=decay)
  agent = "both" if opponents is None else "mixed"
  policy = "sampled" if game == "kuhn_poker" else "greedy"
  listed = {"policy": policy, "pool_size": 8, "add_every_n_steps": 5}
  return dataclasses.replace(
    config,
    grpo=grpo,
    episodes=dataclasses.replace(config.episodes, agent=agent),
    opponents=config_lib.OpponentsConfig(
      **({} if opponents is None else opponents | listed)
    ),
  )


def curve(run: pathlib.Path) -> list[tuple[int, float]]:
  """Returns the steps at which a run was evaluated, and how exploitable it was."""
  lines = (run / run_directory.METRICS).read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row["split"] == "eval"]
  return [
    (
      row["step"],
      row["nash_conv"]
      if "nash_conv" in row
      else row["X/lines_lost"] + row["O/lines_lost"],
    )
    for row in rows
  ]


def measure(
  game: str, seed: int, arms: list[str], runs: pathlib.Path, flags: Any
) -> list[dict[str, Any]]:
  """Trains all arms of a game with one seed; returns their curves."""
  name = f"{game}-{seed}"
  start = runs / f"start-{name}"
  settings = [f"seed={seed}", "logging.report=false", *flags.set_start]
  path = CONFIGS / f"{SFT[game]}.yaml"
  recipes.train_sft(
    config_lib.load(config_lib.SFTConfig, path, settings), start
  )
  changes = [f"seed={seed}", *flags.set]
  changes.append(f"model.name={start / run_directory.FINAL_CHECKPOINT}")
  rows = []
  for arm in arms:
    run = runs / f"{arm.replace(', ', '-').replace(' ', '-')}-{name}"
    recipes.train_grpo(configure(game, arm, changes), run)
    points = curve(run)
    rows.append({"game": game, "seed": seed, "arm": arm, "curve": points})
    text = "  ".join(f"{step}: {value:.4g}" for step, value in points)
    print(f"{game}  seed {seed}  {arm:22}  {text}", flush=True)
  return rows


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns mean, least and most over the seeds, at the end and at the best."""
  table = []
  for game, arm in dict.fromkeys((row["game"], row["arm"]) for row in rows):
    curves = [
      [value for _, value in row["curve"]]
      for row in rows
      if (row["game"], row["arm"]) == (game, arm)
    ]
    last = [values[-1] for values in curves]
    table.append(
      {
        "game": game,
        "arm": arm,
        "seeds": len(curves),
        "start": round(statistics.mean(values[0] for values in curves), 4),
        "end": round(statistics.mean(last), 4),
        "end_least": round(min(last), 4),
        "end_most": round(max(last), 4),
        "best": round(statistics.mean(map(min, curves)), 4),
      }
    )
  return table


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Writes the mean curve of each arm with its range over the seeds as SVG."""
  games = [*dict.fromkeys(row["game"] for row in rows)]
  size = 4.4 * len(games) + 1.8, 3.2
  figure = figure_lib.Figure(figsize=size, layout="constrained")
  panels = np.atleast_1d(figure.subplots(1, len(games)))
  for axes, game in zip(panels, games, strict=True):
    for (arm, _), color in zip(ARMS.items(), COLORS, strict=True):
      same = [r for r in rows if (r["game"], r["arm"]) == (game, arm)]
      if same:
        steps, values = np.moveaxis(np.array([r["curve"] for r in same]), 2, 0)
        axes.plot(steps[0], values.mean(axis=0), color=color, label=arm)
        axes.fill_between(
          steps[0],
          values.min(axis=0),
          values.max(axis=0),
          alpha=0.12,
          color=color,
        )
    label = "NashConv" if game == "kuhn_poker" else "lines lost, X + O"
    axes.set(xlabel="step", ylabel=label, title=game.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
  figure.savefig(path, metadata={"Date": None})


def main() -> None:
  """Trains, prints, draws and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/self_play.py --runs RUNS --output sp.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--games", nargs="+", choices=SFT, default=[*SFT])
  parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument(
    "--set", nargs="+", default=[], help="settings of all arms"
  )
  parser.add_argument(
    "--set-start", nargs="+", default=[], help="settings of the first model"
  )
  parser.add_argument("--figure", type=pathlib.Path, help="SVG to draw")
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  rows = []
  for game in flags.games:
    arms = [arm for arm in flags.arms if has_arm(game, arm)]
    for seed in flags.seeds:
      rows += measure(game, seed, arms, flags.runs, flags)
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
