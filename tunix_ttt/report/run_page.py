"""Builds the HTML page of a run from its metrics, games and answers."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import yaml

from tunix_ttt.evaluate import game_files
from tunix_ttt.report import delta_report
from tunix_ttt.report import highlights
from tunix_ttt.report import html
from tunix_ttt.report import plots
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Lost lines that are visible, and those on the page including folded ones.
_NUM_VISIBLE, _MAX_LINES = 12, 120
_NUM_THOUGHTS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """The contents of a page; the page omits absent parts.

  Attributes:
    manifest: Manifest of the run.
    metrics: Rows of the run's `metrics.jsonl`.
    pairs: Answers to an evalset before and after training.
    before: Summary of games before training.
    after: Summary of games after training.
    games: Games after training.
  """

  manifest: run_manifest.RunManifest | None = None
  metrics: Sequence[dict[str, Any]] = ()
  pairs: Sequence[delta_report.Pair] = ()
  before: game_files.Summary | None = None
  after: game_files.Summary | None = None
  games: Sequence[game_files.Game] = ()


def collect(
  run: pathlib.Path | None = None,
  *,
  answers: tuple[pathlib.Path, pathlib.Path] | None = None,
  games_before: pathlib.Path | None = None,
  games_after: pathlib.Path | None = None,
) -> Material:
  """Reads the contents of a page.

  Answers are files of answers to an evalset before and after training.
  `games_after` defaults to the games in the run directory, if they exist.

  Raises:
    errors.UserError: If a file is missing or wrong.
  """

  def summary(path: pathlib.Path | None) -> game_files.Summary | None:
    return path and game_files.read_summary(game_files.summary_path(path))

  manifest, metrics = None, []
  if run is not None:
    if games_after is None and (run / run_directory.GAMES).exists():
      games_after = run / run_directory.GAMES
    manifest = run_manifest.RunManifest.read(run)
    metrics = run_directory.read_metrics(run)
    manifest.check_files(run)
  return Material(
    manifest=manifest,
    metrics=metrics,
    pairs=() if answers is None else delta_report.read(*answers),
    before=summary(games_before),
    after=summary(games_after),
    games=() if games_after is None else game_files.read_games(games_after),
  )


def figures(material: Material) -> dict[str, plots.Figure]:
  """Returns the training curves by file name."""
  return {
    panel.name: plots.curves(panel) for panel in plots.panels(material.metrics)
  }


def openings(material: Material) -> dict[str, plots.Figure]:
  """Returns heat maps of first moves by file name: as X, then as O."""
  counts_of = material.after and material.after.openings
  if not counts_of:
    return {}
  return {"opening_as_X": plots.heat_map(counts_of.x, "as X")} | {
    f"opening_as_O_after_{cell}": plots.heat_map(
      counts, f"as O after {cell}", cell
    )
    for cell, counts in counts_of.o.items()
  }


def write(
  material: Material, output: pathlib.Path, plots_to: pathlib.Path | None = None
) -> None:
  """Writes the page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  curves, maps = figures(material), openings(material)
  text = _render(material, curves, maps)
  html.write(output, text, curves | maps, plots_to)


def render(material: Material) -> str:
  """Returns the text of the page."""
  return _render(material, figures(material), openings(material))


def _render(
  material: Material,
  curves: Mapping[str, plots.Figure],
  maps: Mapping[str, plots.Figure],
) -> str:
  games, pairs = material.games, material.pairs
  is_exact = game_files.is_exact(material.after)
  lost = highlights.lost_lines(games)
  return html.render(
    "report.html",
    script="board.js",
    title=_title(material),
    manifest=material.manifest,
    config=material.manifest
    and yaml.safe_dump(material.manifest.config, sort_keys=False),
    before=sides(material, 0),
    after=sides(material, -1),
    no_move=game_files.no_move_rate,
    is_exact=is_exact,
    overall=delta_report.compare(pairs) if pairs else None,
    sections=delta_report.sections(pairs),
    chance=delta_report.chance(pairs) if pairs else None,
    table=highlights.policy_table(games) if is_exact else None,
    lost=lost[:_NUM_VISIBLE],
    more_lost=lost[_NUM_VISIBLE:_MAX_LINES],
    num_lost=len(lost),
    num_games=len(games),
    thoughts=highlights.thoughts(games, _NUM_THOUGHTS),
    figures=html.inline(curves.values()),
    openings=html.inline(maps.values()),
    opening=material.after and material.after.openings,
  )


def change_table(material: Material) -> str:
  """Formats lost lines and right answers before and after training.

  A row without both numbers is omitted; without rows, the text is empty.
  """
  before, after = sides(material, 0), sides(material, -1)
  rows = [
    (f"lost lines as {mark}", before[mark].lost_text, after[mark].lost_text, "")
    for mark in before.keys() & after.keys()
    if before[mark].lost_text and after[mark].lost_text
  ]
  rows.sort(reverse=True)  # X moves first.
  if material.pairs:
    score = delta_report.compare(material.pairs)
    noun = (
      "items" if delta_report.chance(material.pairs) is None else "positions"
    )
    rows.append(
      (
        f"right answers to {score.count} {noun}",
        f"{score.before:.3f}",
        f"{score.after:.3f}",
        f"  {score.change:+.3f}, 95% CI {score.low:+.3f} to {score.high:+.3f}",
      )
    )
  if not rows:
    return ""
  rows.insert(0, ("", "before", "after", ""))
  width = max(len(name) for name, *_ in rows)
  return "\n".join(
    f"{name:<{width}}{first:>13}{second:>13}{note}".rstrip()
    for name, first, second, note in rows
  )


def sides(material: Material, index: int) -> dict[str, game_files.Side]:
  """Returns results by mark before (0) or after (-1) training.

  Recorded games take precedence over the run's own evaluations.
  """
  summary = material.after if index else material.before
  if summary is not None:
    return game_files.sides_of_summary(summary)
  return game_files.sides_of_evaluation(material.metrics, index)


def _title(material: Material) -> str:
  if material.manifest is not None:
    return material.manifest.run_id
  if material.after is not None:
    return material.after.model
  return material.pairs[0].after.model if material.pairs else "Evaluation"
