"""Self-play beside other opponents: exploitability as the policy learns.

Each seed makes one model by the shipped SFT config of a game, from which every
arm goes on by GRPO with the same settings, but for who plays the other seat and
what the baseline is. Poker is measured by NashConv of the policy as it is sampled,
tic-tac-toe by the lines that the greedy policy loses; both are exact, and 0 is
perfect.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import statistics
from typing import Any

from matplotlib import figure as figure_lib
import seeds as seeds_lib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt.runs import run_directory

# Configs of SFT and of GRPO by game.
CONFIGS = {
  "kuhn_poker": ("sft_kuhn_poker", "grpo_kuhn_poker"),
  "leduc_poker": ("sft_leduc_poker", "grpo_leduc_poker"),
  "tictactoe": ("sft_cold_start", "grpo_plain"),
}
# Seats of self-play are compared without division by a deviation.
POKER = [
  "play.constrained=false",
  "training.batch_size=128",
  "training.learning_rate=2e-3",
  "training.eval_every_n_steps=20",
]
SETTINGS = {
  "kuhn_poker": POKER,
  "leduc_poker": POKER,
  "tictactoe": ["grpo.advantage_estimator=drgrpo"],
}
_ROLE = "grpo.role_baseline_decay=0.95"
# Opponents, None for the model itself, and settings.
ARMS: dict[str, tuple[dict[str, Any] | None, list[str]]] = {
  "mirror, group baseline": (None, []),
  "mirror, role baseline": (None, [_ROLE]),
  "mirror, random starts": (None, [_ROLE, "episodes.starts=0.5"]),
  "pool": ({"random": (1.0, 0.2), "past_selves": (0.0, 0.8)}, []),
  "random": ({}, []),
  "optimal mix": ({"random": (0.5, 0.5), "optimal": (0.5, 0.5)}, []),
  "exploiter": ({"random": (0.5, 0.5), "exploiter": (0.5, 0.5)}, []),
}
# Poker has neither an optimal player nor positions to start on.
OF_TICTACTOE = {"mirror, random starts", "optimal mix"}


def has_arm(game: str, arm: str) -> bool:
  """Returns whether an arm is for a game."""
  return game == "tictactoe" or arm not in OF_TICTACTOE


def configure(game: str, arm: str, changes: list[str]) -> config_lib.GRPOConfig:
  """Returns the config of an arm."""
  opponents, settings = ARMS[arm]
  agent = "both" if opponents is None else "mixed"
  config = config_lib.load(
    config_lib.GRPOConfig,
    seeds_lib.CONFIGS / f"{CONFIGS[game][1]}.yaml",
    [*SETTINGS[game], *settings, "logging.report=false", *changes],
  )
  policy = "greedy" if game == "tictactoe" else "sampled"
  listed = {"policy": policy, "pool_size": 8, "add_every_n_steps": 5}
  return dataclasses.replace(
    config,
    episodes=dataclasses.replace(config.episodes, agent=agent),
    opponents=config_lib.OpponentsConfig(
      **({} if opponents is None else opponents | listed)
    ),
  )


def measure(
  game: str, seed: int, arms: list[str], runs: pathlib.Path, flags: Any
) -> Iterator[seeds_lib.Row]:
  """Trains all arms of a game with one seed; yields their curves."""
  name = f"{game}-{seed}"
  cold = runs / f"cold-{name}"
  settings = [f"seed={seed}", "logging.report=false", *flags.set_start]
  path = seeds_lib.CONFIGS / f"{CONFIGS[game][0]}.yaml"
  config = config_lib.load(config_lib.SFTConfig, path, settings)
  seeds_lib.train("sft", config, cold)
  changes = [f"seed={seed}", *flags.set]
  changes.append(f"model.name={cold / run_directory.FINAL_CHECKPOINT}")
  for arm in arms:
    run = runs / f"{arm.replace(', ', '-').replace(' ', '-')}-{name}"
    evaluations, seconds = seeds_lib.train(
      "grpo", configure(game, arm, changes), run
    )
    points = [(row["step"], exploitability(row)) for row in evaluations]
    yield {
      "game": game,
      "seed": seed,
      "arm": arm,
      "seconds": seconds,
      "curve": points,
    }


def describe(row: seeds_lib.Row) -> str:
  """Returns a row of the results as a line of text."""
  curve = "  ".join(f"{step}: {value:.4g}" for step, value in row["curve"])
  return f"{row['game']}  seed {row['seed']}  {row['arm']:22}  {curve}"


def exploitability(row: dict[str, float]) -> float:
  """Returns NashConv of an evaluation, or the lines lost of a solved game."""
  if "nash_conv" in row:
    return row["nash_conv"]
  return sum(value for key, value in row.items() if "lines_lost" in key)


def summarize(rows: list[seeds_lib.Row]) -> list[dict[str, Any]]:
  """Returns median, least and most over the seeds, at the end and at the best."""
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
        "start": round(statistics.median(values[0] for values in curves), 4),
        "end": round(statistics.median(last), 4),
        "end_least": round(min(last), 4),
        "end_most": round(max(last), 4),
        "best": round(statistics.median(map(min, curves)), 4),
      }
    )
  return table


def draw(rows: list[seeds_lib.Row]) -> figure_lib.Figure:
  """Returns the curves of all arms, a panel for each game."""
  games = [*dict.fromkeys(row["game"] for row in rows)]
  size = 4.4 * len(games) + 1.8, 3.2
  figure = figure_lib.Figure(figsize=size, layout="constrained")
  panels = figure.subplots(1, len(games), squeeze=False)[0]
  for axes, game in zip(panels, games, strict=True):
    curves = {
      arm: [r["curve"] for r in rows if (r["game"], r["arm"]) == (game, arm)]
      for arm in ARMS
    }
    seeds_lib.draw(axes, curves)
    label = "lines lost, X + O" if game == "tictactoe" else "NashConv"
    axes.set(ylabel=label, title=game.replace("_", " "))
  seeds_lib.add_legend(figure, panels[-1])
  return figure


def main() -> None:
  """Trains, prints, draws and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/self_play.py --runs RUNS --output sp.json"
  )
  seeds_lib.add_flags(parser, seeds=5)
  parser.add_argument(
    "--games", nargs="+", choices=CONFIGS, default=["kuhn_poker", "tictactoe"]
  )
  parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
  parser.add_argument(
    "--set-start", nargs="+", default=[], help="settings of the first model"
  )
  flags = parser.parse_args()
  cli.require_tunix()
  rows = seeds_lib.read(flags.earlier)
  for game in flags.games:
    arms = [arm for arm in flags.arms if has_arm(game, arm)]
    for seed in flags.seeds:
      for row in measure(game, seed, arms, flags.runs, flags):
        print(describe(row), flush=True)
        rows.append(row)
  rows.sort(key=lambda row: (row["game"], [*ARMS].index(row["arm"])))
  seeds_lib.finish(flags, rows, summarize(rows), lambda: draw(rows))


if __name__ == "__main__":
  cli.run(main)
