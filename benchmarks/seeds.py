"""Runs of several seeds, their rows of results and curves, for benchmarks.

A run that is there is read or continued, so that a benchmark can be stopped, and
rows of earlier results can be read, so that seeds can be shared among processes.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
from typing import Any

from matplotlib import figure as figure_lib
import numpy as np
import record

from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.runs import run_directory

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Of Okabe and Ito, and a grey.
COLORS = (
  "#0072b2",
  "#56b4e9",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#999999",
  "#d55e00",
)
# An arm of one seed, with `curve`: (step, value) of each evaluation.
Row = dict[str, Any]
Curve = Sequence[tuple[int, float]]


def add_flags(parser: argparse.ArgumentParser, seeds: int) -> None:
  """Adds the flags of benchmarks of several seeds."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--seeds", type=int, nargs="*", default=[*range(seeds)])
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument(
    "--earlier",
    type=pathlib.Path,
    nargs="+",
    default=[],
    metavar="JSON",
    help="results whose rows come before the new ones",
  )
  parser.add_argument(
    "--set",
    nargs="+",
    default=[],
    metavar="KEY=VALUE",
    help="replace settings, as in --set training.max_steps=50",
  )
  parser.add_argument("--figure", type=pathlib.Path, help="SVG to draw")
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")


def read(paths: list[pathlib.Path]) -> list[Row]:
  """Returns the rows of earlier results."""
  return [row for p in paths for row in json.loads(p.read_text())["rows"]]


def train(
  recipe: config_lib.Recipe, config: config_lib.SFTConfig, run: pathlib.Path
) -> tuple[list[dict[str, Any]], int]:
  """Trains, or continues a run; returns its evaluations and seconds."""
  if run.exists():
    recipes.resume(run, config)
  else:
    recipes.start(recipe, config, run)
  lines = (run / run_directory.METRICS).read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  seconds = max(row.get("seconds", 0.0) for row in metrics)
  return [row for row in metrics if row["split"] == "eval"], round(seconds)


def draw(axes: Any, curves: Mapping[str, Sequence[Curve]]) -> None:
  """Draws the median curve of each arm, with its range over the seeds.

  A run that stopped early keeps its last value.

  Args:
    axes: Axes of Matplotlib.
    curves: Curve of each seed, by arm.
  """
  for (arm, listed), color in zip(curves.items(), COLORS, strict=False):
    if not listed:
      continue
    steps = sorted({step for curve in listed for step, _ in curve})
    values = np.array(
      [
        [[v for s, v in curve if s <= step][-1] for step in steps]
        for curve in listed
      ]
    )
    axes.plot(steps, np.median(values, axis=0), color=color, label=arm)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(steps, low, high, alpha=0.12, color=color, linewidth=0)
  axes.set(xlabel="step")
  axes.set_ylim(bottom=0)
  axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: figure_lib.Figure, axes: Any) -> None:
  """Adds the names of the arms of `axes` beside the panels of a figure."""
  handles, names = axes.get_legend_handles_labels()
  figure.legend(handles, names, loc="outside right upper", frameon=False)


def finish(
  flags: argparse.Namespace,
  rows: list[Row],
  table: list[dict[str, Any]],
  draw_figure: Callable[[], figure_lib.Figure],
) -> None:
  """Prints the table, and writes the figure and the results if asked to."""
  for row in table:
    print("  ".join(f"{key} {value}" for key, value in row.items()))
  record.write(flags.output, {"table": table, "rows": rows})
  if flags.figure:
    draw_figure().savefig(flags.figure, metadata={"Date": None})
