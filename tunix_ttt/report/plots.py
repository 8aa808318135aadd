"""Figures of runs and models: for pages, papers and notebooks.

A figure is matplotlib's and belongs to nobody's state: it is shown in a
notebook when a cell ends with it, saved by `save`, and put into a page by
`inline_svg`.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import html
import io
import pathlib
import re
from typing import Any

import cycler
import matplotlib
from matplotlib import figure as figure_lib
from matplotlib import patches
import numpy as np

from tunix_ttt import files
from tunix_ttt.games.tictactoe import prompts

Figure = figure_lib.Figure
# (steps, values) of a line.
Line = tuple[np.ndarray, np.ndarray]
FORMATS = ("svg", "png")

_INK, _GRID = "#24292f", "#d0d7de"
# Okabe and Ito, 2008: told apart by the colour-blind.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {_INK: "--ink", _GRID: "--grid"} | {
  colour: f"--line-{number}" for number, colour in enumerate(_COLOURS)
}
_STYLE: Any = {
  "axes.edgecolor": _GRID,
  "axes.grid": True,
  "axes.labelcolor": _INK,
  "axes.prop_cycle": cycler.cycler(color=_COLOURS),
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
  "svg.fonttype": "none",
  "svg.hashsalt": "tunix_ttt",
  "text.color": _INK,
  # Names may hold dollar signs.
  "text.parse_math": False,
  "xtick.color": _INK,
  "ytick.color": _INK,
}
# Means are drawn over raw values of runs that are longer.
_FEW_STEPS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
  """Curves that are drawn together.

  Attributes:
    name: File name of the figure, without suffix.
    title: what is shown.
    lines: by their labels.
    share: whether the values are shares, from 0 to 1.
  """

  name: str
  title: str
  lines: Mapping[str, Line]
  share: bool = False


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
  """Returns the training curves of a run; those that it has no values for not.

  Args:
    rows: Rows of the run's `metrics.jsonl`.
  """

  def line(key: str, split: str = "train") -> Line | None:
    of = [row for row in rows if row["split"] == split and key in row]
    if not of:
      return None
    steps, values = zip(*((row["step"], row[key]) for row in of), strict=True)
    return np.asarray(steps), np.asarray(values, float)

  def panel(
    name: str, title: str, keys: Mapping[str, Line | None], share: bool = False
  ) -> list[Panel]:
    lines = {label: found for label, found in keys.items() if found is not None}
    return [Panel(name=name, title=title, lines=lines, share=share)] * bool(
      lines
    )

  def train_and_eval(key: str) -> dict[str, Line | None]:
    return {"training": line(key), "evaluation": line(key, "eval")}

  parts = sorted({k for row in rows for k in row if k.startswith("reward/")})
  names = [part.removeprefix("reward/") for part in parts]
  rewards = dict(zip(names, map(line, parts), strict=True))
  rewarded = f"Mean reward of a game: {names[0]}" if len(parts) == 1 else ""
  if not rewarded:
    rewarded = "Mean reward of a game, by its parts"
    rewards = {"all": line("reward"), **rewards}
  found = [
    *panel("loss", "Loss", train_and_eval("loss")),
    *panel(
      "token_accuracy", "Token accuracy", train_and_eval("token_accuracy"), True
    ),
    *panel(
      "preference_accuracy",
      "Pairs in which the chosen answer is preferred",
      train_and_eval("rewards/accuracy"),
      True,
    ),
    *panel(
      "preference_rewards",
      "Rewards of answers",
      {n: line(f"rewards/{n}") for n in ("chosen", "rejected", "margin")},
    ),
    *panel("rewards", rewarded, rewards),
  ]
  for mark in prompts.MARK_NAMES.values():
    for opponent in _opponents(rows, mark):
      key = f"{mark}/{opponent}"
      found += panel(
        f"play_{mark}_{opponent}",
        f"As {mark} against {_named(opponent)}",
        {
          name: line(f"{key}/{name}_rate", "eval")
          for name in ("win", "draw", "loss", "illegal")
        },
        True,
      )
  return [
    *found,
    *panel(
      "lines_lost",
      "Lines lost, of all that there are",
      {f"as {m}": line(f"{m}/lines_lost", "eval") for m in "XO"},
    ),
    *panel(
      "endings",
      "How games of training end",
      {
        name.replace("_", " "): line(f"{name}_rate")
        for name in ("win", "draw", "loss", "illegal", "parse_error")
      },
      True,
    ),
    *panel(
      "optimal_moves",
      "Optimal moves in games of training",
      {"optimal moves": line("optimal_move_rate")},
      True,
    ),
    *panel("kl", "KL divergence to the reference", {"KL": line("kl")}),
    *panel("entropy", "Entropy of the tokens", {"entropy": line("entropy")}),
    *panel(
      "lengths",
      "Lengths",
      {
        "tokens a turn": line("tokens_per_turn"),
        "turns a game": line("turns"),
      },
    ),
    *panel("grad_norm", "Norm of the gradient", {"norm": line("grad_norm")}),
    *panel("learning_rate", "Learning rate", {"rate": line("learning_rate")}),
  ]


def _opponents(rows: Iterable[Mapping[str, Any]], mark: str) -> list[str]:
  """Returns whom a model is evaluated against with a mark."""
  pattern = re.compile(rf"{mark}/(.+)/win_rate")
  names = {m[1]: None for row in rows for k in row if (m := pattern.match(k))}
  return list(names)


def _named(opponent: str) -> str:
  article = "an" if opponent[:1] in "aeiou" else "a"
  return f"{article} {opponent} player"


def curves(panel: Panel) -> Figure:
  """Draws a panel."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = _axes(5.2, 2.9)
    axes.set_title(panel.title)
    for number, (label, (steps, values)) in enumerate(panel.lines.items()):
      colour = _COLOURS[number % len(_COLOURS)]
      # A dash besides the colour, where two lines lie on one another.
      style = "-" if number % 2 == 0 else (0, (5, 2))
      window = _window(len(steps))
      if window > 1:
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
        values = _means(values, window)
      marker = "o" if len(steps) <= 12 else None
      axes.plot(
        steps,
        values,
        color=colour,
        linestyle=style,
        marker=marker,
        markersize=3,
        label=label,
      )
    axes.set_xlabel("step")
    if panel.share:
      axes.set_ylim(-0.03, 1.03)
      axes.yaxis.set_major_formatter(_percent)
    if len(panel.lines) > 1:
      axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, -0.42),
        ncols=min(len(panel.lines), 5),
        columnspacing=1.2,
        handlelength=1.6,
      )
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Any]:
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots()
  axes.set_facecolor("none")
  return figure, axes


def _percent(value: float, position: int) -> str:
  del position
  return f"{value:.0%}"


def _window(count: int) -> int:
  """Returns how many values are averaged where so many are drawn."""
  return 1 if count <= _FEW_STEPS else 2 * (count // 40) + 1


def _means(values: np.ndarray, window: int) -> np.ndarray:
  """Returns the mean of the values around each, fewer at the ends."""
  weights = np.ones(window)
  counts = np.convolve(np.ones(len(values)), weights, "same")
  return np.convolve(values, weights, "same") / counts


def heat_map(counts: Sequence[int], title: str, taken: str = "") -> Figure:
  """Draws how often each cell is taken.

  Args:
    counts: Counts of the nine cells, then of answers that name no cell.
    title: Title of the figure.
    taken: the cell that X has taken, if any.
  """
  shares = np.asarray(counts, float) / max(sum(counts), 1)
  with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
    figure, axes = _axes(2.4, 2.7)
    axes.set_title(title)
    for cell, name in enumerate(prompts.COORDINATES):
      row, column = divmod(cell, 3)
      axes.add_patch(
        patches.Rectangle(
          (column, row),
          1,
          1,
          facecolor=_COLOURS[0],
          alpha=0.6 * float(shares[cell]),
          linewidth=0,
        )
      )
      text = "X" if name == taken else f"{name}\n{_shown(shares[cell])}"
      axes.text(
        column + 0.5,
        row + 0.5,
        text,
        ha="center",
        va="center",
        fontsize=16 if name == taken else 9,
      )
    for edge in (1, 2):
      axes.plot((edge, edge), (0, 3), color=_INK, linewidth=1)
      axes.plot((0, 3), (edge, edge), color=_INK, linewidth=1)
    axes.set_xlim(0, 3)
    axes.set_ylim(3, 0)
    axes.set_aspect("equal")
    axes.axis("off")
    if shares[-1]:
      axes.text(1.5, 3.25, f"no free cell: {shares[-1]:.1%}", ha="center")
      axes.set_ylim(3.4, 0)
    return figure


def _shown(share: float) -> str:
  return f"{share:.1%}" if share else "0"


def inline_svg(figure: Figure) -> str:
  """Returns a figure as SVG for a page, which gives it its colours.

  The page defines `--ink`, `--grid` and `--line-0` to `--line-5`.

  Args:
    figure: what `curves` or `heat_map` drew.
  """
  text = _rendered(figure, "svg", facecolor="none").decode()
  text = text[text.index("<svg") :]
  # What is said of the file that it is not.
  text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
  for colour, variable in _VARIABLES.items():
    text = text.replace(colour, f"var({variable})")
  label = html.escape(figure.axes[0].get_title(loc="left"))
  return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def save(
  figures: Mapping[str, Figure], directory: pathlib.Path, dpi: int = 200
) -> None:
  """Writes figures as `name.svg` and `name.png` into a new directory.

  Args:
    figures: by name.
    directory: which must not exist.
    dpi: Resolution of the PNG files.

  Raises:
    errors.UserError: if the directory exists.
  """
  with files.new_directory(directory) as new:
    for name, figure in figures.items():
      # Names may be of other people's metrics, and must not lead elsewhere.
      name = re.sub(r"[^\w.+-]", "_", name)
      for kind in FORMATS:
        data = _rendered(figure, kind, dpi=dpi)
        files.write_bytes(new / f"{name}.{kind}", data)


def _rendered(figure: Figure, kind: str, **options: Any) -> bytes:
  buffer = io.BytesIO()
  # No date: the same figure is the same bytes.
  date = {"Date": None} if kind == "svg" else None
  with matplotlib.rc_context(_STYLE):
    figure.savefig(buffer, format=kind, metadata=date, **options)
  return buffer.getvalue()
