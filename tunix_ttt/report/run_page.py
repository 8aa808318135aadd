"""Builds the HTML page of a run from its metrics, games and answers."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import importlib.resources
import pathlib
from typing import Any

import markupsafe
import yaml

from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.report import delta_report
from tunix_ttt.report import judged_boards
from tunix_ttt.report import play_table
from tunix_ttt.report import plots
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Lost lines that are visible, and those on the page including folded ones.
_NUM_VISIBLE, _MAX_LINES = 12, 120
_NUM_THOUGHTS, _NUM_RECORDED = 9, 40
_ASSETS = importlib.resources.files("tunix_ttt.report") / "assets"


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
  `after` summarize games; `games` are those of tic-tac-toe after training, and
  `recorded` those of any other game, with its `play`.
  """

  manifest: run_manifest.RunManifest | None = None
  metrics: Sequence[dict[str, Any]] = ()
  pairs: Sequence[delta_report.Pair] = ()
  before: game_files.Summary | None = None
  after: game_files.Summary | None = None
  games: Sequence[game_files.Game] = ()
  recorded: Sequence[recorded_games.Game] = ()
  play: play_table.Play | None = None


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
  after, games, recorded, play = summary(games_after), (), (), None
  if games_after is not None:
    if recorded_games.is_recorded(games_after):
      recorded = recorded_games.read_games(games_after)
      # Files of games name the game, but only the run has its options.
      section = (manifest and manifest.config.get("game")) or {}
      play = play_table.load(
        section.get("name", recorded[0].game),
        section.get("options", {}),
        after.policy if after else {},
      )
    else:
      games = game_files.read_games(games_after)
  return Material(
    manifest=manifest,
    metrics=metrics,
    pairs=() if answers is None else delta_report.read(*answers),
    before=summary(games_before),
    after=after,
    games=games,
    recorded=recorded,
    play=play,
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
  is_exact, lost = game_files.is_exact(after), judged_boards.lost_lines(games)
  table, script = material.play and material.play.table, "play.js"
  if games:
    script = "board.js"
    table = judged_boards.policy_table(games) if is_exact else None
  # The worst games come first.
  recorded = sorted(material.recorded, key=lambda game: game.reward)
  write_page(
    output,
    "report.html",
    {"figures": curves, "openings": maps},
    plots_to,
    script if table else None,
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
    table=table,
    has_board=bool(games),
    has_returns=any(side.returns for side in sides(material, -1).values()),
    mean_return=game_files.mean_return,
    has_thoughts=any(
      side.thought_no_claim_rate is not None
      for side in sides(material, -1).values()
    ),
    reason=material.play and material.play.reason,
    recorded=judged_boards.spread(recorded, _NUM_RECORDED),
    num_recorded=len(recorded),
    names=text_formats.COORDINATES,
    lost=lost[:_NUM_VISIBLE],
    more_lost=lost[_NUM_VISIBLE:_MAX_LINES],
    num_lost=len(lost),
    num_games=len(games),
    thoughts=judged_boards.thoughts(games, _NUM_THOUGHTS),
    opening=openings,
  )


def change_table(material: Material) -> str:
  """Formats lost lines and right answers before and after training.

  A row without both numbers is omitted; without rows, the text is empty.
  """
  before, after = sides(material, 0), sides(material, -1)
  rows = [("", "before", "after", "")]
  for mark in after:
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
  """Returns results by seat before (0) or after (-1) training.

  Recorded games take precedence over the run's own evaluations.
  """
  summary = material.after if index else material.before
  if summary is not None:
    return game_files.sides_of_summary(summary)
  return game_files.sides_of_evaluation(material.metrics, index)
