"""Trains a model on preference pairs with DPO or ORPO, through Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files


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
  if flags.dry_run:
    if flags.output is not None and flags.resume is None:
      files.check_absent(flags.output)
    from tunix_ttt.train import dry_run

    print(dry_run.describe(config))
    return

  from tunix_ttt.train import dpo

  if flags.resume is None:
    run = dpo.train(config, flags.output)
  else:
    step = None if flags.resume == "latest" else flags.resume
    run = dpo.resume(config, flags.output, step)
  print(f"trained model: {run / 'checkpoint-final'}")


if __name__ == "__main__":
  cli.run(main)
