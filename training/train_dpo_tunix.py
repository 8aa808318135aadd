"""Trains a model on preference pairs with DPO or ORPO, with Tunix."""

import argparse

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  return cli.parse_training(
    __doc__ or "",
    "python training/train_dpo_tunix.py --config configs/dpo_tiny.yaml"
    " --model RUN/checkpoint-final --data pairs.jsonl",
    data="of preference pairs",
  )


def main() -> None:
  """Parses the flags and trains."""
  cli.train("dpo", _parse())


if __name__ == "__main__":
  cli.run(main)
