"""Selects games and answers for a page, and tabulates a greedy policy."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

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
          move=None if turn.move is None else prompts.coordinate(turn.move),
          is_optimal=turn.move in best,
          best=", ".join(map(prompts.coordinate, best)),
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
