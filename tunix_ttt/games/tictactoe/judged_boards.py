"""Judges the games and answers of tic-tac-toe that a page shows."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tunix_ttt.games import board_page
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thought_claims

# Lost lines that are visible, and those on the page including folded ones.
_NUM_VISIBLE, _MAX_LINES = 12, 120
_NUM_THOUGHTS = 9


class Line(NamedTuple):
  """A recorded game with each move judged.

  Moves and slips are cells; slips are the moves that were not optimal. `last`
  is the model's last answer if that is no legal move, and `is_false` whether its
  thought is false. `marks` is the board at the end, nine of `.XO`.
  """

  agent: str
  ending: str
  moves: tuple[int, ...]
  last: str | None
  marks: str
  slips: list[int]
  is_false: bool = False


class Thought(NamedTuple):
  """A model's answer on a board, judged, with the names of the best cells.

  `is_false` is whether the thought makes a false claim about the move; the
  reward is None outside of training.
  """

  board: str
  mark: str
  response: str
  is_legal: bool
  is_optimal: bool
  best: str
  is_false: bool = False
  reward: float | None = None


class Replay(NamedTuple):
  """A game of training, turn by turn, with the board at its end."""

  seat: str
  ending: str
  turns: list[Thought]
  final: str


def page_values(games: Sequence[board_records.Game]) -> dict[str, Any]:
  """Returns the values of `board.html`; see `board_page.BoardPage.values`."""
  lost = lost_lines(games)
  return {
    "names": text_formats.COORDINATES,
    "lost": lost[:_NUM_VISIBLE],
    "more_lost": lost[_NUM_VISIBLE:_MAX_LINES],
    "num_lost": len(lost),
    "num_games": len(games),
    "thoughts": thoughts(games, _NUM_THOUGHTS),
  }


def lost_lines(games: Iterable[board_records.Game]) -> list[Line]:
  """Returns the games that are neither a win nor a draw of the model."""
  lines = []
  for game in games:
    if not game.is_lost:
      continue
    board, slips, last = rules.EMPTY_BOARD, [], game.turns[-1]
    for cell in game.moves():
      if cell not in solver.optimal_cells(board):
        slips.append(cell)
      board = int(rules.successors()[board, cell])
    response = None if last.is_legal else last.response
    ending, marks = game.ending.replace("_", " "), board_text.to_text(board)
    is_false = response is not None and has_false_thought(last)
    lines.append(
      Line(game.agent, ending, game.moves(), response, marks, slips, is_false)
    )
  return lines


def thoughts(games: Iterable[board_records.Game], count: int) -> list[Thought]:
  """Returns up to `count` distinct answers, up to a third of them mistakes."""
  answers: dict[tuple[int, str], Thought] = {}
  for game in games:
    for turn in game.turns:
      answers.setdefault((turn.board, turn.response), judge(turn))
  wrong = [thought for thought in answers.values() if not thought.is_optimal]
  right = [thought for thought in answers.values() if thought.is_optimal]
  mistakes = board_page.spread(wrong, count // 3)
  return mistakes + board_page.spread(right, count - len(mistakes))


def judge(turn: board_records.Turn) -> Thought:
  """Judges an answer by the solver."""
  best = solver.optimal_cells(turn.board)
  mark = text_formats.MARK_NAMES[int(rules.side_to_move()[turn.board])]
  return Thought(
    board=board_text.to_text(turn.board),
    mark=mark,
    response=turn.response,
    is_legal=turn.is_legal,
    is_optimal=turn.move in best,
    best=" or ".join(map(text_formats.coordinate, best)),
    is_false=has_false_thought(turn),
    reward=turn.reward,
  )


def replay(game: board_records.Game) -> Replay:
  """Judges each turn of a game of training."""
  turns, final = [*map(judge, game.turns)], board_text.to_text(game.board)
  return Replay(game.agent, game.ending, turns, final)


def has_false_thought(turn: board_records.Turn) -> bool:
  """Returns whether the thought of an answer makes a false claim."""
  move = -1 if turn.move is None else turn.move
  return thought_claims.is_true(turn.board, move, turn.response) is False


def policy_table(games: Iterable[board_records.Game]) -> dict[str, Any]:
  """Tabulates a greedy policy as plain data that a page can play from.

  `games` are the games on every line, as X and as O. In the result, `says` is a
  list of distinct responses, and `first` is the 9-bit mask of the optimal cells
  of the empty board. `answers` maps the model's mark and the other side's moves
  so far, a string of cells from 0 to 8, to a tuple: the index of the response,
  the cell it names (-1 for an unreadable answer), and the masks of the optimal
  cells before and after the move, 0 after a move that ends the game.
  `false_thoughts` maps the mark to the keys of answers whose thought is false.
  """
  responses: dict[str, int] = {}
  answers: dict[str, dict[str, tuple[int, int, int, int]]] = {"X": {}, "O": {}}
  is_false: dict[str, dict[str, bool]] = {"X": {}, "O": {}}
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
        -1 if turn.move is None else turn.move,
        int(optimal[turn.board]),
        int(optimal[after]) if turn.is_legal else 0,
      )
      is_false[game.agent][key] = has_false_thought(turn)
  return {
    "says": list(responses),
    "first": int(optimal[rules.EMPTY_BOARD]),
    "answers": answers,
    "false_thoughts": {
      mark: [key for key, value in keys.items() if value]
      for mark, keys in is_false.items()
    },
  }
