"""Trains a model with GRPO on games that it plays, with Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import train_command


def _parse() -> argparse.Namespace:
  return train_command.parse(
    __doc__ or "",
    "python training/train_grpo_tunix.py --config configs/grpo_tiny.yaml"
    " --model RUN/checkpoint-final",
    data="of prompts that replace whole games",
  )


def main() -> None:
  """Parses the flags and trains."""
  train_command.train("grpo", _parse())


if __name__ == "__main__":
  cli.run(main)
