"""Builds the HTML page of a run from its metrics, games and answers."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import importlib.resources
import pathlib
from typing import Any, NamedTuple

import jinja2
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

# Cell of an unreadable answer in the policy table.
UNREADABLE = -1


class Ply(NamedTuple):
  """A move of a recorded game.

  Attributes:
    mark: Mark of the player, `X` or `O`.
    cell: Name of the cell.
    is_optimal: Whether the move is optimal.
    is_models: Whether the model made the move.
  """

  mark: str
  cell: str
  is_optimal: bool
  is_models: bool


class Line(NamedTuple):
  """A recorded game with each move judged.

  Attributes:
    agent: Mark of the model.
    ending: Ending of the game for the model.
    plies: All moves.
    last: The model's last answer if it was not a legal move, else None.
    cells: Number of the ply that took each cell; 0 for a free cell.
    marks: Board at the end, nine of `.XO`.
    slips: Cells of moves that were not optimal.
  """

  agent: str
  ending: str
  plies: list[Ply]
  last: str | None
  cells: list[int]
  marks: str
  slips: list[int]


class Thought(NamedTuple):
  """A model's answer on a board, judged.

  Attributes:
    board: Board, nine of `.XO`.
    mark: Mark of the model.
    response: Text of the answer.
    move: Name of the cell in the answer; None if it is unreadable.
    is_optimal: Whether the move is optimal.
    best: Names of the optimal cells.
  """

  board: str
  mark: str
  response: str
  move: str | None
  is_optimal: bool
  best: str


def lost_lines(games: Iterable[game_files.Game]) -> list[Line]:
  """Returns the games that are neither a win nor a draw of the model."""
  return [line(game) for game in games if game.is_lost]


def line(game: game_files.Game) -> Line:
  """Judges each move of a game."""
  board, plies, slips = rules.EMPTY_BOARD, [], []
  cells = [0] * rules.NUM_CELLS
  for number, cell in enumerate(game.moves()):
    mark = text_formats.MARK_NAMES[rules.O if number % 2 else rules.X]
    is_optimal = cell in solver.optimal_cells(board)
    slips += [] if is_optimal else [cell]
    plies.append(
      Ply(
        mark=mark,
        cell=text_formats.coordinate(cell),
        is_optimal=is_optimal,
        is_models=mark == game.agent,
      )
    )
    cells[cell] = number + 1
    board = int(rules.successors()[board, cell])
  last = game.turns[-1]
  return Line(
    agent=game.agent,
    ending=game.ending.replace("_", " "),
    plies=plies,
    last=None if last.is_legal else last.response,
    cells=cells,
    marks=board_text.to_text(board),
    slips=slips,
  )


def thoughts(games: Iterable[game_files.Game], count: int) -> list[Thought]:
  """Returns up to `count` distinct answers, up to a third of them mistakes."""
  answers: dict[tuple[int, str], Thought] = {}
  for game in games:
    for turn in game.turns:
      best = solver.optimal_cells(turn.board)
      answers.setdefault(
        (turn.board, turn.response),
        Thought(
          board=board_text.to_text(turn.board),
          mark=game.agent,
          response=turn.response,
          move=None
          if turn.move is None
          else text_formats.coordinate(turn.move),
          is_optimal=turn.move in best,
          best=", ".join(map(text_formats.coordinate, best)),
        ),
      )
  wrong = [thought for thought in answers.values() if not thought.is_optimal]
  right = [thought for thought in answers.values() if thought.is_optimal]
  mistakes = _spread(wrong, count // 3)
  return mistakes + _spread(right, count - len(mistakes))


def _spread(items: Sequence[Thought], count: int) -> list[Thought]:
  """Returns at most `count` items, evenly spaced in the sequence."""
  if len(items) <= count:
    return list(items)
  return [items[len(items) * n // count] for n in range(count)]


def policy_table(games: Iterable[game_files.Game]) -> dict[str, Any]:
  """Tabulates a greedy policy as plain data that a page can play from.

  Args:
    games: Games on every line, as X and as O.

  Returns:
    `says` is a list of distinct responses. `first` is the 9-bit mask of the
    optimal cells of the empty board. `answers` maps the model's mark and the
    other side's moves so far, a string of cells from 0 to 8, to a tuple: the
    index of the response, the cell it names, and the masks of the optimal cells
    before and after the move, 0 after a move that ends the game.
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
        UNREADABLE if turn.move is None else turn.move,
        int(optimal[turn.board]),
        int(optimal[after]) if turn.is_legal else 0,
      )
  return {
    "says": list(responses),
    "first": int(optimal[rules.EMPTY_BOARD]),
    "answers": answers,
  }


_ASSETS = importlib.resources.files("tunix_ttt.report") / "assets"


def render_template(
  template: str, script: str | None = None, **values: Any
) -> str:
  """Renders a template of `assets`; all values are escaped.

  The page may run no script but `script`, a file of `assets`.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("tunix_ttt.report", "assets"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  code, source = None, None
  if script is not None:
    code = _asset(script)
    digest = hashlib.sha256(code.encode()).digest()
    # A source expression of the page's Content-Security-Policy.
    source = f"sha256-{base64.b64encode(digest).decode()}"
  return environment.get_template(template).render(
    style=_asset("page.css"), script=code, script_digest=source, **values
  )


def write_page(
  output: pathlib.Path,
  page: str,
  figures: Mapping[str, plots.Figure],
  plots_to: pathlib.Path | None,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  files.check_absent(output)
  if plots_to is not None:
    plots.save(figures, plots_to)
  files.write_text(output, page)


def inline(figures: Iterable[plots.Figure]) -> list[markupsafe.Markup]:
  """Returns figures as SVG markup for a template."""
  # Matplotlib escapes the text.
  return [markupsafe.Markup(plots.inline_svg(figure)) for figure in figures]


def _asset(name: str) -> markupsafe.Markup:
  return markupsafe.Markup((_ASSETS / name).read_text(encoding="utf-8"))


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
  write_page(output, text, curves | maps, plots_to)


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
  lost = lost_lines(games)
  return render_template(
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
    table=policy_table(games) if is_exact else None,
    lost=lost[:_NUM_VISIBLE],
    more_lost=lost[_NUM_VISIBLE:_MAX_LINES],
    num_lost=len(lost),
    num_games=len(games),
    thoughts=thoughts(games, _NUM_THOUGHTS),
    figures=inline(curves.values()),
    openings=inline(maps.values()),
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
