"""Games and their summaries as files, as `eval_play.py` and runs write them."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import rates as play_lib
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_manifest

Mark = Literal["X", "O"]
MARKS: dict[Mark, int] = {"X": rules.X, "O": rules.O}

_ENDINGS = {
  ending.name.lower()
  for ending in trajectory_lib.Ending
  if ending != trajectory_lib.Ending.ONGOING
}


def _cell(name: Any) -> int | None:
  if name is None:
    return None
  if name not in prompts.COORDINATES:
    raise ValueError("expected a cell, A1 to C3, or null")
  return prompts.cell_from_coordinate(name)


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


Counts = Annotated[
  list[pydantic.NonNegativeInt],
  pydantic.Field(
    min_length=rules.NUM_CELLS + 1, max_length=rules.NUM_CELLS + 1
  ),
]
Cell = Annotated[int | None, pydantic.BeforeValidator(_cell)]
Board = Annotated[int, pydantic.BeforeValidator(_board)]


class _Row(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class Turn(_Row):
  """An answer of the model.

  Attributes:
    board: what it was asked about.
    opponent_move: the cell taken last, None at the start.
    response: what it said.
    move: the cell it named, None where its answer cannot be read.
    optimal: whether that was an optimal move.
  """

  board: Board
  opponent_move: Cell
  response: str
  move: Cell
  optimal: bool

  @property
  def is_legal(self) -> bool:
    """Whether the move is one that the board allows."""
    legal = int(rules.legal_masks()[self.board])
    return self.move is not None and bool(legal >> self.move & 1)


class Game(_Row):
  """A game of a model, as `rollout.trajectory.describe` writes it.

  Attributes:
    agent: the model's mark.
    ending: for the model, the name of an `Ending` in small letters.
    board: at the end.
    turns: the model's.
  """

  agent: Mark
  ending: Annotated[str, pydantic.BeforeValidator(_ending)]
  board: Board
  turns: Annotated[list[Turn], pydantic.Field(min_length=1)]

  @property
  def is_lost(self) -> bool:
    """Whether the model neither won nor drew."""
    return self.ending not in ("win", "draw")

  def moves(self) -> tuple[int, ...]:
    """Returns all moves that were made, X's first; illegal ones are none.

    Raises:
      ValueError: if a board does not follow from the one before.
    """
    made: list[int] = []
    board = rules.EMPTY_BOARD
    for asked in (*(turn.board for turn in self.turns), self.board):
      made += _added(board, asked)
      board = asked
    for number, cell in enumerate(made):
      mark = rules.cells()[self.board][cell]
      if mark != (rules.O if number % 2 else rules.X):
        raise ValueError("the boards are not those of one game")
    return tuple(made)


def _added(before: int, after: int) -> list[int]:
  """Returns the moves between two boards of a game, in their order."""
  ours, theirs = rules.cells()[before], rules.cells()[after]
  if ((ours != theirs) & (ours != rules.EMPTY)).any():
    raise ValueError("a mark of one board is not on the next")
  new = [int(cell) for cell in (ours != theirs).nonzero()[0]]
  if len(new) > 2:
    raise ValueError("more than two moves lie between two boards")
  first = rules.side_to_move()[before]
  return sorted(new, key=lambda cell: theirs[cell] != first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openings:
  """Counts of a model's first moves by cell.

  Attributes:
    temperature: Sampling temperature.
    x: as X, the answers that name each cell, and last those that name none.
    o: as O, the same by the cell that X has taken; taken cells count as none.
  """

  temperature: float
  x: Counts
  o: dict[str, Counts]


class Summary(pydantic.BaseModel):
  """The summary written beside a file of games.

  Attributes:
    model: who played, as it was called there.
    revision: its `checkpoints.Model.revision`; None in summaries without one.
    play: the settings of play.
    results: by the model's mark.
    openings: its first moves, where they were sampled.
  """

  model: str
  revision: str | None = None
  play: dict[str, Any]
  results: dict[Mark, play_lib.Exact | play_lib.Sampled]
  openings: Openings | None = None


def summary_path(games: pathlib.Path) -> pathlib.Path:
  """Returns where the summary of a file of games is."""
  return games.with_suffix(".summary.json")


def check_absent(output: pathlib.Path) -> None:
  """Raises a UserError if there are such games or such a summary."""
  files.check_output(output)
  files.check_output(summary_path(output))


def read_summary(path: pathlib.Path) -> Summary:
  """Reads a summary of games.

  Raises:
    errors.UserError: if it is none.
  """
  return run_manifest.read_record(Summary, path, "summary of games")


def read_games(path: pathlib.Path) -> list[Game]:
  """Reads games.

  Raises:
    errors.UserError: naming the line that is no game.
  """
  games = []
  for number, row in files.read_jsonl(path, "file of games"):
    try:
      game = Game.model_validate(row)
      game.moves()
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      where = ".".join(map(str, first["loc"]))
      found = f"{where}: {first['msg']}"
    except ValueError as error:
      found = str(error)
    else:
      games.append(game)
      continue
    raise errors.UserError(
      f"{path}:{number}: {found}; is this a file that eval_play.py wrote?"
    )
  return games
