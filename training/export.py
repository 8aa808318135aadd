"""Writes a trained model as PEFT or transformers read it, and may publish it."""

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
    "--output", type=pathlib.Path, required=True, help="directory to make"
  )
  cli.add_base(parser)
  parser.add_argument(
    "--merge",
    action="store_true",
    help="write adapters and their base as one; else they are alone, for PEFT",
  )
  parser.add_argument(
    "--evaluation",
    type=pathlib.Path,
    help="summary of games for the card, in place of those beside the run",
  )
  parser.add_argument(
    "--max-shard-size",
    type=cli.byte_size,
    default="4GB",
    help="of a weight file of a whole model",
  )
  parser.add_argument(
    "--push-to-hub",
    metavar="REPO",
    help="repository to make of it on the Hugging Face hub, by HF_TOKEN or the"
    " hub's login; nothing is sent without this",
  )
  private = "hide that repository from others"
  parser.add_argument("--private", action="store_true", help=private)
  parser.add_argument(
    "--dry-run", action="store_true", help="say what would be written, no more"
  )
  flags = parser.parse_args()
  if flags.private and not flags.push_to_hub:
    parser.error("--private says something of --push-to-hub; give it as well")
  return flags


def main() -> None:
  """Parses the flags, writes and publishes."""
  flags = _parse()
  files.check_output(flags.output)
  cli.require_tunix()

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
    export_lib.check_public(export.model)
  if flags.dry_run:
    for file, size in export.sizes().items():
      print(f"would write {flags.output / file}: {size:,} bytes")
    if repository:
      kind = "private" if flags.private else "public"
      print(f"would upload them to {repository}, a new {kind} repository")
    return
  export.write(flags.output)
  print(f"written: {flags.output}")
  if repository:
    address = client.publish(flags.output, repository, private=flags.private)
    print(f"published: {address}")


if __name__ == "__main__":
  cli.run(main)
