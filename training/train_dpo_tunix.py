"""Trains a model on preference pairs with DPO or ORPO, through Tunix."""

import argparse
import functools

from tunix_ttt import cli
from tunix_ttt import config as config_lib


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_dpo_tunix.py --config configs/dpo_tiny.yaml"
    " --model RUN/checkpoint-final --data pairs.jsonl",
  )
  cli.add_config(parser)
  parser.add_argument(
    "--model",
    default="base",
    help="checkpoint to start from, or base for the config's model.name",
  )
  parser.add_argument(
    "--data", help="JSONL file of pairs, in place of data.path"
  )
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  name = None if flags.model == "base" else flags.model
  settings = cli.overrides(flags.set, model__name=name, data__path=flags.data)
  config = config_lib.load(config_lib.DPOConfig, flags.config, settings)
  cli.require_tunix()
  if cli.described(flags, config):
    return

  from tunix_ttt.train import dpo

  cli.train(
    flags,
    functools.partial(dpo.train, config),
    functools.partial(dpo.resume, config),
  )


if __name__ == "__main__":
  cli.run(main)
