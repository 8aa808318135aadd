"""Improves a model by playing whole games with GRPO, through Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import config as config_lib


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_grpo_tunix.py --config configs/grpo_tiny.yaml"
    " --model RUN/checkpoint-final",
  )
  cli.add_config(parser)
  cli.add_start(parser)
  cli.add_data(parser, "of prompts to ask instead of whole games")
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  source = "prompts" if flags.data is not None else None
  settings = cli.settings_of_run(flags, episodes__source=source)
  config = config_lib.load(config_lib.GRPOConfig, flags.config, settings)
  cli.require_tunix()
  if cli.described(flags, config):
    return

  from tunix_ttt import recipes

  cli.train(flags, config, recipes.train_grpo)


if __name__ == "__main__":
  cli.run(main)
