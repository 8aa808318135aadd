"""Builds a version of a dataset, which never changes, and exports it."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import files
from tunix_ttt.data import row_formats
from tunix_ttt.data import versions


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/build_dataset.py --name games --version v1 --from"
    " games.jsonl --filter outcome=win --limit 5000",
  )
  add = parser.add_argument
  add("--name", required=True, help="name of the dataset")
  add("--version", required=True, help="version of the dataset")
  add(
    "--from",
    dest="sources",
    nargs="+",
    metavar="FILE",
    help="files, built datasets or hub ids; omit to export an existing version",
  )
  add("--split", default="train", help="split of hub datasets")
  add(
    "--filter",
    type=_assignment,
    nargs="+",
    action="extend",
    default=[],
    metavar="KEY=VALUE",
    help="take only rows with this field, of their own or in their metadata;"
    " a.b is the field b within a",
  )
  add("--limit", type=cli.positive, help="maximum number of rows")
  add(
    "--strategy",
    choices=["latest", "random"],
    default="latest",
    help="rows to take if there are more than --limit",
  )
  add(
    "--seed",
    type=cli.seed,
    default=0,
    help="random seed of the strategy random",
  )
  add(
    "--root",
    type=pathlib.Path,
    default="datasets",
    help="directory of all datasets",
  )
  cli.add_skip_bad_rows(parser)
  add("--export", type=pathlib.Path, metavar="FILE", help="JSONL to write")
  add(
    "--format",
    choices=[*row_formats.FORMATS],
    help="format of the exported rows",
  )
  flags = parser.parse_args()
  if (flags.export is None) != (flags.format is None):
    parser.error("--export and --format go together")
  if flags.sources is None and flags.export is None:
    parser.error("give --from to build a version, or --export to export one")
  return flags


def _assignment(text: str) -> tuple[str, str]:
  key, separator, value = text.partition("=")
  if not key or not separator:
    raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
  return key, value


def main() -> None:
  """Parses the flags, then builds and exports."""
  flags = _parse()
  place = versions.directory(flags.root, flags.name, flags.version)
  if flags.export is not None:
    files.check_output(flags.export)
  if flags.sources is not None:
    choice = versions.Choice(
      filters=dict(flags.filter),
      limit=flags.limit,
      strategy=flags.strategy,
      seed=flags.seed,
    )
    manifest = versions.build(
      flags.root,
      flags.name,
      flags.version,
      flags.sources,
      choice,
      split=flags.split,
      skip_bad_rows=flags.skip_bad_rows,
    )
    counts = ", ".join(
      f"{k.replace('_', ' ')} {n:,}" for k, n in manifest.counts.items()
    )
    print(f"{place}: {manifest.rows:,} rows ({counts})")
  if flags.export is not None:
    num_rows = versions.export(place, flags.export, flags.format)
    print(f"{flags.export}: {num_rows:,} rows")


if __name__ == "__main__":
  cli.run(main)
