"""Compares runs: differing settings, final results and training curves."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import errors
from tunix_ttt import files


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/compare.py RUN_A RUN_B --output comparison.html",
  )
  parser.add_argument(
    "runs",
    type=pathlib.Path,
    nargs="+",
    metavar="RUN",
    help="run directories, two or more",
  )
  parser.add_argument(
    "--output", type=pathlib.Path, help="HTML page to write, with curves"
  )
  parser.add_argument(
    "--plots",
    type=pathlib.Path,
    help="directory to create for the curves, as SVG and PNG",
  )
  flags = parser.parse_args()
  if len(flags.runs) < 2:
    parser.error("give two runs or more to compare")
  if flags.plots is not None and flags.output is None:
    parser.error("--plots needs --output")
  return flags


def main() -> None:
  """Prints the comparison and writes its page."""
  flags = _parse()
  for path in (flags.output, flags.plots):
    if path is not None:
      files.check_output(path)
  if flags.output is not None and flags.output.suffix != ".html":
    raise errors.UserError(
      f"--output {flags.output}: the output is a page; give a name in .html"
    )

  # Imported lazily: pulls in Matplotlib and JAX.
  from tunix_ttt.report import comparison

  runs = comparison.read(flags.runs)
  names = [run.name for run in runs]
  print(comparison.table(comparison.outcomes(runs), names) + "\n")
  differences = comparison.differences(runs)
  if differences:
    print(comparison.table(differences, names))
  else:
    print("no setting differs")
  if flags.output is not None:
    comparison.write(runs, flags.output, flags.plots)
    print(f"page: {flags.output}")


if __name__ == "__main__":
  cli.run(main)
