"""Compares the answers of two models to the same evalset."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt.evaluate import report


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_report.py --before eval_before.jsonl --after"
    " eval_after.jsonl --output delta_report.md",
  )
  for name, text in (("before", "first"), ("after", "second")):
    parser.add_argument(
      f"--{name}",
      type=pathlib.Path,
      required=True,
      help=f"the {text} model's answers, from eval_generate.py",
    )
  parser.add_argument(
    "--output", type=pathlib.Path, required=True, help="Markdown to write"
  )
  return parser.parse_args()


def main() -> None:
  """Parses the flags, compares and writes."""
  flags = _parse()
  overall = report.write(flags.before, flags.after, flags.output)
  print(
    f"score before {overall.before:.3f}, after {overall.after:.3f}"
    f" ({overall.change:+.3f}, 95% CI {overall.low:+.3f} to"
    f" {overall.high:+.3f})\nreport: {flags.output}"
  )


if __name__ == "__main__":
  cli.run(main)
