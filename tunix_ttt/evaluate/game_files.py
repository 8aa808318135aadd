"""Reads files of games, and results from summaries and metrics."""

from collections.abc import Mapping, Sequence
import pathlib
from types import MappingProxyType
from typing import Any, NamedTuple

import pydantic

from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games import board_page
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_manifest


class Answer(NamedTuple):
  """A greedy answer to an observation.

  `move` is the first spelling of its action, None for an unreadable answer.
  """

  observation: str
  response: str
  move: str | None


class Summary(pydantic.BaseModel):
  """The summary written beside a file of games.

  `revision` is `checkpoints.Model.revision`, None in older files; `openings` are
  the fields of `BoardPage.openings`, None if first moves were not sampled.
  `policy` has each observation of a seat with the response and its move, for
  games that are judged by their states.
  """

  model: str
  revision: str | None = None
  play: dict[str, Any]
  results: dict[str, rates_lib.Exact | rates_lib.Stochastic | rates_lib.Sampled]
  openings: Any = None
  policy: dict[str, list[Answer]] = {}


def summary_path(games: pathlib.Path) -> pathlib.Path:
  """Returns the path of the summary of a file of games."""
  return games.with_suffix(".summary.json")


def check_absent(output: pathlib.Path) -> None:
  """Raises a UserError if the games or their summary exist."""
  processes.check_output(output)
  processes.check_output(summary_path(output))


def read_summary(
  path: pathlib.Path, board: board_page.BoardPage | None = None
) -> Summary:
  """Reads a summary of games; its openings are parsed if there is a board.

  Raises:
    errors.UserError: If the file is something else.
  """
  kind = Summary
  if board is not None:
    openings: Any = (board.openings | None, None)
    kind = pydantic.create_model("Summary", __base__=Summary, openings=openings)
  return run_manifest.read_record(kind, path, "summary of games")


class Side(NamedTuple):
  """Results of a model's games in one seat.

  `against` has the rates of endings (`rates.RATES`) by opponent. `lines`,
  `lines_lost` and `returns` are as in `rates.Exact`, None or empty if unknown;
  so is the number of sampled `games`. `intervals` are 95% confidence intervals of
  the rates by opponent, and the rates of thoughts are as in `rates.Exact`.
  """

  against: Mapping[str, Mapping[str, float]]
  optimal_move_rate: float | None = None
  lines: int | None = None
  lines_lost: int | None = None
  games: int | None = None
  intervals: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {}
  )
  returns: Mapping[str, float] = MappingProxyType({})
  thought_true_rate: float | None = None
  thought_no_claim_rate: float | None = None

  @property
  def lost_text(self) -> str:
    """The lost lines as in "8 of 90"; empty for sampled games."""
    if self.lines_lost is None:
      return ""
    return str(self.lines_lost) + (f" of {self.lines}" if self.lines else "")


def mean_return(side: Side, opponent: str) -> float | None:
  """Returns the mean return against an opponent, None if it is unknown."""
  return side.returns.get(opponent, side.returns.get("mean"))


def no_move_rate(rates: Mapping[str, float]) -> float:
  """Returns the share of games that end with an answer that is no move."""
  names = ("illegal_rate", "parse_error_rate", "truncated_rate")
  return sum(rates[name] for name in names)


def is_exact(summary: Summary | None) -> bool:
  """Returns whether a summary covers every line in all seats."""
  return (
    summary is not None
    and len(summary.results) > 0
    and all(isinstance(r, rates_lib.Exact) for r in summary.results.values())
  )


def sides_of_summary(summary: Summary) -> dict[str, Side]:
  """Returns the results in a summary by the model's seat."""
  sides = {}
  opponent = str(summary.play.get("opponent", "its opponent"))
  for seat, result in summary.results.items():
    side = Side(
      result.against(opponent),
      returns=result.returns,
      **{name: getattr(result, name) for name in rates_lib.OF_DECISIONS},
    )
    if isinstance(result, rates_lib.Exact):
      side = side._replace(lines=result.lines, lines_lost=result.lines_lost)
    elif isinstance(result, rates_lib.Sampled):
      intervals = {opponent: result.intervals}
      side = side._replace(games=result.games, intervals=intervals)
    else:
      side = side._replace(intervals=result.intervals)
    sides[seat] = side
  return sides


def sides_of_evaluation(
  metrics: Sequence[Mapping[str, Any]], index: int
) -> dict[str, Side]:
  """Returns the results by seat of one evaluation in `metrics.jsonl`.

  The index is 0 for the evaluation before the first step, -1 for the last one.
  """
  rows = [row for row in metrics if row["split"] == "eval"]
  if not rows or (index == 0 and rows[0]["step"] != 0):
    return {}
  return sides_of_metrics(rows[index])


def sides_of_metrics(row: Mapping[str, Any]) -> dict[str, Side]:
  """Returns the results in a row of `metrics.jsonl` by the model's seat.

  A seat without all of its metrics, as in an edited file, has no results.
  """
  by_seat: dict[str, dict[str, dict[str, float]]] = {}
  returns: dict[str, dict[str, float]] = {}
  for key, value in row.items():
    seat, _, rest = key.partition("/")
    opponent, _, name = rest.rpartition("/")
    if opponent == "return":
      returns.setdefault(seat, {})[name] = value
    elif opponent and name in rates_lib.RATES:
      # Older runs have no `unfinished_rate`.
      rates = by_seat.setdefault(seat, {}).setdefault(
        opponent, {"unfinished_rate": 0.0}
      )
      rates[name] = value
  sides = {}
  whole = len(rates_lib.RATES)
  for seat, every in by_seat.items():
    against = {k: v for k, v in every.items() if len(v) == whole}
    # Older runs have no `lines`.
    lost, lines = row.get(f"{seat}/lines_lost"), row.get(f"{seat}/lines")
    if against:
      side = Side(
        against,
        lines=None if lines is None else int(lines),
        lines_lost=None if lost is None else int(lost),
        returns=returns.get(seat, {}),
      )
      shares = {n: row.get(f"{seat}/{n}") for n in rates_lib.OF_DECISIONS}
      sides[seat] = side._replace(**shares)
  return sides
