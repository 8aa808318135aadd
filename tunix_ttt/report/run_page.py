"""The report of a run as one page: no network, nothing beside it."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import yaml

from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.report import delta_report
from tunix_ttt.report import highlights
from tunix_ttt.report import html
from tunix_ttt.report import plots
from tunix_ttt.report import results
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Lines that are shown at once, and those behind a button.
_FEW, _MANY = 12, 120
_NUM_THOUGHTS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """The parts of a page; absent parts are left out.

  Attributes:
    manifest: The run's manifest.
    metrics: the rows of its `metrics.jsonl`.
    pairs: answers to an evalset, before and after.
    before: the summary of games before training.
    after: the summary of games after it.
    games: those of `after`.
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
  """Reads what a page is made of.

  Args:
    run: the run's directory.
    answers: to an evalset, before and after.
    games_before: games of the model that training began from.
    games_after: Games of the trained model; by default the run's own, if any.

  Raises:
    errors.UserError: if a file is not what it should be.
  """
  if (
    games_after is None
    and run is not None
    and (run / run_directory.GAMES).exists()
  ):
    games_after = run / run_directory.GAMES

  def summary(path: pathlib.Path | None) -> game_files.Summary | None:
    return path and game_files.read_summary(game_files.summary_path(path))

  manifest, metrics = None, []
  if run is not None:
    manifest, metrics = (
      run_manifest.RunManifest.read(run),
      run_directory.read_metrics(run),
    )
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
  """Returns the training curves by the names of their files."""
  return {
    panel.name: plots.curves(panel) for panel in plots.panels(material.metrics)
  }


def openings(material: Material) -> dict[str, plots.Figure]:
  """Returns heat maps of first moves by the names of their files.

  The first is as X, the others as O after each move of X.
  """
  found = material.after and material.after.openings
  if not found:
    return {}
  return {"opening_as_X": plots.heat_map(found.x, "as X")} | {
    f"opening_as_O_after_{cell}": plots.heat_map(
      counts, f"as O after {cell}", cell
    )
    for cell, counts in found.o.items()
  }


def write(
  material: Material, output: pathlib.Path, plots_to: pathlib.Path | None = None
) -> None:
  """Writes the page, and its figures as files.

  Args:
    material: what is told.
    output: the page, which must not exist.
    plots_to: a directory for the figures, which must not exist either.

  Raises:
    errors.UserError: if something stands in the way.
  """
  drawn, maps = figures(material), openings(material)
  text = _render(material, drawn, maps)
  html.write(output, text, drawn | maps, plots_to)


def render(material: Material) -> str:
  """Returns the page."""
  return _render(material, figures(material), openings(material))


def _render(
  material: Material,
  drawn: Mapping[str, plots.Figure],
  maps: Mapping[str, plots.Figure],
) -> str:
  games, pairs = material.games, material.pairs
  is_exact = results.is_exact(material.after)
  lost = highlights.lost_lines(games)
  return html.render(
    "report.html",
    script="board.js",
    title=_title(material),
    manifest=material.manifest,
    config=_config(material.manifest),
    before=sides(material, 0),
    after=sides(material, -1),
    no_move=results.no_move,
    is_exact=is_exact,
    overall=delta_report.compare(pairs) if pairs else None,
    sections=delta_report.sections(pairs),
    chance=delta_report.chance(pairs) if pairs else None,
    table=make(games) if is_exact else None,
    lost=lost[:_FEW],
    more_lost=lost[_FEW:_MANY],
    num_lost=len(lost),
    num_games=len(games),
    thoughts=highlights.thoughts(games, _NUM_THOUGHTS),
    figures=[html.inline(figure) for figure in drawn.values()],
    openings=[html.inline(figure) for figure in maps.values()],
    opening=material.after and material.after.openings,
  )


def change_table(material: Material) -> str:
  """Formats what training changed, as lines for a terminal.

  Returns:
    Lost lines by mark and right answers, before and after; a row of which a
    number is unknown is left out, and without rows the text is empty.
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


def sides(material: Material, index: int) -> dict[str, results.Side]:
  """Returns how the model plays with each mark.

  Args:
    material: Contents of the page.
    index: 0 for before training, -1 for after. Recorded games count more than
      the run's own evaluations.
  """
  summary = material.after if index else material.before
  if summary is not None:
    return results.of_summary(summary)
  return results.at(material.metrics, index)


def _title(material: Material) -> str:
  if material.manifest is not None:
    return material.manifest.run_id
  named = [a.model for pair in material.pairs[:1] for a in pair]
  named += [s.model for s in (material.after,) if s is not None]
  return named[-1] if named else "Evaluation"


def _config(manifest: run_manifest.RunManifest | None) -> str | None:
  if manifest is None:
    return None
  return yaml.safe_dump(manifest.config, sort_keys=False)


# Of an answer that names no cell.
UNREADABLE = -1


def make(games: Iterable[game_files.Game]) -> dict[str, Any]:
  """Returns the table of a player, as plain data for a page to play from.

  Args:
    games: Games of every line, as X and as O.

  Returns:
    `says`, what it says, each text once; `first`, the optimal cells of the
    empty board as a 9-bit mask; `answers`, by its mark and the other side's
    moves so far, as a string of cells from 0 to 8: what it says, by its number,
    the cell it names, the cells that would be optimal, and those that then are
    for the other side, 0 where the game is over.
  """
  says: dict[str, int] = {}
  answers: dict[str, dict[str, tuple[int, int, int, int]]] = {"X": {}, "O": {}}
  optimal = solver.solve().optimal
  for game in games:
    moves = game.moves()
    theirs = moves[1::2] if game.agent == "X" else moves[::2]
    for turn in game.turns:
      before = (int(rules.num_marks()[turn.board]) + 1) // 2
      after = turn.board
      if turn.is_legal:
        after = int(rules.successors()[turn.board, turn.move])
      key = "".join(map(str, theirs[:before]))
      # A second try at an unreadable answer stands for both.
      answers[game.agent][key] = (
        says.setdefault(turn.response, len(says)),
        UNREADABLE if turn.move is None else turn.move,
        int(optimal[turn.board]),
        int(optimal[after]) if turn.is_legal else 0,
      )
  return {
    "says": list(says),
    "first": int(optimal[rules.EMPTY_BOARD]),
    "answers": answers,
  }
