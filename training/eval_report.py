"""Writes the report of a run, or of two models' answers.

`--output report.md` compares answers before and after training in Markdown, and
writes the whole report as report.html, a page that needs no network.
"""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import run_directory


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_report.py --run RUN --before eval_before.jsonl"
    " --after eval_after.jsonl --output report.md",
  )
  for flag, text in (
    ("--before", "the first model's answers, from eval_generate.py"),
    ("--after", "the second model's answers, from eval_generate.py"),
    ("--run", "run directory to report on"),
    ("--games-before", "games of the first model, from eval_play.py or a run"),
    (
      "--games-after",
      "games of the second model; by default those in the run's directory",
    ),
    ("--plots", "directory to create for the figures, as SVG and PNG"),
  ):
    parser.add_argument(flag, type=pathlib.Path, help=text)
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="Markdown to write, or .html for the page alone",
  )
  flags = parser.parse_args()
  if (flags.before is None) != (flags.after is None):
    parser.error("--before and --after go together")
  if flags.run is None and flags.before is None and flags.games_after is None:
    parser.error(
      "nothing to report; give --run, --before and --after, or --games-after"
    )
  return flags


def main() -> None:
  """Writes the report and prints a table of changes."""
  flags = _parse()
  output = flags.output.with_suffix(".html")
  is_markdown = flags.output != output
  if is_markdown and flags.before is None:
    raise errors.UserError(
      f"--output {flags.output}: Markdown needs answers before and after; give"
      f" --before and --after, or --output {output}"
    )
  for path in (flags.output, output, flags.plots):
    if path is not None:
      files.check_output(path)

  # Imported lazily: pulls in Matplotlib and JAX.
  from tunix_ttt.report import delta_report
  from tunix_ttt.report import result_tables
  from tunix_ttt.report import run_page

  answers = None if flags.before is None else (flags.before, flags.after)
  material = run_page.collect(
    flags.run,
    answers=answers,
    games_before=flags.games_before,
    games_after=flags.games_after,
  )
  run_page.write(material, output, flags.plots)
  print(material.sentence)
  if is_markdown:
    delta_report.write(material.pairs, flags.output, material.sentence)
    print(f"report: {flags.output}")
  print(f"page: {output}")
  if table := result_tables.change_table(material.changes):
    print(table)
  if flags.run is not None:
    model = flags.run / run_directory.FINAL_CHECKPOINT
    print(f"play: {cli.command('play.py', '--model', str(model))}")


if __name__ == "__main__":
  cli.run(main)
