"""Runs SFT, pairs, DPO and GRPO in a row; goes on where it was interrupted."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt.runs import interrupts


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/pipeline.py --config configs/pipeline_tiny.yaml --output"
    " artifacts/pipelines/tiny",
  )
  cli.add_config(parser)
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="directory to make, or of the same pipeline to go on with",
  )
  return parser.parse_args()


def main() -> None:
  """Parses the flags and runs the stages."""
  flags = _parse()
  interrupts.resume_command = lambda run: cli.same_command()
  kind = config_lib.PipelineConfig
  config = config_lib.load(kind, flags.config, flags.set)
  cli.require_tunix()

  from tunix_ttt import pipeline

  pipeline.run(config, flags.output)
  print(f"pipeline: {flags.output / pipeline.MANIFEST}")


if __name__ == "__main__":
  cli.run(main)
