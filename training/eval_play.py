"""Plays whole games with a model and reports exact or sampled rates."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt.runs import processes


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_play.py --model RUN/checkpoint-final --config"
    " configs/sft_tiny.yaml --exhaustive --output episodes.jsonl",
  )
  cli.add_model(parser)
  cli.add_backend(parser)
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument(
    "--episodes", type=cli.positive, help="games to sample with each mark"
  )
  kind.add_argument(
    "--exhaustive",
    action="store_true",
    help="exact results: of every line if greedy, else of the sampled policy",
  )
  parser.add_argument("--opponent", help="opponent, in place of play.opponent")
  cli.add_play(parser)
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="JSONL of games to write; the summary is written beside it",
  )
  flags = parser.parse_args()
  if flags.exhaustive and flags.opponent:
    parser.error("--exhaustive covers every opponent; leave out --opponent")
  return flags


def main() -> None:
  """Plays games, and writes and prints their results."""
  flags = _parse()
  settings = cli.overrides(
    flags.set,
    play__num_games=flags.episodes,
    play__opponent=flags.opponent,
    play__context=flags.context,
    play__temperature=flags.temperature,
  )
  config = cli.config_of_model(flags, settings)
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import recipes
  from tunix_ttt.evaluate import game_files
  from tunix_ttt.evaluate import matches

  processes.start(config.distributed)
  game_files.check_absent(flags.output)
  model = recipes.open_model(flags.model, config)
  seed = config.seed if flags.seed is None else flags.seed
  openings = None
  if flags.exhaustive:
    played = list(matches.play_all_lines(model, config))
    openings = matches.sample_openings(model, config, seed)
  else:
    played = list(matches.play_games(model, config, seed))
  if processes.is_first():
    matches.write(flags.output, played, model, flags.model, config, openings)
  print(matches.table(played))
  summary = game_files.summary_path(flags.output)
  print(f"games: {flags.output}; summary: {summary}")


if __name__ == "__main__":
  cli.run(main)
