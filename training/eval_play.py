"""Lets a model play whole games, and says exactly how good it is."""

import argparse
import pathlib

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_play.py --model RUN/checkpoint-final --config"
    " configs/sft_tiny.yaml --exhaustive --output episodes.jsonl",
  )
  cli.add_model(parser)
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument(
    "--episodes", type=cli.positive, help="games to sample with each mark"
  )
  kind.add_argument(
    "--exhaustive",
    action="store_true",
    help="play every line there is, greedily, for exact results",
  )
  parser.add_argument("--opponent", help="in place of play.opponent")
  cli.add_play(parser)
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="JSONL of games to write; a summary is written beside it",
  )
  arguments = parser.parse_args()
  if arguments.exhaustive and arguments.opponent:
    parser.error("--exhaustive plays against every opponent; leave --opponent")
  return arguments


def main() -> None:
  """Parses the flags, plays and writes."""
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

  from tunix_ttt.evaluate import game_files
  from tunix_ttt.evaluate import matches
  from tunix_ttt.train import base_model

  game_files.check_absent(flags.output)
  model = base_model.load(flags.model, config)
  seed = config.seed if flags.seed is None else flags.seed
  first = None
  if flags.exhaustive:
    played = list(matches.play_all_lines(model, config))
    first = matches.sample(model, config, seed)
  else:
    played = list(matches.play_games(model, config, seed))
  matches.write(flags.output, played, model, flags.model, config, first)
  print(matches.table(played))
  summary = game_files.summary_path(flags.output)
  print(f"games: {flags.output}; summary: {summary}")


if __name__ == "__main__":
  cli.run(main)
