"""Several runs side by side: what differs, how they end, and their curves."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.report import html
from tunix_ttt.report import plots
from tunix_ttt.report import results
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

_NONE = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """The settings, metrics and results of one run in a comparison.

  Attributes:
    name: it is called by.
    manifest: what made it.
    metrics: the rows of its `metrics.jsonl`.
    sides: how it plays at the end, by its mark; empty where it is not known.
    is_exact: whether that is of every line.
  """

  name: str
  manifest: run_manifest.RunManifest
  metrics: Sequence[dict[str, Any]]
  sides: dict[str, results.Side]
  is_exact: bool


def read(directories: Sequence[pathlib.Path]) -> list[Run]:
  """Reads runs.

  Args:
    directories: the runs'; names that are not different are made so.

  Raises:
    errors.UserError: if one is none, or given twice.
  """
  resolved = [path.resolve() for path in directories]
  for path in resolved:
    if resolved.count(path) > 1:
      raise errors.UserError(f"{path}: given twice; give different runs")
  names = [path.name for path in resolved]
  return [
    _read(path, path.name if names.count(path.name) == 1 else str(given))
    for path, given in zip(resolved, directories, strict=True)
  ]


def _read(run: pathlib.Path, name: str) -> Run:
  manifest = run_manifest.RunManifest.read(run)
  manifest.check_files(run)
  metrics = run_directory.read_metrics(run)
  if (run / run_directory.GAMES_SUMMARY).exists():
    summary = game_files.read_summary(run / run_directory.GAMES_SUMMARY)
    sides = results.of_summary(summary)
  else:
    sides = results.at(metrics, -1)
  return Run(
    name=name,
    manifest=manifest,
    metrics=metrics,
    sides=sides,
    is_exact=all(side.lines_lost is not None for side in sides.values()),
  )


def differences(found: Sequence[Run]) -> dict[str, list[str]]:
  """Returns the settings that differ, a value for each run.

  Settings that a recipe does not have are none, `-`, and no difference.
  """
  flat = [
    {"recipe": run.manifest.recipe, **config_lib.flatten(run.manifest.config)}
    for run in found
  ]
  keys = dict.fromkeys(key for settings in flat for key in settings)
  rows = {
    key: [files.to_json(s[key]) if key in s else _NONE for s in flat]
    for key in keys
  }
  return {k: row for k, row in rows.items() if len(set(row) - {_NONE}) > 1}


def outcomes(found: Sequence[Run]) -> dict[str, list[str]]:
  """Returns how the runs end, a value for each, `-` where it is not known."""
  rows: dict[str, list[str]] = {}

  def put(label: str, index: int, value: str) -> None:
    rows.setdefault(label, [_NONE] * len(found))[index] = value

  for index, run in enumerate(found):
    for mark, side in run.sides.items():
      if side.lines_lost is not None:
        put(f"lines lost as {mark}", index, str(side.lines_lost))
      for opponent, rates in side.against.items():
        text = " / ".join(
          f"{100 * rates[name]:.2f}"
          for name in ("win_rate", "draw_rate", "loss_rate")
        )
        text += f" / {100 * results.no_move(rates):.2f}"
        put(f"as {mark} against {opponent}, %", index, text)
      share = f"{100 * side.optimal_move_rate:.2f}"
      put(f"optimal moves as {mark}, %", index, share)
    for key, value in run.manifest.final_metrics.items():
      if key.endswith(("/loss", "/score")):
        put(key, index, f"{value:.4f}")
    steps = [row["step"] for row in run.metrics]
    put("steps", index, str(max(steps, default=0)))
    seconds = [row["seconds"] for row in run.metrics if "seconds" in row]
    if seconds:
      put("seconds of training", index, f"{seconds[-1]:.0f}")
  return rows


def curves(found: Sequence[Run]) -> list[plots.Panel]:
  """Returns what the runs' curves have in common, a line for each run."""
  by_run = {
    run.name: {panel.name: panel for panel in plots.panels(run.metrics)}
    for run in found
  }
  found_panels: dict[str, list[plots.Panel]] = {}
  for panel in (panel for own in by_run.values() for panel in own.values()):
    found_panels.setdefault(panel.name, []).append(panel)
  panels = []
  for name, alike in found_panels.items():
    labels = dict.fromkeys(label for panel in alike for label in panel.lines)
    for label in labels:
      lines = {
        run: own[name].lines[label]
        for run, own in by_run.items()
        if name in own and label in own[name].lines
      }
      if len(lines) > 1:
        panels.append(
          plots.Panel(
            name=f"{name}_{label}".replace(" ", "_"),
            title=f"{alike[0].title}: {label}"
            if len(labels) > 1
            else alike[0].title,
            lines=lines,
            share=alike[0].share,
          )
        )
  return panels


def table(rows: dict[str, list[str]], names: Sequence[str]) -> str:
  """Returns rows as aligned lines of text.

  Args:
    rows: a value for each run, by their label.
    names: Names of the runs.
  """
  lines = [["", *names], *([label, *values] for label, values in rows.items())]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if n == 0 else cell.rjust(width)
      for n, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )


def _render(found: Sequence[Run], figures: Sequence[plots.Figure]) -> str:
  return html.render(
    "comparison.html",
    title=f"{len(found)} runs",
    runs=found,
    differences=differences(found),
    outcomes=outcomes(found),
    is_exact=all(run.is_exact for run in found),
    figures=[html.inline(figure) for figure in figures],
  )


def write(
  found: Sequence[Run],
  output: pathlib.Path,
  plots_to: pathlib.Path | None = None,
) -> None:
  """Writes a page of the runs, and its figures as files.

  Args:
    found: the runs.
    output: the page, which must not exist.
    plots_to: a directory for the figures, which must not exist either.

  Raises:
    errors.UserError: if something stands in the way.
  """
  figures = {panel.name: plots.curves(panel) for panel in curves(found)}
  text = _render(found, list(figures.values()))
  html.write(output, text, figures, plots_to)
