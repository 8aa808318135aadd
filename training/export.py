"""Exports a trained model for PEFT or transformers, and can publish it."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import files


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/export.py --model RUN/checkpoint-final --output adapter",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="a checkpoint such as RUN/checkpoint-final, or any model directory",
  )
  parser.add_argument(
    "--output", type=pathlib.Path, required=True, help="directory to create"
  )
  cli.add_base(parser)
  parser.add_argument(
    "--merge",
    action="store_true",
    help="merge an adapter into its base model, instead of an adapter for PEFT",
  )
  parser.add_argument(
    "--evaluation",
    type=pathlib.Path,
    help="summary of games for the model card, in place of the run's summaries",
  )
  parser.add_argument(
    "--max-shard-size",
    type=_byte_size,
    default="4GB",
    help="maximum size of a weight file of a whole model",
  )
  parser.add_argument(
    "--push-to-hub",
    metavar="REPO",
    help="repository to create on the Hugging Face hub, with HF_TOKEN or the"
    " hub's login; without this flag nothing is uploaded",
  )
  parser.add_argument(
    "--private", action="store_true", help="make the repository private"
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="list the files without writing them"
  )
  flags = parser.parse_args()
  if flags.private and not flags.push_to_hub:
    parser.error("--private needs --push-to-hub")
  return flags


def _byte_size(text: str) -> int:
  """Parses a size such as 4GB or 500MB into bytes."""
  units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
  number, unit = text[:-2], text[-2:].upper()
  if unit not in units or not number.isdecimal() or int(number) < 1:
    raise argparse.ArgumentTypeError(
      f"expected a size such as 4GB or 500MB, found {text}"
    )
  return int(number) * units[unit]


def main() -> None:
  """Exports the model and publishes it if asked."""
  flags = _parse()
  files.check_output(flags.output)
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import recipes
  from tunix_ttt.models.hub import client
  from tunix_ttt.models.hub import hub_export as export_lib

  repository = flags.push_to_hub
  if repository:
    client.check_new_name(repository)
  export = recipes.prepare(
    flags.model,
    repository or flags.output.absolute().name,
    base=flags.base,
    merge=flags.merge,
    max_shard_size=flags.max_shard_size,
    evaluation=flags.evaluation,
  )
  if repository:
    export_lib.check_public(export)
  if flags.dry_run:
    for file, size in export.sizes().items():
      print(f"would write {flags.output / file}: {size:,} bytes")
    if repository:
      kind = "private" if flags.private else "public"
      print(f"would upload them to {repository}, a new {kind} repository")
    return
  export_lib.write(export, flags.output)
  print(f"written: {flags.output}")
  if repository:
    address = client.publish(flags.output, repository, private=flags.private)
    print(f"published: {address}")


if __name__ == "__main__":
  cli.run(main)
