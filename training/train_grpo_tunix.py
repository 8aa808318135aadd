"""Improves a model by playing whole games with GRPO, through Tunix."""

import argparse
import functools

from tunix_ttt import cli
from tunix_ttt import config as config_lib


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_grpo_tunix.py --config configs/grpo_tiny.yaml"
    " --model RUN/checkpoint-final",
  )
  cli.add_config(parser)
  parser.add_argument(
    "--model",
    default="base",
    help="checkpoint to start from, or base for the config's model.name",
  )
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  flags = _parse()
  name = None if flags.model == "base" else flags.model
  settings = cli.overrides(flags.set, model__name=name)
  config = config_lib.load(config_lib.GRPOConfig, flags.config, settings)
  cli.require_tunix()
  if cli.described(flags, config):
    return

  from tunix_ttt.evaluate import in_training
  from tunix_ttt.train import grpo

  judge = in_training.Evaluator
  cli.train(
    flags,
    functools.partial(grpo.train, config, judge),
    functools.partial(grpo.resume, config, judge),
  )


if __name__ == "__main__":
  cli.run(main)
