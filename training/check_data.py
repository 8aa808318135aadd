"""Describes a data file and grades its moves by the solver."""

import argparse
from collections.abc import Iterator
import dataclasses
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.text import chat


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/check_data.py games.jsonl --evalset"
    " evalsets/tictactoe_v1.jsonl --symmetry",
  )
  parser.add_argument("file", help="file, built dataset or hub id")
  parser.add_argument("--split", default="train", help="split of a hub dataset")
  parser.add_argument(
    "--format",
    choices=["auto", *row_formats.FORMATS],
    default="auto",
    help="format of the rows; auto detects it row by row",
  )
  cli.add_skip_bad_rows(parser)
  cli.add_config(parser, required=False)
  cli.add_game(parser)
  parser.add_argument(
    "--tokenizer", metavar="MODEL", help="count the tokens of this model"
  )
  parser.add_argument(
    "--evalset", type=pathlib.Path, help="evalset to look for in the rows"
  )
  parser.add_argument(
    "--symmetry",
    action="store_true",
    help="count rotated and reflected boards of the evalset, too",
  )
  parser.add_argument("--json", type=pathlib.Path, help="JSON report to write")
  flags = parser.parse_args()
  if flags.config is not None and flags.tokenizer is not None:
    parser.error("--config names a tokenizer already; leave --tokenizer out")
  return flags


def _tokenizer(
  config: config_lib.SFTConfig, rows: reading.Rows, flags: argparse.Namespace
) -> chat.ChatTokenizer:
  cli.require_tunix()

  from tunix_ttt.train import reference_log_probs

  def all_samples() -> Iterator[row_formats.Sample]:
    faults, count = reading.Faults(rows.path), 0
    for _, _, samples in reading.read(
      rows, lambda row: row_formats.parse_row(row, flags.format), faults
    ):
      yield from samples
      count += len(samples)
    faults.check(count, skip_bad_rows=flags.skip_bad_rows)

  return reference_log_probs.tokenizer(config, all_samples())


def main() -> None:
  """Parses the flags, checks the file and prints the report."""
  flags = _parse()
  if flags.json is not None:
    files.check_output(flags.json)
  rows = reading.find(flags.file, flags.split)
  # Imported lazily: pulls in JAX.
  from tunix_ttt.data import checks
  from tunix_ttt.evaluate import evalsets
  from tunix_ttt.games import catalog

  leakage, tokenizer, limit = None, None, None
  game, config = config_lib.GameConfig(name=flags.game), None
  if flags.config is not None:
    config = config_lib.load_any(flags.config, flags.set)
    game = config.game
  reader = catalog.load_config(game).reader
  if flags.evalset is not None:
    items = evalsets.load(flags.evalset, game)
    leakage = checks.Leakage(
      [item.board for item in items if item.board],
      [item.prompt for item in items if not item.board],
      reader,
      symmetric=flags.symmetry,
    )
  if config is not None:
    tokenizer = _tokenizer(config, rows, flags)
    limit = config.data.max_seq_length
  elif flags.tokenizer is not None:
    model = config_lib.ModelConfig(name=flags.tokenizer)
    config = dataclasses.replace(config_lib.SFTConfig(), model=model)
    tokenizer = _tokenizer(config, rows, flags)
  report = checks.check(
    rows,
    reader,
    data_format=flags.format,
    skip_bad_rows=flags.skip_bad_rows,
    tokenizer=tokenizer,
    max_seq_length=limit,
    leakage=leakage,
  )
  print(checks.table(report))
  if flags.json is not None:
    files.write_text(flags.json, files.to_json(report) + "\n")


if __name__ == "__main__":
  cli.run(main)
