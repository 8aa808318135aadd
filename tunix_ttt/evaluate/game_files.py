"""Reads files of games, and results from summaries and metrics."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self

import pydantic

from tunix_ttt import files
from tunix_ttt.evaluate import evalsets
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_manifest

Mark = Literal["X", "O"]
MARKS: dict[Mark, int] = {"X": rules.X, "O": rules.O}

_ENDINGS = {e.name.lower() for e in trajectory_lib.Ending} - {"ongoing"}


def _cell(name: Any) -> int | None:
  if name is not None and name not in text_formats.COORDINATES:
    raise ValueError("expected a cell, A1 to C3, or null")
  return None if name is None else text_formats.cell_from_coordinate(name)


def _board(text: Any) -> int:
  if not isinstance(text, str) or len(text) != 9 or set(text) - set(".XO"):
    raise ValueError("expected a board of nine of .XO")
  board = board_text.from_text(text)
  if not rules.reachable()[board]:
    raise ValueError(f"no game reaches the board {text}")
  return board


def _ending(name: Any) -> str:
  if name not in _ENDINGS:
    raise ValueError(f"expected one of {', '.join(sorted(_ENDINGS))}")
  return name


# Counts of the nine cells, and last of answers that name no free cell.
Counts = Annotated[
  list[pydantic.NonNegativeInt],
  pydantic.Field(
    min_length=rules.NUM_CELLS + 1, max_length=rules.NUM_CELLS + 1
  ),
]
Cell = Annotated[int | None, pydantic.BeforeValidator(_cell)]
Board = Annotated[int, pydantic.BeforeValidator(_board)]
Ending = Annotated[str, pydantic.BeforeValidator(_ending)]


class Row(pydantic.BaseModel):
  """A strict, frozen record; an unknown key is an error."""

  model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class Turn(Row):
  """A turn of the model: `board` before its answer, which names the cell `move`.

  The opponent's last move and the move are None if there is none.
  """

  board: Board
  opponent_move: Cell
  response: str
  move: Cell
  optimal: bool

  @property
  def is_legal(self) -> bool:
    """Whether the move takes a free cell."""
    legal = int(rules.legal_masks()[self.board])
    return self.move is not None and bool(legal >> self.move & 1)


class Game(Row):
  """A game, as `rollout.trajectory.describe` writes it; `board` is its end."""

  agent: Mark
  ending: Ending
  board: Board
  turns: Annotated[list[Turn], pydantic.Field(min_length=1)]

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    self.moves()
    return self

  @property
  def is_lost(self) -> bool:
    """Whether the game is neither a win nor a draw of the model."""
    return self.ending not in ("win", "draw")

  def moves(self) -> tuple[int, ...]:
    """Returns the legal moves of both players as cells, X's first."""
    moves: list[int] = []
    before = rules.EMPTY_BOARD
    for after in (*(turn.board for turn in self.turns), self.board):
      marks, new = rules.cells()[before], rules.cells()[after]
      changed = marks != new
      if (changed & (marks != rules.EMPTY)).any():
        raise ValueError("a mark of one board is not on the next")
      if changed.sum() > 2:
        raise ValueError("more than two moves lie between two boards")
      is_second = (new != rules.side_to_move()[before]).tolist()
      cells = changed.nonzero()[0].tolist()
      moves += sorted(cells, key=is_second.__getitem__)
      before = after
    for number, cell in enumerate(moves):
      mark = rules.cells()[self.board][cell]
      if mark != (rules.O if number % 2 else rules.X):
        raise ValueError("the boards belong to different games")
    return tuple(moves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openings:
  """Counts of a model's first moves as X, and as O by the cell X has taken."""

  temperature: float
  x: Counts
  o: dict[str, Counts]


class Answer(NamedTuple):
  """A greedy answer to an observation.

  `move` is the first spelling of its action, None for an unreadable answer.
  """

  observation: str
  response: str
  move: str | None


class Summary(pydantic.BaseModel):
  """The summary written beside a file of games.

  `revision` is `checkpoints.Model.revision`, None in older files; `openings` is
  None if first moves were not sampled. `policy` has each observation of a seat
  with the response and its move, for games that are judged by their states.
  """

  model: str
  revision: str | None = None
  play: dict[str, Any]
  results: dict[str, rates_lib.Exact | rates_lib.Stochastic | rates_lib.Sampled]
  openings: Openings | None = None
  policy: dict[str, list[Answer]] = {}


def summary_path(games: pathlib.Path) -> pathlib.Path:
  """Returns the path of the summary of a file of games."""
  return games.with_suffix(".summary.json")


def check_absent(output: pathlib.Path) -> None:
  """Raises a UserError if the games or their summary exist."""
  files.check_output(output)
  files.check_output(summary_path(output))


def read_summary(path: pathlib.Path) -> Summary:
  """Reads a summary of games; raises a UserError if it is something else."""
  return run_manifest.read_record(Summary, path, "summary of games")


def read_games(path: pathlib.Path) -> list[Game]:
  """Reads a JSONL file of games; a line that is no game is a UserError."""
  rows = evalsets.read_rows(Game, path, "file of games", "eval_play.py")
  return [game for _, game in rows]


class Side(NamedTuple):
  """Results of a model's games in one seat.

  `against` has the rates of endings (`rates.RATES`) by opponent. `lines`,
  `lines_lost` and `returns` are as in `rates.Exact`, None or empty if unknown;
  `intervals` are as in `rates.Sampled`.
  """

  against: Mapping[str, Mapping[str, float]]
  optimal_move_rate: float | None = None
  lines: int | None = None
  lines_lost: int | None = None
  intervals: Mapping[str, tuple[float, float]] | None = None
  returns: Mapping[str, float] = MappingProxyType({})

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
      result.optimal_move_rate,
      returns=result.returns,
    )
    if isinstance(result, rates_lib.Exact):
      side = side._replace(lines=result.lines, lines_lost=result.lines_lost)
    elif isinstance(result, rates_lib.Sampled):
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
    lost = row.get(f"{seat}/lines_lost")
    if against:
      sides[seat] = Side(
        against,
        row.get(f"{seat}/optimal_move_rate"),
        lines_lost=None if lost is None else int(lost),
        returns=returns.get(seat, {}),
      )
  return sides
