"""Selects and judges games and answers that illustrate how a model plays."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver


class Ply(NamedTuple):
  """A move of a recorded game.

  Attributes:
    mark: whose, `X` or `O`.
    cell: where, by its name.
    is_optimal: whether it kept the board's value.
    is_models: whether the model made it.
  """

  mark: str
  cell: str
  is_optimal: bool
  is_models: bool


class Line(NamedTuple):
  """A recorded game, for a small board.

  Attributes:
    agent: the model's mark.
    ending: how it ended for the model.
    plies: all moves.
    last: what the model said last, where that was no move.
    cells: for each cell the number of the ply that took it, 0 for none.
    marks: the board at the end, nine of `.XO`.
    slips: the cells that were taken by moves that were not optimal.
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
    board: nine of `.XO`.
    mark: the model's.
    said: its words.
    move: the cell they name, if any.
    is_optimal: whether that is an optimal move.
    best: the optimal cells.
  """

  board: str
  mark: str
  said: str
  move: str | None
  is_optimal: bool
  best: str


def lost_lines(games: Iterable[game_files.Game]) -> list[Line]:
  """Returns the games that the model neither won nor drew."""
  return [line(game) for game in games if game.is_lost]


def line(game: game_files.Game) -> Line:
  """Returns a game as its moves, each judged."""
  board, plies, slips = rules.EMPTY_BOARD, [], []
  cells = [0] * rules.NUM_CELLS
  for number, cell in enumerate(game.moves()):
    mark = prompts.MARK_NAMES[rules.O if number % 2 else rules.X]
    is_optimal = cell in solver.optimal_cells(board)
    slips += [] if is_optimal else [cell]
    plies.append(
      Ply(
        mark=mark,
        cell=prompts.coordinate(cell),
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
  """Returns some of what a model says, mistakes among it if it makes any.

  Args:
    games: where it says so.
    count: how much of it.
  """
  said: dict[tuple[int, str], Thought] = {}
  for game in games:
    for turn in game.turns:
      best = solver.optimal_cells(turn.board)
      said.setdefault(
        (turn.board, turn.response),
        Thought(
          board=board_text.to_text(turn.board),
          mark=game.agent,
          said=turn.response,
          move=None if turn.move is None else prompts.coordinate(turn.move),
          is_optimal=turn.move in best,
          best=", ".join(map(prompts.coordinate, best)),
        ),
      )
  found = list(said.values())
  wrong = [thought for thought in found if not thought.is_optimal]
  right = [thought for thought in found if thought.is_optimal]
  some = _spread(wrong, count // 3)
  return some + _spread(right, count - len(some))


def _spread(items: Sequence[Thought], count: int) -> list[Thought]:
  """Returns so many of a sequence, from all over it."""
  if len(items) <= count:
    return list(items)
  return [items[len(items) * n // count] for n in range(count)]
