"""Draws training curves and opening heat maps as Matplotlib figures.

Figures are independent of pyplot. A notebook cell that ends with a figure
displays it, `save` writes files, and `inline_svg` embeds it in a page.
"""

from collections.abc import Mapping
import html
import io
import math
import pathlib
import re
from typing import Any

import cycler
import matplotlib
from matplotlib import figure as figure_lib
from matplotlib import patches
import numpy as np

from tunix_ttt import files
from tunix_ttt.games import board_page
from tunix_ttt.report import training_curves

Figure = figure_lib.Figure
Panel = training_curves.Panel
panels = training_curves.panels
FORMATS = ("svg", "png")

_INK, _GRID = "#24292f", "#d0d7de"
# Palette for color-blind readers (Okabe and Ito, 2008).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {_INK: "--ink", _GRID: "--grid"} | {
  color: f"--line-{number}" for number, color in enumerate(_COLORS)
}
_STYLE: Any = {
  "axes.edgecolor": _GRID,
  "axes.grid": True,
  "axes.labelcolor": _INK,
  "axes.prop_cycle": cycler.cycler(color=_COLORS),
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlecolor": _INK,
  "axes.titlelocation": "left",
  "axes.titlesize": "medium",
  "figure.dpi": 100,
  "font.family": ["DejaVu Sans", "sans-serif"],
  "font.size": 9,
  "grid.color": _GRID,
  "grid.linewidth": 0.6,
  "legend.frameon": False,
  "lines.linewidth": 1.6,
  "lines.markersize": 3,
  "svg.fonttype": "none",
  "svg.hashsalt": "tunix_ttt",
  "text.color": _INK,
  # Labels may contain dollar signs.
  "text.parse_math": False,
  "xtick.color": _INK,
  "ytick.color": _INK,
}
# Curves with more values are drawn with a moving average.
_MAX_RAW_VALUES = 60
# Values of a curve that a page has to read off.
_MAX_READ_VALUES = 400


def curves(panel: Panel) -> Figure:
  """Draws a panel."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = _axes(5.2, 2.9, panel.title)
    for number, (label, (steps, values)) in enumerate(panel.lines.items()):
      color = _COLORS[number % len(_COLORS)]
      # Dashes keep coinciding curves visible.
      style = "-" if number % 2 == 0 else (0, (5, 2))
      if len(steps) > _MAX_RAW_VALUES:
        axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.3)
        # Means in a centered window, which is cut off at the ends.
        window = np.ones(2 * (len(steps) // 40) + 1)
        counts = np.convolve(np.ones(len(values)), window, "same")
        values = np.convolve(values, window, "same") / counts
      marker = "o" if len(steps) <= 12 else None
      axes.plot(
        steps, values, color=color, linestyle=style, marker=marker, label=label
      )
    axes.set_xlabel("step")
    if panel.share:
      axes.set_ylim(-0.03, 1.03)
      axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if len(panel.lines) > 1:
      axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, -0.42),
        ncols=min(len(panel.lines), 5),
        columnspacing=1.2,
        handlelength=1.6,
      )
    return figure


def _axes(width: float, height: float, title: str) -> tuple[Figure, Any]:
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots()
  axes.set_facecolor("none")
  axes.set_title(title)
  return figure, axes


def heat_map(moves: board_page.FirstMoves) -> Figure:
  """Draws the share of first moves that take each cell of a board."""
  shares = np.asarray(moves.counts, float) / max(sum(moves.counts), 1)
  size = math.isqrt(len(moves.cells))
  with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
    figure, axes = _axes(2.4, 2.7, moves.title)
    for cell, name in enumerate(moves.cells):
      row, column = divmod(cell, size)
      alpha = 0.6 * float(shares[cell])
      axes.add_patch(
        patches.Rectangle(
          (column, row), 1, 1, facecolor=_COLORS[0], alpha=alpha, linewidth=0
        )
      )
      percent = f"{shares[cell]:.1%}" if shares[cell] else "0"
      mark = moves.marks.get(name)
      text, points = (mark, 16) if mark else (f"{name}\n{percent}", 9)
      center = column + 0.5, row + 0.5
      axes.text(*center, text, ha="center", va="center", fontsize=points)
    for edge in range(1, size):
      axes.plot((edge, edge), (0, size), color=_INK, linewidth=1)
      axes.plot((0, size), (edge, edge), color=_INK, linewidth=1)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
    axes.axis("off")
    if shares[-1]:
      label = f"no free cell: {shares[-1]:.1%}"
      axes.text(size / 2, size + 0.25, label, ha="center")
      axes.set_ylim(size + 0.4, 0)
    return figure


def inline_svg(figure: Figure) -> str:
  """Returns a figure as SVG with the colors of a page.

  The page's style sheet must define the variables `--ink`, `--grid` and
  `--line-0` to `--line-5`.
  """
  text = _rendered(figure, "svg", facecolor="none").decode()
  text = text[text.index("<svg") :]
  # The metadata describes a stand-alone file.
  text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  for size in ("width", "height"):
    text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
  for color, variable in _VARIABLES.items():
    text = text.replace(color, f"var({variable})")
  label = html.escape(figure.axes[0].get_title(loc="left"))
  return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def readout(panel: Panel, figure: Figure) -> dict[str, Any]:
  """Returns a panel's values, and where its steps are, for a page to read off.

  `box` has the fractions of the figure's width and height at the axes' left,
  top, right and bottom; `limits` are the steps at the left and the right.
  """
  figure.draw_without_rendering()
  axes = figure.axes[0]
  place = axes.get_position()
  box = place.x0, 1 - place.y1, place.x1, 1 - place.y0
  lines = []
  for label, (steps, values) in panel.lines.items():
    points = zip(steps.tolist(), values.tolist(), strict=True)
    points = board_page.spread([*points], _MAX_READ_VALUES)
    steps, values = zip(*points, strict=True)
    # Values have four digits; what is not finite has no place in JSON.
    values = [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
    lines.append({"label": label, "steps": steps, "values": values})
  return {
    "box": [round(float(edge), 4) for edge in box],
    "limits": [float(edge) for edge in axes.get_xlim()],
    "share": panel.share,
    "lines": lines,
  }


def save(
  figures: Mapping[str, Figure], directory: pathlib.Path, dpi: int = 200
) -> None:
  """Writes figures as `name.svg` and `name.png` into a new directory.

  Raises:
    errors.UserError: If the directory exists.
  """
  with files.new_directory(directory) as new:
    for name, figure in figures.items():
      # Names of custom metrics must not escape the directory.
      name = re.sub(r"[^\w.+-]", "_", name)
      for kind in FORMATS:
        data = _rendered(figure, kind, dpi=dpi)
        files.write_bytes(new / f"{name}.{kind}", data)


def _rendered(figure: Figure, kind: str, **options: Any) -> bytes:
  buffer = io.BytesIO()
  # Without a date, equal figures are equal bytes.
  date = {"Date": None} if kind == "svg" else None
  with matplotlib.rc_context(_STYLE):
    figure.savefig(buffer, format=kind, metadata=date, **options)
  return buffer.getvalue()
