"""Fine-tunes a model on games or on a JSONL file, through Tunix."""

import argparse
import functools

from tunix_ttt import cli
from tunix_ttt import config as config_lib


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
  if cli.described(flags, config):
    return

  from tunix_ttt.train import sft

  cli.train(
    flags,
    functools.partial(sft.train, config),
    functools.partial(sft.resume, config),
  )


if __name__ == "__main__":
  cli.run(main)
