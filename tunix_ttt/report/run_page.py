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
from tunix_ttt.games import board_page
from tunix_ttt.report import delta_report
from tunix_ttt.report import play_table
from tunix_ttt.report import plots
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

_NUM_RECORDED = 40


def write_page(
  output: pathlib.Path,
  template: str,
  groups: Mapping[str, Mapping[str, plots.Figure]],
  plots_to: pathlib.Path | None,
  script: str | None = None,
  package: str = delta_report.PACKAGE,
  **values: Any,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  The template gets each group of figures as SVG, and values, which are escaped.
  The page may run no script but `script`, a file of `assets` of the package,
  whose templates the template can import.

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
    code = _asset(script, package)
    digest = hashlib.sha256(code.encode()).digest()
    # A source expression of the page's Content-Security-Policy.
    source = f"sha256-{base64.b64encode(digest).decode()}"
  page = delta_report.template(
    template, autoescape=True, packages=[package]
  ).render(
    style=_asset("page.css"), script=code, script_digest=source, **values
  )
  if plots_to is not None:
    figures = {k: v for group in groups.values() for k, v in group.items()}
    plots.save(figures, plots_to)
  files.write_text(output, page)


def _asset(name: str, package: str = delta_report.PACKAGE) -> markupsafe.Markup:
  path = importlib.resources.files(package) / "assets" / name
  return markupsafe.Markup(path.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """The contents of a page; the page omits absent parts.

  `pairs` are answers to an evalset before and after training. `before` and
  `after` summarize games; `games` are records of those after training, to be
  drawn on the `board` or else shown as text, with a table to `play` from.
  """

  manifest: run_manifest.RunManifest | None = None
  metrics: Sequence[dict[str, Any]] = ()
  pairs: Sequence[delta_report.Pair] = ()
  before: game_files.Summary | None = None
  after: game_files.Summary | None = None
  games: Sequence[Any] = ()
  board: board_page.BoardPage | None = None
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
  manifest, metrics = None, []
  if run is not None:
    if games_after is None and (run / run_directory.GAMES).exists():
      games_after = run / run_directory.GAMES
    manifest = run_manifest.RunManifest.read(run)
    metrics = run_directory.read_metrics(run)
    manifest.check_files(run)
  before = after = board = play = None
  games: Sequence[Any] = ()
  if games_before is not None:
    before = game_files.read_summary(game_files.summary_path(games_before))
  if games_after is not None:
    board = recorded_games.board_of(games_after)
    path = game_files.summary_path(games_after)
    after = game_files.read_summary(path, board)
    games = recorded_games.read_games(games_after)
    if board is None:
      # Files of games name the game, but only the run has its options.
      section = (manifest and manifest.config.get("game")) or {}
      name = section.get("name", games[0].game)
      play = play_table.load(name, section.get("options", {}), after.policy)
  return Material(
    manifest=manifest,
    metrics=metrics,
    pairs=() if answers is None else delta_report.read(*answers),
    before=before,
    after=after,
    games=games,
    board=board,
    play=play,
  )


def write(
  material: Material, output: pathlib.Path, plots_to: pathlib.Path | None = None
) -> None:
  """Writes the page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  manifest, after, pairs = material.manifest, material.after, material.pairs
  board, is_exact = material.board, game_files.is_exact(material.after)
  panels = plots.panels(material.metrics)
  curves = {panel.name: plots.curves(panel) for panel in panels}
  title = pairs[0].after.model if pairs else "Evaluation"
  title = after.model if after else title
  table, script = material.play and material.play.table, "play.js"
  package, values, maps, recorded = delta_report.PACKAGE, None, {}, []
  if board is None:
    # The worst games come first.
    recorded = sorted(material.games, key=lambda game: game.reward)
  else:
    values = board.values(material.games, is_exact)
    table, script, package = values["table"], "board.js", board.package
    if after and after.openings:
      maps = {m.name: plots.heat_map(m) for m in after.openings.maps()}
  write_page(
    output,
    "report.html",
    {"figures": curves, "openings": maps},
    plots_to,
    script if table else None,
    package,
    title=manifest.run_id if manifest else title,
    num_steps=max((row["step"] for row in material.metrics), default=0),
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
    board=values,
    has_returns=any(side.returns for side in sides(material, -1).values()),
    mean_return=game_files.mean_return,
    has_thoughts=any(
      side.thought_no_claim_rate is not None
      for side in sides(material, -1).values()
    ),
    reason=material.play and material.play.reason,
    recorded=board_page.spread(recorded, _NUM_RECORDED),
    num_recorded=len(recorded),
    opening=after and after.openings,
  )


def change_table(material: Material) -> str:
  """Formats results before and after training.

  A row without both numbers is omitted; without rows, the text is empty.
  """
  before, after = sides(material, 0), sides(material, -1)
  rows = [("", "before", "after", "")]
  for mark in after:
    lost = [s[mark].lost_text if mark in s else "" for s in (before, after)]
    if all(lost):
      rows.append((f"lost lines as {mark}", lost[0], lost[1], ""))
  shares = {
    "draws with optimal": lambda side: side.against.get("optimal", {}).get(
      "draw_rate"
    ),
    "true thoughts": lambda side: side.thought_true_rate,
  }
  for name, share in shares.items():
    for mark in after:
      values = [share(s[mark]) if mark in s else None for s in (before, after)]
      texts = [f"{100 * x:.1f} %" for x in values if x is not None]
      if len(texts) == 2:
        rows.append((f"{name} as {mark}", texts[0], texts[1], ""))
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
