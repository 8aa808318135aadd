"""Describes this machine: devices, speed, what fits, and what to set."""

import argparse

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  return cli.parser(__doc__ or "", "python training/doctor.py").parse_args()


def main() -> None:
  """Measures and prints."""
  _parse()
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import doctor

  for line in doctor.report():
    print(line, flush=True)


if __name__ == "__main__":
  cli.run(main)
