"""Results of a model's games, read from any of the files that hold them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as play_lib

Rates = Mapping[str, float]
NO_MOVE = ("illegal_rate", "parse_error_rate", "truncated_rate")


class Side(NamedTuple):
  """Results of a model's games with one mark.

  Attributes:
    against: the rates of endings by the opponent's name; see `play.RATES`.
    optimal_move_rate: the share of optimal moves among its decisions.
    lines: different games, where all that there are were played.
    lines_lost: how many of them it neither won nor drew.
    intervals: the rates' 95% confidence intervals, where they were sampled.
  """

  against: dict[str, Rates]
  optimal_move_rate: float
  lines: int | None = None
  lines_lost: int | None = None
  intervals: Mapping[str, tuple[float, float]] | None = None

  @property
  def lost_text(self) -> str:
    """The lost lines as in "8 of 90"; empty where they were not played."""
    if self.lines_lost is None:
      return ""
    return str(self.lines_lost) + (f" of {self.lines}" if self.lines else "")


def no_move(rates: Rates) -> float:
  """Returns the share of games that end with an answer that is no move."""
  return sum(rates[name] for name in NO_MOVE)


def is_exact(summary: game_files.Summary | None) -> bool:
  """Returns whether every line was played, with both marks."""
  return (
    summary is not None
    and set(summary.results) == set(game_files.MARKS)
    and all(isinstance(r, play_lib.Exact) for r in summary.results.values())
  )


def of_summary(summary: game_files.Summary) -> dict[str, Side]:
  """Returns the results by the model's mark."""
  return {
    mark: _exact(result)
    if isinstance(result, play_lib.Exact)
    else Side(
      {str(summary.play.get("opponent", "its opponent")): result.rates},
      result.optimal_move_rate,
      intervals=result.intervals,
    )
    for mark, result in summary.results.items()
  }


def _exact(result: play_lib.Exact) -> Side:
  return Side(
    {"random": result.random, "optimal": result.optimal},
    result.optimal_move_rate,
    lines=result.lines,
    lines_lost=result.lines_lost,
  )


def at(metrics: Sequence[Mapping[str, Any]], index: int) -> dict[str, Side]:
  """Returns the results of one of a run's evaluations.

  Args:
    metrics: the rows of its `metrics.jsonl`.
    index: which of them: 0 for that before the first step, -1 for the last.
  """
  rows = [row for row in metrics if row["split"] == "eval"]
  if not rows or (index == 0 and rows[0]["step"] != 0):
    return {}
  return of_metrics(rows[index])


def of_metrics(row: Mapping[str, Any]) -> dict[str, Side]:
  """Returns the results of an evaluation in training, by the model's mark.

  Args:
    row: A row of `metrics.jsonl`; results are empty if no games were played.
  """
  found = {}
  for mark in game_files.MARKS:
    against: dict[str, dict[str, float]] = {}
    for key, value in row.items():
      opponent, _, rate = key.removeprefix(f"{mark}/").rpartition("/")
      if key.startswith(f"{mark}/") and rate in play_lib.RATES:
        # Rows of older runs do not have this one.
        rates = against.setdefault(opponent, {"unfinished_rate": 0.0})
        rates[rate] = value
    # A row that was cut or edited may lack some of them.
    against = {
      k: v for k, v in against.items() if len(v) == len(play_lib.RATES)
    }
    if against and f"{mark}/optimal_move_rate" in row:
      lost = row.get(f"{mark}/lines_lost")
      found[mark] = Side(
        dict(against),
        row[f"{mark}/optimal_move_rate"],
        lines_lost=None if lost is None else int(lost),
      )
  return found
