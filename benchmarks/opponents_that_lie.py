"""Trains against a minimax with a habit, and judges the player in several ways.

A poor player of `configs/sft_cold_start.yaml` is improved by GRPO against a minimax
that always takes the first of its best moves. The player is then judged against
that minimax, in sets of 20 games as is usual, and on every line there is.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import matches
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_directory
from tunix_ttt.train import reference_log_probs

# Games of a small evaluation: as many as X as as O.
SET_SIZE = 20
UNBEATEN = (trajectory_lib.Ending.WIN, trajectory_lib.Ending.DRAW)
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# An outcome counts, as is usual, and games start on the empty board.
SETTINGS = [
  "rewards.outcome.forced_draw=1",
  "training.learning_rate=1e-3",
  "training.final_learning_rate=0",
  "training.max_steps=60",
  "training.eval_every_n_steps=60",
]


def first_best(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
  """Plays the first optimal cell, from A1 to C3; ignores the seed."""
  del opponent_seed
  optimal = jnp.asarray(solver.solve().optimal)[board]
  return jnp.asarray(rules.nth_cell())[optimal, 0].astype(jnp.int32)


def sampled(
  model: Any, config: config_lib.SFTConfig, opponent: opponents.Opponent
) -> dict[str, Any]:
  """Returns the share of unbeaten games, and the number of unbeaten sets.

  Half of a set's games are in each seat; `distinct` counts different games.
  """
  unbeaten, distinct = [], 0
  for match in matches.play_games(model, config, opponent=opponent):
    games = match.games
    unbeaten.append(np.isin(np.asarray(games.ending), UNBEATEN))
    boards = np.asarray(games.states.board), np.asarray(games.state.board)
    lines = np.concatenate([boards[0], boards[1][:, None]], axis=1)
    distinct += len(np.unique(lines, axis=0))
  halves = [each.reshape(-1, SET_SIZE // 2) for each in unbeaten]
  sets = np.concatenate(halves, axis=1)
  return {
    "games": sets.size,
    "distinct": distinct,
    "unbeaten": round(float(sets.mean()), 4),
    "sets": len(sets),
    "sets_unbeaten": int(sets.all(axis=1).sum()),
    "fewest_in_a_set": int(sets.sum(axis=1).min()),
    "most_in_a_set": int(sets.sum(axis=1).max()),
  }


def judge(
  path: pathlib.Path, config: config_lib.SFTConfig, num_sets: int
) -> dict[str, Any]:
  """Judges a model by sampled games and on every line."""
  num_games = num_sets * SET_SIZE // 2

  def at(temperature: float) -> config_lib.SFTConfig:
    play = dataclasses.replace(
      config.play, num_games=num_games, temperature=temperature
    )
    return dataclasses.replace(config, play=play)

  model = reference_log_probs.load(str(path), config)
  return {
    "minimax": sampled(model, at(0.0), first_best),
    "minimax_sampled": sampled(model, at(1.0), first_best),
    "random": sampled(model, at(0.0), opponents.uniform_random),
    "every_line": {
      match.seat: dataclasses.asdict(match.result)
      for match in matches.play_all_lines(model, at(0.0))
    },
  }


def show(stage: str, results: dict[str, Any]) -> None:
  """Prints the results of a model."""
  for name in ("minimax", "minimax_sampled", "random"):
    row = results[name]
    print(
      f"{stage:>6}  {name:15}  unbeaten {row['unbeaten']:.2%}, in a set"
      f" {row['fewest_in_a_set']} to {row['most_in_a_set']} of {SET_SIZE}, all in"
      f" {row['sets_unbeaten']} of {row['sets']} sets; {row['distinct']} distinct"
    )
  for seat, row in results["every_line"].items():
    print(f"{stage:>6}  as {seat}: {row['lines_lost']} of {row['lines']} lost")


def main() -> None:
  """Trains, judges, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/opponents_that_lie.py --runs runs"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--sets",
    type=cli.positive,
    default=100,
    help=f"sets of {SET_SIZE} sampled games",
  )
  parser.add_argument(
    "--set", nargs="+", default=[], help="settings of both recipes"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  changes = [f"seed={flags.seed}", "logging.report=false"]
  path = CONFIGS / "sft_cold_start.yaml"
  config = config_lib.load(config_lib.SFTConfig, path, [*changes, *flags.set])
  cold = recipes.train_sft(config, flags.runs / "cold")
  start = cold / run_directory.FINAL_CHECKPOINT
  path = CONFIGS / "grpo_plain.yaml"
  changes += [f"model.name={start}", *SETTINGS, *flags.set]
  settings = config_lib.load(config_lib.GRPOConfig, path, changes)
  started = time.perf_counter()
  run = recipes.train_grpo(settings, flags.runs / "grpo", opponent=first_best)
  seconds = round(time.perf_counter() - started, 1)
  stages = {"before": start, "after": run / run_directory.FINAL_CHECKPOINT}
  report: dict[str, Any] = {"training_seconds": seconds}
  for stage, model in stages.items():
    report[stage] = judge(model, config, flags.sets)
    show(stage, report[stage])
  record.write(flags.output, report)


if __name__ == "__main__":
  cli.run(main)
