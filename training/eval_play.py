"""Lets a model play whole games, and says exactly how good it is."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_play.py --model RUN/checkpoint-final --config"
    " configs/sft_tiny.yaml --exhaustive --output episodes.jsonl",
  )
  cli.add_model(parser)
  cli.add_config(parser)
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
  config = config_lib.load_any(flags.config, settings)
  summary = flags.output.with_suffix(".summary.json")
  files.check_absent(flags.output)
  files.check_absent(summary)
  cli.require_tunix()

  from tunix_ttt.evaluate import matches
  from tunix_ttt.evaluate import models

  model = models.load(flags.model, config)
  if flags.exhaustive:
    played = list(matches.play_all_lines(model, config))
  else:
    seed = config.seed if flags.seed is None else flags.seed
    played = list(matches.play_games(model, config, seed))
  matches.write(played, model, flags.output)
  results = matches.summary(played, flags.model, config)
  files.write_text(summary, files.to_json(results) + "\n")
  print(matches.table(played))
  print(f"games: {flags.output}; summary: {summary}")


if __name__ == "__main__":
  cli.run(main)
