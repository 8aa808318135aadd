"""Connect Four from scratch: a tiny model that imitates a tree search.

An expert, MCTS with random games on bitboards, plays MCTS with 16 simulations,
slowed down by random moves, and a random player. Now and then its games go on
with a random move instead of its own. A tiny model learns the expert's move in
each position, then plays each opponent greedily in both seats.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt import recipes
from tunix_ttt.evaluate import matches
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import expert_rows
from tunix_ttt.games import mcts
from tunix_ttt.games import players
from tunix_ttt.games.connect_four import bitboard_value
from tunix_ttt.train import reference_log_probs

SIMULATIONS, ROLLOUTS = 32, 64  # Settings of the expert.
SLIPS = 0.15
OPPONENT_SIMULATIONS, OPPONENT_ROLLOUTS = 16, 8
OPPONENT_SLIPS, RANDOM_SHARE = 0.1, 0.2


@contextlib.contextmanager
def stage(name: str, rows: list[dict[str, Any]]) -> Iterator[None]:
  """Adds a row with the seconds of a block, and its CPU seconds on all cores."""
  wall, cpu = time.perf_counter(), time.process_time()
  yield
  row = {
    "stage": name,
    "seconds": round(time.perf_counter() - wall, 1),
    "cpu_seconds": round(time.process_time() - cpu, 1),
  }
  rows.append(row)
  report(row)


def report(row: dict[str, Any]) -> None:
  """Prints a row of results."""
  print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def make_rows(
  game: definition.Definition, num_games: int, seed: int
) -> Iterator[expert_rows.Row]:
  """Yields the expert's answers."""
  board: Any = game.game

  def search(simulations: int, rollouts: int) -> players.Player:
    value = bitboard_value.random_value(board, rollouts=rollouts)
    return mcts.mcts(board, simulations=simulations, value=value)

  opponent = search(OPPONENT_SIMULATIONS, OPPONENT_ROLLOUTS)
  opponents = players.mixture(
    [
      players.random(board),
      players.epsilon(board, opponent, OPPONENT_SLIPS),
    ],
    [RANDOM_SHARE, 1 - RANDOM_SHARE],
  )
  expert = search(SIMULATIONS, ROLLOUTS)
  games = expert_rows.games(
    game, expert, opponents, num_games=num_games, seed=seed, slips=SLIPS
  )
  for _, rows in games:
    yield from rows


def main() -> None:
  """Makes games, trains, judges, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/connect_four.py --runs runs"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--games", type=cli.positive, default=24_000)
  parser.add_argument("--runs", type=pathlib.Path, default="runs")
  parser.add_argument(
    "--set", nargs="+", default=[], help="settings of the config"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  data, stages = flags.runs / "connect_four.jsonl", list[dict[str, Any]]()
  config = config_lib.load(
    config_lib.SFTConfig,
    "configs/sft_connect_four.yaml",
    [*flags.set, f"data.path={data}", "logging.report=false"],
  )
  game, results = catalog.of(config), []
  with stage("games", stages):
    lines = [
      files.to_json(row) + "\n"
      for row in make_rows(game, flags.games, config.seed)
    ]
    files.write_text(data, "".join(lines))
  with stage("sft", stages):
    run = recipes.train_sft(config, flags.runs / "connect_four")
  model = reference_log_probs.load(run)
  for name in ("random", "mcts:16"):
    play = dataclasses.replace(config.play, opponent=name)
    with stage(f"judging against {name}", stages):
      every = [
        *matches.play_games(model, dataclasses.replace(config, play=play))
      ]
    for match in every:
      result: Any = match.result
      row = {
        "opponent": name,
        "seat": match.seat,
        "games": result.games,
        **{
          k: round(v, 4)
          for k, v in result.rates.items()
          if v or k == "win_rate"
        },
        "interval": [round(bound, 4) for bound in result.intervals["win_rate"]],
      }
      results.append(row)
      report(row)
  record.write(
    flags.output,
    {
      "rows": len(lines),
      "stages": stages,
      "results": results,
    },
  )


if __name__ == "__main__":
  cli.run(main)
