"""Builds a version of a dataset, which never changes, and exports it."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import files
from tunix_ttt.data import rows
from tunix_ttt.data import versions


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/build_dataset.py --name games --version v1 --from"
    " games.jsonl --filter outcome=win --limit 5000",
  )
  parser.add_argument("--name", required=True, help="of the dataset")
  parser.add_argument(
    "--version", required=True, help="of the dataset, which never changes"
  )
  parser.add_argument(
    "--from",
    dest="sources",
    nargs="+",
    metavar="FILE",
    help="files, built datasets or hub ids; without, the version is exported",
  )
  parser.add_argument("--split", default="train", help="of hub ids")
  parser.add_argument(
    "--filter",
    type=_assignment,
    nargs="+",
    action="extend",
    default=[],
    metavar="KEY=VALUE",
    help="take rows with this field alone; a.b is b within a",
  )
  parser.add_argument("--limit", type=cli.positive, help="rows at the most")
  parser.add_argument(
    "--strategy",
    choices=["latest", "random"],
    default="latest",
    help="which rows, where there are more",
  )
  parser.add_argument("--seed", type=cli.seed, default=0, help="of random")
  parser.add_argument(
    "--root", type=pathlib.Path, default="datasets", help="of all datasets"
  )
  cli.add_skip_bad_rows(parser)
  parser.add_argument(
    "--export", type=pathlib.Path, metavar="FILE", help="JSONL to write"
  )
  parser.add_argument(
    "--format", choices=[*rows.FORMATS], help="of the exported rows"
  )
  flags = parser.parse_args()
  if (flags.export is None) != (flags.format is None):
    parser.error("--export and --format go together")
  if flags.sources is None and flags.export is None:
    parser.error("give --from to build a version, or --export one that exists")
  return flags


def _assignment(text: str) -> tuple[str, str]:
  key, separator, value = text.partition("=")
  if not key or not separator:
    raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
  return key, value


def main() -> None:
  """Parses the flags, builds and exports."""
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
    built = versions.build(
      flags.root,
      flags.name,
      flags.version,
      flags.sources,
      choice,
      split=flags.split,
      skip_bad_rows=flags.skip_bad_rows,
    )
    counts = ", ".join(
      f"{k.replace('_', ' ')} {n:,}" for k, n in built.counts.items()
    )
    print(f"{place}: {built.rows:,} rows ({counts})")
  if flags.export is not None:
    rows = versions.export(place, flags.export, flags.format)
    print(f"{flags.export}: {rows:,} rows")


if __name__ == "__main__":
  cli.run(main)
