"""Fine-tunes a model on games or on a JSONL file, through Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import config as config_lib


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_sft_tunix.py --config configs/sft_tiny.yaml",
  )
  cli.add_config(parser)
  cli.add_data(parser, "to train on")
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  settings = cli.settings_of_run(flags)
  config = config_lib.load(config_lib.SFTConfig, flags.config, settings)
  cli.require_tunix()
  if cli.described(flags, config):
    return

  from tunix_ttt import recipes

  cli.train(flags, config, recipes.train_sft)


if __name__ == "__main__":
  cli.run(main)
