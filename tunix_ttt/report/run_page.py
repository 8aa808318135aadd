"""Builds the HTML page of a run from its metrics, games and answers."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any, NamedTuple

import yaml

from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games import board_page
from tunix_ttt.report import delta_report
from tunix_ttt.report import html_pages
from tunix_ttt.report import play_table
from tunix_ttt.report import plots
from tunix_ttt.report import result_tables
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

_NUM_RECORDED = 40
# Games of training on a page, those of each step, and the characters of all.
_NUM_TRAINING, _NUM_STEP, _MAX_TRAINING = 60, 4, 250_000


class Step(NamedTuple):
  """Games of a step of training."""

  number: int
  games: Sequence[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """The contents of a page; the page omits absent parts.

  `pairs` are answers to an evalset before and after training. `before` and
  `after` summarize games; `games` are records of those after training, to be
  drawn on the `board` or else shown as text. `play` has the tables to play from,
  or the reasons that there are none, of the model after and before training.
  `training` are records of games of training, and `downloads` the page's files.
  """

  manifest: run_manifest.RunManifest | None = None
  metrics: Sequence[dict[str, Any]] = ()
  pairs: Sequence[delta_report.Pair] = ()
  before: game_files.Summary | None = None
  after: game_files.Summary | None = None
  games: Sequence[Any] = ()
  board: board_page.BoardPage | None = None
  play: Mapping[str, play_table.Play] = dataclasses.field(default_factory=dict)
  training: Sequence[Any] = ()
  downloads: Sequence[html_pages.Download] = ()

  @property
  def sentence(self) -> str:
    """The main result."""
    return result_tables.sentence(sides(self, 0), sides(self, -1), self.pairs)

  @property
  def changes(self) -> list[result_tables.Change]:
    """The main results before and after training."""
    return result_tables.changes(sides(self, 0), sides(self, -1), self.pairs)


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
  manifest, metrics, training, downloads = None, [], None, []
  if run is not None:
    if games_after is None and (run / run_directory.GAMES).exists():
      games_after = run / run_directory.GAMES
    manifest = run_manifest.RunManifest.read(run)
    metrics = run_directory.read_metrics(run)
    manifest.check_files(run)
    table = html_pages.to_csv(metrics)
    downloads.append(
      html_pages.download("metrics.csv", table, run / run_directory.METRICS)
    )
    rollouts = run / run_directory.ROLLOUTS
    # Without a logged step the file is empty.
    if rollouts.exists() and rollouts.stat().st_size:
      training = _Games.read(rollouts)
      downloads.append(_file(run_directory.ROLLOUTS, rollouts))
  games = {}
  for label, path in (("before", games_before), ("after", games_after)):
    if path is not None:
      summary = game_files.summary_path(path)
      games[label] = _Games.read(path, summary)
      downloads.append(_file(f"games_{label}.jsonl", path))
      downloads.append(_file(f"results_{label}.json", summary))
  before, after = games.get("before"), games.get("after")
  section = (manifest and manifest.config.get("game")) or {}
  drawn = after or training
  # A page draws the games of one game.
  if training and drawn and training.board != drawn.board:
    training = None
  return Material(
    manifest=manifest,
    metrics=metrics,
    pairs=() if answers is None else delta_report.read(*answers),
    before=before and before.summary,
    after=after and after.summary,
    games=after.records if after else (),
    board=drawn and drawn.board,
    play={
      label: each.play(section)
      for label, each in games.items()
      if drawn and each.board == drawn.board
    },
    training=training.records if training else (),
    downloads=downloads,
  )


class _Games(NamedTuple):
  """A file of games, with its summary and the board that they are drawn on."""

  board: board_page.BoardPage | None
  records: Sequence[Any]
  summary: game_files.Summary | None = None

  @classmethod
  def read(
    cls, path: pathlib.Path, summary: pathlib.Path | None = None
  ) -> "_Games":
    board = recorded_games.board_of(path)
    results = summary and game_files.read_summary(summary, board)
    return cls(board, recorded_games.read_games(path), results)

  def play(self, section: Mapping[str, Any]) -> play_table.Play:
    """Returns the table to play from, given the config's `game`."""
    assert self.summary is not None
    if self.board is not None:
      is_exact = game_files.is_exact(self.summary)
      return play_table.Play(
        self.board.table(self.records) if is_exact else None
      )
    # Files of games name the game, but only the run has its options.
    name = section.get("name", self.records[0].game)
    return play_table.load(
      name, section.get("options", {}), self.summary.policy
    )


def _file(name: str, path: pathlib.Path) -> html_pages.Download:
  return html_pages.download(name, path.read_bytes(), path)


def write(
  material: Material, output: pathlib.Path, plots_to: pathlib.Path | None = None
) -> None:
  """Writes the page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  manifest, after, pairs = material.manifest, material.after, material.pairs
  board, last = material.board, material.play.get("after")
  past, now = sides(material, 0), sides(material, -1)
  title = pairs[0].after.model if pairs else "Evaluation"
  title = after.model if after else title
  scripts, values, recorded, tables = [], None, [], {}
  if last and last.table:
    tables = {n: play.table for n, play in material.play.items() if play.table}
    source = (delta_report.PACKAGE, "play.js")
    scripts = [source if board is None else (board.package, "board.js")]
  if board is None:
    # The worst games come first.
    recorded = sorted(material.games, key=lambda game: game.reward)
  elif material.games:
    values = board.values(material.games)
  openings = board and after and after.openings
  training = [
    step._replace(games=[*map(board.replay, step.games)]) if board else step
    for step in _steps(material.training)
  ]
  html_pages.write(
    output,
    "report.html",
    html_pages.curves(plots.panels(material.metrics)),
    plots_to,
    maps={m.name: plots.heat_map(m) for m in openings.maps()}
    if openings
    else {},
    scripts=scripts,
    package=board.package if board else delta_report.PACKAGE,
    title=manifest.run_id if manifest else title,
    sentence=material.sentence,
    changes=material.changes,
    num_steps=max((row["step"] for row in material.metrics), default=0),
    manifest=manifest,
    config=manifest and yaml.safe_dump(manifest.config, sort_keys=False),
    columns=["before", "after"] if past else ["result"],
    results=result_tables.by_seat([past, now] if past else [now]),
    is_exact=game_files.is_exact(after),
    has_thoughts=any(
      side.thought_no_claim_rate is not None for side in now.values()
    ),
    has_intervals=any(side.intervals for side in now.values()),
    overall=delta_report.compare(pairs) if pairs else None,
    sections=delta_report.sections(pairs),
    chance=delta_report.chance(pairs) if pairs else None,
    tables=tables,
    board=board,
    lines=values,
    reason=last.reason if last else "",
    recorded=board_page.spread(recorded, _NUM_RECORDED),
    num_recorded=len(recorded),
    opening=openings,
    training=training,
    num_training=len(material.training),
    downloads=material.downloads,
  )


def _steps(games: Sequence[Any]) -> list[Step]:
  """Returns games of steps that are evenly spaced, as many as a page has."""
  steps = [
    Step(number, [*group][:_NUM_STEP])
    for number, group in itertools.groupby(games, lambda game: game.step)
  ]
  if not steps:
    return []
  few = [game for step in steps for game in step.games]
  size = sum(len(game.model_dump_json()) for game in few) / len(few)
  number = min(_NUM_TRAINING, _MAX_TRAINING / size) * len(steps) / len(few)
  return board_page.spread(steps, max(int(number), 1))


def sides(material: Material, index: int) -> dict[str, game_files.Side]:
  """Returns results by seat before (0) or after (-1) training.

  Recorded games take precedence over the run's own evaluations.
  """
  summary = material.after if index else material.before
  if summary is not None:
    return game_files.sides_of_summary(summary)
  return game_files.sides_of_evaluation(material.metrics, index)
