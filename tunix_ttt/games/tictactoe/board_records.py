"""Records of games and first moves, read strictly."""

from collections.abc import Iterator
import dataclasses
from typing import Annotated, Any, Literal, Self

import pydantic

from tunix_ttt import files
from tunix_ttt.games import board_page
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

Mark = Literal["X", "O"]
MARKS: dict[Mark, int] = {"X": rules.X, "O": rules.O}


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


# Counts of the nine cells, and last of answers that name no free cell.
Counts = Annotated[
  list[pydantic.NonNegativeInt],
  pydantic.Field(
    min_length=rules.NUM_CELLS + 1, max_length=rules.NUM_CELLS + 1
  ),
]
Cell = Annotated[int | None, pydantic.BeforeValidator(_cell)]
Board = Annotated[int, pydantic.BeforeValidator(_board)]


class Turn(files.Row):
  """A turn of the model: `board` before its answer, which names the cell `move`.

  The opponent's last move and the move are None if there is none; the reward is
  None outside of training.
  """

  board: Board
  opponent_move: Cell
  response: str
  move: Cell
  optimal: bool
  reward: float | None = None

  @property
  def is_legal(self) -> bool:
    """Whether the move takes a free cell."""
    legal = int(rules.legal_masks()[self.board])
    return self.move is not None and bool(legal >> self.move & 1)


class Game(files.Row):
  """A game, as `rollout.trajectory.describe` writes it; `board` is its end.

  `step` is the step of training, None in evaluations.
  """

  agent: Mark
  ending: str
  board: Board
  turns: Annotated[list[Turn], pydantic.Field(min_length=1)]
  step: pydantic.NonNegativeInt | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    # Games of training may start on any board.
    if self.step is None:
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

  def maps(self) -> Iterator[board_page.FirstMoves]:
    """Yields the counts as X, and as O on each board."""
    cells = text_formats.COORDINATES
    yield board_page.FirstMoves("opening_as_X", "as X", self.x, cells)
    for cell, counts in self.o.items():
      name, title = f"opening_as_O_after_{cell}", f"as O after {cell}"
      yield board_page.FirstMoves(name, title, counts, cells, {cell: "X"})
