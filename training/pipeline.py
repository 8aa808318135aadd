"""Runs SFT, DPO and GRPO in sequence, and resumes an interrupted pipeline."""

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
    help="directory to create, or a directory of the same pipeline to resume",
  )
  return parser.parse_args()


def main() -> None:
  """Runs the stages that are not finished."""
  flags = _parse()
  interrupts.resume_command = lambda run: cli.same_command()
  config = config_lib.load(config_lib.PipelineConfig, flags.config, flags.set)
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import pipeline

  pipeline.run(config, flags.output)
  print(f"pipeline: {flags.output / pipeline.MANIFEST}")


if __name__ == "__main__":
  cli.run(main)
