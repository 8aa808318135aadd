"""Compares runs: differing settings, outcomes and training curves."""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.report import html_pages
from tunix_ttt.report import result_tables
from tunix_ttt.report import training_curves
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
  keys = dict.fromkeys(key for column in columns for key in column)
  rows = {key: [column.get(key, "-") for column in columns] for key in keys}
  return {k: row for k, row in rows.items() if len(set(row) - {"-"}) > 1}


def outcomes(runs: Sequence[Run]) -> dict[str, list[str]]:
  """Returns final results, with a value for each run; `-` if unknown.

  Results that hold against any opponent come first, then those against one.
  """
  rows = [
    (row.group, f"as {seat}{row.group and ' '}{row.group}: {row.label}", row)
    for seat, rows in seat_tables(runs).items()
    for row in rows
  ]
  rows.sort(key=lambda row: row[0] != "")
  return {label: row.values for _, label, row in rows} | training(runs)


def seat_tables(runs: Sequence[Run]) -> dict[str, list[result_tables.Row]]:
  """Returns a table of results for each seat, with a column for each run."""
  return result_tables.by_seat([run.sides for run in runs])


def training(runs: Sequence[Run]) -> dict[str, list[str]]:
  """Returns scores, losses and durations, with a value for each run.

  A loss has a row for each recipe, since recipes minimize different losses.
  """
  finals = [run.manifest.final_metrics for run in runs]
  seconds = [
    [row["seconds"] for row in run.metrics if "seconds" in row] for run in runs
  ]
  rows = {
    "score: share of points in games": [
      f"{final['eval/score']:.4f}" if "eval/score" in final else ""
      for final in finals
    ],
    "steps": [
      str(max((row["step"] for row in run.metrics), default=0)) for run in runs
    ],
    "seconds of training": [
      f"{each[-1]:.0f}" if each else "" for each in seconds
    ],
  }
  recipes = [run.manifest.recipe for run in runs]
  for recipe in dict.fromkeys(recipes):
    for split, noun in (("train", "training"), ("eval", "evaluation")):
      key = f"{split}/loss"
      rows[f"{noun} loss of {recipe}"] = [
        f"{final[key]:.4f}" if key in final and each == recipe else ""
        for final, each in zip(finals, recipes, strict=True)
      ]
  return {
    label: [value or result_tables.UNKNOWN for value in values]
    for label, values in rows.items()
    if any(values)
  }


def curves(runs: Sequence[Run]) -> list[training_curves.Panel]:
  """Returns the curves that several runs share, with a line for each run."""
  by_name: dict[str, training_curves.Panel] = {}
  for run in runs:
    for panel in training_curves.panels(run.metrics):
      # Recipes minimize different losses, which share no axis.
      recipe = f" of {run.manifest.recipe}" if panel.kind == "loss" else ""
      for label, line in panel.lines.items():
        several = f": {label}" if len(panel.lines) > 1 else ""
        name = f"{panel.name}{recipe}_{label}".replace(" ", "_")
        title = f"{panel.title}{recipe}{several}"
        shared = by_name.setdefault(
          name, panel._replace(name=name, title=title, lines={})
        )
        by_name[name] = shared._replace(lines={**shared.lines, run.name: line})
  kinds = [*training_curves.PANELS]
  panels = [panel for panel in by_name.values() if len(panel.lines) > 1]
  return sorted(panels, key=lambda panel: kinds.index(panel.kind))


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
  html_pages.write(
    output,
    "comparison.html",
    html_pages.curves(curves(runs)),
    plots_to,
    title=f"{result_tables.join(run.name for run in runs)}, compared",
    names=[run.name for run in runs],
    sentences={
      run.name: result_tables.sentence({}, run.sides)
      for run in runs
      if run.sides
    },
    results=seat_tables(runs),
    training=_to_table(training(runs)),
    differences=_to_table(differences(runs)),
    has_intervals=any(
      side.intervals for run in runs for side in run.sides.values()
    ),
    is_exact=all(
      side.lines_lost is not None for run in runs for side in run.sides.values()
    ),
  )


def _to_table(rows: dict[str, list[str]]) -> list[result_tables.Row]:
  return [result_tables.Row("", label, row) for label, row in rows.items()]
