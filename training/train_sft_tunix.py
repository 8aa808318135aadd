"""Fine-tunes a model on generated games or a dataset, with Tunix."""

import argparse

from tunix_ttt import cli
from tunix_ttt import train_command


def _parse() -> argparse.Namespace:
  return train_command.parse(
    __doc__ or "",
    "python training/train_sft_tunix.py --config configs/sft_tiny.yaml",
    data="to train on",
    has_start=False,
  )


def main() -> None:
  """Parses the flags and trains."""
  train_command.train("sft", _parse())


if __name__ == "__main__":
  cli.run(main)
