"""Trains a model with GRPO on games that it plays, on a Tinker-compatible service."""

import argparse

from tunix_ttt import cli
from tunix_ttt import train_command


def _parse() -> argparse.Namespace:
  return train_command.parse(
    __doc__ or "",
    "python training/train_grpo_tinker.py --config configs/grpo_tinker.yaml"
    " --train-steps 20",
    data="of prompts that replace whole games",
    backends=("tinker",),
  )


def main() -> None:
  """Parses the flags and trains."""
  train_command.train("grpo", _parse())


if __name__ == "__main__":
  cli.run(main)
