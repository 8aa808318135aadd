"""Fine-tunes a model on games or on a JSONL file, through Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_sft_tunix.py --config configs/sft_tiny.yaml",
  )
  cli.add_config(parser)
  parser.add_argument(
    "--data",
    help="file, built dataset or hub id to train on, in place of data.path",
  )
  cli.add_skip_bad_rows(parser)
  parser.add_argument(
    "--max-samples", type=cli.positive, help="use this many rows at the most"
  )
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  settings = cli.overrides(
    flags.set,
    data__path=flags.data,
    data__max_samples=flags.max_samples,
    data__skip_bad_rows="true" if flags.skip_bad_rows else None,
  )
  config = config_lib.load(config_lib.SFTConfig, flags.config, settings)
  cli.require_tunix()

  if flags.dry_run:
    if flags.output is not None and flags.resume is None:
      files.check_absent(flags.output)
    from tunix_ttt.train import dry_run

    print(dry_run.describe(config))
    return

  from tunix_ttt.train import sft

  if flags.resume is None:
    run = sft.train(config, flags.output)
  else:
    step = None if flags.resume == "latest" else flags.resume
    run = sft.resume(config, flags.output, step)
  print(f"trained model: {run / 'checkpoint-final'}")


if __name__ == "__main__":
  cli.run(main)
