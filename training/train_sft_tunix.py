"""Fine-tunes a model on generated games or a dataset, with Tunix."""

import argparse

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/train_sft_tunix.py --config configs/sft_tiny.yaml",
  )
  cli.add_config(parser)
  cli.add_data(parser, "to train on")
  cli.add_run(parser)
  return cli.parse_run(parser)


def main() -> None:
  """Parses the flags and trains."""
  cli.train("sft", _parse())


if __name__ == "__main__":
  cli.run(main)
