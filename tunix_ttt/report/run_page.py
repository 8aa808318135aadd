"""Builds the HTML page of a run from its metrics, games and answers."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import importlib.resources
import pathlib
from typing import Any, NamedTuple

import markupsafe
import yaml

from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.report import delta_report
from tunix_ttt.report import plots
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Lost lines that are visible, and those on the page including folded ones.
_NUM_VISIBLE, _MAX_LINES = 12, 120
_NUM_THOUGHTS = 9
_ASSETS = importlib.resources.files("tunix_ttt.report") / "assets"


class Line(NamedTuple):
  """A recorded game with each move judged.

  Moves and slips are cells; slips are the moves that were not optimal. `last`
  is the model's last answer if that is no legal move. `marks` is the board at
  the end, nine of `.XO`.
  """

  agent: str
  ending: str
  moves: tuple[int, ...]
  last: str | None
  marks: str
  slips: list[int]


class Thought(NamedTuple):
  """A model's answer on a board, judged, with the names of the best cells."""

  board: str
  mark: str
  response: str
  is_optimal: bool
  best: str


def lost_lines(games: Iterable[game_files.Game]) -> list[Line]:
  """Returns the games that are neither a win nor a draw of the model."""
  lines = []
  for game in games:
    if not game.is_lost:
      continue
    board, slips, last = rules.EMPTY_BOARD, [], game.turns[-1]
    for cell in game.moves():
      if cell not in solver.optimal_cells(board):
        slips.append(cell)
      board = int(rules.successors()[board, cell])
    response = None if last.is_legal else last.response
    ending, marks = game.ending.replace("_", " "), board_text.to_text(board)
    lines.append(Line(game.agent, ending, game.moves(), response, marks, slips))
  return lines


def thoughts(games: Iterable[game_files.Game], count: int) -> list[Thought]:
  """Returns up to `count` distinct answers, up to a third of them mistakes."""
  answers: dict[tuple[int, str], Thought] = {}
  for game in games:
    for turn in game.turns:
      best = solver.optimal_cells(turn.board)
      thought = Thought(
        board=board_text.to_text(turn.board),
        mark=game.agent,
        response=turn.response,
        is_optimal=turn.move in best,
        best=", ".join(map(text_formats.coordinate, best)),
      )
      answers.setdefault((turn.board, turn.response), thought)
  wrong = [thought for thought in answers.values() if not thought.is_optimal]
  right = [thought for thought in answers.values() if thought.is_optimal]
  mistakes = _spread(wrong, count // 3)
  return mistakes + _spread(right, count - len(mistakes))


def _spread(items: Sequence[Thought], count: int) -> list[Thought]:
  """Returns at most `count` items, evenly spaced in the sequence."""
  count = min(count, len(items))
  return [items[len(items) * n // count] for n in range(count)]


def policy_table(games: Iterable[game_files.Game]) -> dict[str, Any]:
  """Tabulates a greedy policy as plain data that a page can play from.

  `games` are the games on every line, as X and as O. In the result, `says` is a
  list of distinct responses, and `first` is the 9-bit mask of the optimal cells
  of the empty board. `answers` maps the model's mark and the other side's moves
  so far, a string of cells from 0 to 8, to a tuple: the index of the response,
  the cell it names (-1 for an unreadable answer), and the masks of the optimal
  cells before and after the move, 0 after a move that ends the game.
  """
  responses: dict[str, int] = {}
  answers: dict[str, dict[str, tuple[int, int, int, int]]] = {"X": {}, "O": {}}
  optimal = solver.solve().optimal
  for game in games:
    moves = game.moves()
    replies = moves[1::2] if game.agent == "X" else moves[::2]
    for turn in game.turns:
      num_replies = (int(rules.num_marks()[turn.board]) + 1) // 2
      after = turn.board
      if turn.is_legal:
        after = int(rules.successors()[turn.board, turn.move])
      key = "".join(map(str, replies[:num_replies]))
      # A retry after an unreadable answer overwrites that answer.
      answers[game.agent][key] = (
        responses.setdefault(turn.response, len(responses)),
        -1 if turn.move is None else turn.move,
        int(optimal[turn.board]),
        int(optimal[after]) if turn.is_legal else 0,
      )
  return {
    "says": list(responses),
    "first": int(optimal[rules.EMPTY_BOARD]),
    "answers": answers,
  }


def write_page(
  output: pathlib.Path,
  template: str,
  groups: Mapping[str, Mapping[str, plots.Figure]],
  plots_to: pathlib.Path | None,
  script: str | None = None,
  **values: Any,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  The template gets each group of figures as SVG, and values, which are escaped.
  The page may run no script but `script`, a file of `assets`.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  files.check_absent(output)
  for group, figures in groups.items():
    # Matplotlib escapes the text.
    svgs = map(plots.inline_svg, figures.values())
    values[group] = [*map(markupsafe.Markup, svgs)]
  code, source = None, None
  if script is not None:
    code = _asset(script)
    digest = hashlib.sha256(code.encode()).digest()
    # A source expression of the page's Content-Security-Policy.
    source = f"sha256-{base64.b64encode(digest).decode()}"
  page = delta_report.template(template, autoescape=True).render(
    style=_asset("page.css"), script=code, script_digest=source, **values
  )
  if plots_to is not None:
    figures = {k: v for group in groups.values() for k, v in group.items()}
    plots.save(figures, plots_to)
  files.write_text(output, page)


def _asset(name: str) -> markupsafe.Markup:
  return markupsafe.Markup((_ASSETS / name).read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """The contents of a page; the page omits absent parts.

  `pairs` are answers to an evalset before and after training. `before` and
  `after` summarize games; `games` are those after training.
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


def write(
  material: Material, output: pathlib.Path, plots_to: pathlib.Path | None = None
) -> None:
  """Writes the page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  manifest, after = material.manifest, material.after
  games, pairs = material.games, material.pairs
  panels = plots.panels(material.metrics)
  curves = {panel.name: plots.curves(panel) for panel in panels}
  openings, maps = after and after.openings, {}
  if openings:
    maps["opening_as_X"] = plots.heat_map(openings.x, "as X")
    for cell, counts in openings.o.items():
      figure = plots.heat_map(counts, f"as O after {cell}", cell)
      maps[f"opening_as_O_after_{cell}"] = figure
  title = pairs[0].after.model if pairs else "Evaluation"
  title = after.model if after else title
  is_exact, lost = game_files.is_exact(after), lost_lines(games)
  write_page(
    output,
    "report.html",
    {"figures": curves, "openings": maps},
    plots_to,
    "board.js",
    title=manifest.run_id if manifest else title,
    manifest=manifest,
    config=manifest and yaml.safe_dump(manifest.config, sort_keys=False),
    before=sides(material, 0),
    after=sides(material, -1),
    no_move=game_files.no_move_rate,
    is_exact=is_exact,
    overall=delta_report.compare(pairs) if pairs else None,
    sections=delta_report.sections(pairs),
    chance=delta_report.chance(pairs) if pairs else None,
    table=policy_table(games) if is_exact else None,
    names=text_formats.COORDINATES,
    lost=lost[:_NUM_VISIBLE],
    more_lost=lost[_NUM_VISIBLE:_MAX_LINES],
    num_lost=len(lost),
    num_games=len(games),
    thoughts=thoughts(games, _NUM_THOUGHTS),
    opening=openings,
  )


def change_table(material: Material) -> str:
  """Formats lost lines and right answers before and after training.

  A row without both numbers is omitted; without rows, the text is empty.
  """
  before, after = sides(material, 0), sides(material, -1)
  rows = [("", "before", "after", "")]
  for mark in game_files.MARKS:
    lost = [s[mark].lost_text if mark in s else "" for s in (before, after)]
    if all(lost):
      rows.append((f"lost lines as {mark}", lost[0], lost[1], ""))
  if material.pairs:
    score = delta_report.compare(material.pairs)
    chance = delta_report.chance(material.pairs)
    noun = "items" if chance is None else "positions"
    rows.append(
      (
        f"right answers to {score.count} {noun}",
        f"{score.before:.3f}",
        f"{score.after:.3f}",
        f"  {score.change:+.3f}, 95% CI {score.low:+.3f} to {score.high:+.3f}",
      )
    )
  if len(rows) == 1:
    return ""
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
