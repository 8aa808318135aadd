"""Compares runs: differing settings, outcomes and training curves."""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.report import plots
from tunix_ttt.report import run_page
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest


class Run(NamedTuple):
  """A run in a comparison, with a unique name and its final results by mark."""

  name: str
  manifest: run_manifest.RunManifest
  metrics: Sequence[dict[str, Any]]
  sides: dict[str, game_files.Side]


def read(directories: Sequence[pathlib.Path]) -> list[Run]:
  """Reads runs; a run is named by its path if its directory name is not unique.

  Raises:
    errors.UserError: If a directory is not a run, or is given twice.
  """
  resolved = [path.resolve() for path in directories]
  for path in resolved:
    if resolved.count(path) > 1:
      raise errors.UserError(f"{path}: given twice; give different runs")
  names = [path.name for path in resolved]
  runs = []
  for path, directory in zip(resolved, directories, strict=True):
    name = path.name if names.count(path.name) == 1 else str(directory)
    manifest = run_manifest.RunManifest.read(path)
    manifest.check_files(path)
    metrics = run_directory.read_metrics(path)
    sides = game_files.sides_of_evaluation(metrics, -1)
    if (path / run_directory.GAMES_SUMMARY).exists():
      summary = game_files.read_summary(path / run_directory.GAMES_SUMMARY)
      sides = game_files.sides_of_summary(summary)
    runs.append(Run(name, manifest, metrics, sides))
  return runs


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
  """Returns the settings that differ, with a value for each run.

  A setting that a recipe does not have is `-`, which is not a difference.
  """
  columns = []
  for run in runs:
    settings = config_lib.flatten(run.manifest.config)
    settings = {"recipe": run.manifest.recipe, **settings}
    columns.append({key: files.to_json(v) for key, v in settings.items()})
  rows = _rows(columns)
  return {k: row for k, row in rows.items() if len(set(row) - {"-"}) > 1}


def outcomes(runs: Sequence[Run]) -> dict[str, list[str]]:
  """Returns final results, with a value for each run; `-` if unknown."""
  columns = []
  for run in runs:
    column = {}
    for mark, side in run.sides.items():
      if side.lines_lost is not None:
        column[f"lines lost as {mark}"] = str(side.lines_lost)
      for opponent, rates in side.against.items():
        shares = [rates[f"{name}_rate"] for name in ("win", "draw", "loss")]
        shares.append(game_files.no_move_rate(rates))
        text = " / ".join(f"{100 * share:.2f}" for share in shares)
        column[f"as {mark} against {opponent}, %"] = text
      for opponent, value in side.returns.items():
        column[f"mean return as {mark}, {opponent}"] = f"{value:.4f}"
      if side.optimal_move_rate is not None:
        share = f"{100 * side.optimal_move_rate:.2f}"
        column[f"optimal moves as {mark}, %"] = share
      if side.thought_true_rate is not None:
        share = f"{100 * side.thought_true_rate:.2f}"
        column[f"true thoughts as {mark}, %"] = share
      if side.thought_no_claim_rate is not None:
        share = f"{100 * side.thought_no_claim_rate:.2f}"
        column[f"thoughts without a claim as {mark}, %"] = share
    for key, value in run.manifest.final_metrics.items():
      if key.endswith(("/loss", "/score")):
        column[key] = f"{value:.4f}"
    steps = [row["step"] for row in run.metrics]
    column["steps"] = str(max(steps, default=0))
    seconds = [row["seconds"] for row in run.metrics if "seconds" in row]
    if seconds:
      column["seconds of training"] = f"{seconds[-1]:.0f}"
    columns.append(column)
  return _rows(columns)


def _rows(columns: Sequence[dict[str, str]]) -> dict[str, list[str]]:
  keys = dict.fromkeys(key for column in columns for key in column)
  return {key: [column.get(key, "-") for column in columns] for key in keys}


def curves(runs: Sequence[Run]) -> list[plots.Panel]:
  """Returns the curves that several runs have, with a line for each run."""
  by_name: dict[str, tuple[plots.Panel, dict[str, dict[str, plots.Line]]]] = {}
  for run in runs:
    for panel in plots.panels(run.metrics):
      _, labels = by_name.setdefault(panel.name, (panel, {}))
      for label, line in panel.lines.items():
        labels.setdefault(label, {})[run.name] = line
  return [
    plots.Panel(
      f"{name}_{label}".replace(" ", "_"),
      f"{panel.title}: {label}" if len(labels) > 1 else panel.title,
      lines,
      panel.share,
    )
    for name, (panel, labels) in by_name.items()
    for label, lines in labels.items()
    if len(lines) > 1
  ]


def table(rows: dict[str, list[str]], names: Sequence[str]) -> str:
  """Formats labeled rows of a value for each run as aligned lines of text."""
  lines = [["", *names], *([label, *values] for label, values in rows.items())]
  width, *widths = (
    max(map(len, column)) for column in zip(*lines, strict=True)
  )
  return "\n".join(
    "  ".join((label.ljust(width), *map(str.rjust, values, widths))).rstrip()
    for label, *values in lines
  )


def write(
  runs: Sequence[Run],
  output: pathlib.Path,
  plots_to: pathlib.Path | None = None,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  run_page.write_page(
    output,
    "comparison.html",
    {"figures": {panel.name: plots.curves(panel) for panel in curves(runs)}},
    plots_to,
    title=f"{len(runs)} runs",
    runs=runs,
    differences=differences(runs),
    outcomes=outcomes(runs),
    is_exact=all(
      side.lines_lost is not None for run in runs for side in run.sides.values()
    ),
  )
