"""Fine-tunes a model on games or on a JSONL file, through Tunix."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files


def _resume(text: str) -> int | str:
  return text if text == "latest" else cli.count(text)


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_sft_tunix.py --config configs/sft_tiny.yaml",
  )
  cli.add_config(parser)
  parser.add_argument(
    "--data", help="JSONL file to train on, in place of data.path"
  )
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    help="run directory to make; one under artifacts/training_runs if not given",
  )
  parser.add_argument(
    "--max-samples", type=cli.positive, help="use this many rows at the most"
  )
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="check config, data and model, say what would be run, write nothing",
  )
  parser.add_argument(
    "--resume",
    type=_resume,
    metavar="latest|STEP",
    help="go on with the run in --output from its latest or this checkpoint",
  )
  arguments = parser.parse_args()
  if arguments.resume is not None and arguments.output is None:
    parser.error("--resume needs --output, the run directory to go on with")
  return arguments


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  settings = cli.overrides(
    flags.set, data__path=flags.data, data__max_samples=flags.max_samples
  )
  config = config_lib.load(config_lib.SFTConfig, flags.config, settings)
  cli.require_tunix()

  from tunix_ttt.train import sft

  if flags.dry_run:
    if flags.output is not None and flags.resume is None:
      files.check_absent(flags.output)
    print(sft.plan(config).summary())
    return
  if flags.resume is None:
    run = sft.train(config, flags.output)
  else:
    step = None if flags.resume == "latest" else flags.resume
    run = sft.resume(config, flags.output, step)
  print(f"trained model: {run / 'checkpoint-final'}")


if __name__ == "__main__":
  cli.run(main)
