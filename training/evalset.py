"""Checks evalsets, or writes the evalset of tic-tac-toe positions."""

import argparse
import collections
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.evaluate import evalsets
from tunix_ttt.games import position_reader


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/evalset.py validate evalsets/tictactoe_v1.jsonl",
  )
  commands = parser.add_subparsers(dest="command", required=True)
  validate = commands.add_parser("validate", help="check evalsets")
  validate.add_argument(
    "files", type=pathlib.Path, nargs="+", help="JSONL of questions"
  )
  cli.add_game(validate)
  make = commands.add_parser(
    "make-tictactoe",
    help="write one position for each class of symmetric positions",
  )
  make.add_argument(
    "--output", type=pathlib.Path, required=True, help="JSONL to write"
  )
  make.add_argument(
    "--seed",
    type=cli.seed,
    default=0,
    help="random seed that chooses the positions",
  )
  return parser.parse_args()


def main() -> None:
  """Checks or writes evalsets."""
  flags = _parse()
  if flags.command == "make-tictactoe":
    files.check_output(flags.output)
    game = config_lib.GameConfig(name="tictactoe")
    rows = position_reader.of(game, flags.command).evalset_rows(flags.seed)
    text = "".join(files.to_json(row) + "\n" for row in rows)
    files.write_text(flags.output, text)
    flags.files = [flags.output]
  else:
    game = config_lib.GameConfig(name=flags.game)
  for path in flags.files:
    sections = collections.Counter(i.section for i in evalsets.load(path, game))
    counts = ", ".join(f"{name} {n}" for name, n in sections.items())
    print(f"{path}: {sections.total()} items ({counts})")


if __name__ == "__main__":
  cli.run(main)
