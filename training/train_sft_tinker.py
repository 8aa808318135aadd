"""Trains a model with supervised fine-tuning, on a Tinker-compatible service."""

import argparse

from tunix_ttt import cli
from tunix_ttt import train_command


def _parse() -> argparse.Namespace:
  return train_command.parse(
    __doc__ or "",
    "python training/train_sft_tinker.py --config configs/sft_tinker.yaml"
    " --train-steps 20",
    data="to train on",
    has_start=False,
    backends=("tinker",),
  )


def main() -> None:
  """Parses the flags and trains."""
  train_command.train("sft", _parse())


if __name__ == "__main__":
  cli.run(main)
