"""Trains a model on preference pairs with DPO or ORPO, with Tunix."""

import argparse

from tunix_ttt import cli


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
  cli.train("dpo", _parse())


if __name__ == "__main__":
  cli.run(main)
