"""Trains a model on preference pairs with DPO or ORPO, through Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import config as config_lib


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_dpo_tunix.py --config configs/dpo_tiny.yaml"
    " --model RUN/checkpoint-final --data pairs.jsonl",
  )
  cli.add_config(parser)
  cli.add_start(parser)
  cli.add_data(parser, "of preference pairs")
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  settings = cli.settings_of_run(flags)
  config = config_lib.load(config_lib.DPOConfig, flags.config, settings)
  cli.require_tunix()
  if cli.described(flags, config):
    return

  from tunix_ttt import recipes

  cli.train(flags, config, recipes.train_dpo)


if __name__ == "__main__":
  cli.run(main)
