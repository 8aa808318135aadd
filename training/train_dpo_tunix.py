"""Trains a model on preference pairs with DPO or ORPO, with Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import train_command


def _parse() -> argparse.Namespace:
  return train_command.parse(
    __doc__ or "",
    "python training/train_dpo_tunix.py --config configs/dpo_tiny.yaml"
    " --model RUN/checkpoint-final --data pairs.jsonl",
    data="of preference pairs",
    backends=("local",),
  )


def main() -> None:
  """Parses the flags and trains."""
  train_command.train("dpo", _parse())


if __name__ == "__main__":
  cli.run(main)
