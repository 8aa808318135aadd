"""Observations, answers and the system prompt.

Text only: no tokens, no model. A cell is written as a row letter and a column
digit, A1 at the top left to C3 at the bottom right.
"""

from collections.abc import Sequence
import re
from typing import NamedTuple

from tunix_ttt.games.tictactoe import rules

MARK_NAMES = {rules.X: "X", rules.O: "O"}
COORDINATES = tuple(row + column for row in "ABC" for column in "123")
ROW_SEPARATOR = "\n----+----+----\n"

# The parts of an observation that are the same on every board.
LAST_MOVE, BOARD = "Opponent played ", "Board:\n"
MOVES, MOVE_SEPARATOR = "\nAvailable moves: ", ", "
TO_MOVE = {
  mark: f"\nYou are {name}. Your move?" for mark, name in MARK_NAMES.items()
}

_RULES = (
  "You are playing tic-tac-toe. Rows are A, B, C from the top, columns 1, 2, 3"
  " from the left. A free cell shows its coordinate. Three of your marks in a"
  " row, column or diagonal win."
)
_WITH_THOUGHT = (
  " Think between <think> and </think>, then give exactly one move such as"
  " <move>B2</move>."
)
_WITHOUT_THOUGHT = " Answer with exactly one move such as <move>B2</move>."

_ANSWER = re.compile(
  r"\s*(?:<think>(?P<thought>(?:(?!</think>).)*)</think>\s*)?"
  r"<move>(?P<row>[A-Ca-c])(?P<column>[1-3])</move>\s*",
  re.DOTALL | re.ASCII,
)


class Answer(NamedTuple):
  """A parsed answer: the thought, None where there is none, and the cell."""

  thought: str | None
  cell: int


def coordinate(cell: int) -> str:
  """Returns the name of a cell: 0 is A1, 8 is C3."""
  return COORDINATES[cell]


def cell_from_coordinate(text: str) -> int:
  """Returns the cell of a coordinate in either case.

  Raises:
    ValueError: if `text` names no cell.
  """
  try:
    return COORDINATES.index(text.upper())
  except ValueError:
    raise ValueError(f"{text!r} is no coordinate from A1 to C3") from None


def system_prompt(*, thoughts: bool = True) -> str:
  """Returns the instructions, asking for a thought before the move or not."""
  return _RULES + (_WITH_THOUGHT if thoughts else _WITHOUT_THOUGHT)


def render_row(row: int, marks: Sequence[int]) -> str:
  """Draws one row (0 to 2) of a board that holds these three marks."""
  drawn = [
    f" {MARK_NAMES[mark]}  " if mark else f"[{COORDINATES[3 * row + column]}]"
    for column, mark in enumerate(marks)
  ]
  return "|".join(drawn).rstrip()


def render_grid(board: int) -> str:
  """Draws a board; a free cell shows its coordinate in brackets."""
  rows = rules.cells()[board].reshape(3, 3).tolist()
  return ROW_SEPARATOR.join(render_row(i, row) for i, row in enumerate(rows))


def render_observation(
  board: int, agent: int, last_move: int | None = None
) -> str:
  """Describes a board to the player `agent` whose turn it is.

  Args:
    board: the board's index.
    agent: the player's mark, `rules.X` or `rules.O`.
    last_move: the cell that the opponent took last, None before its first.

  Returns:
    The opponent's last move, the grid, the free cells and the player's mark.
  """
  free = rules.mask_to_cells(int(rules.legal_masks()[board]))
  return "".join(
    (
      "" if last_move is None else f"{LAST_MOVE}{coordinate(last_move)}.\n",
      BOARD,
      render_grid(board),
      MOVES,
      MOVE_SEPARATOR.join(map(coordinate, free)),
      TO_MOVE[agent],
    )
  )


def render_answer(cell: int, thought: str | None = None) -> str:
  """Returns the answer that plays `cell`, after `thought` if there is one."""
  move = f"<move>{coordinate(cell)}</move>"
  return move if thought is None else f"<think>{thought}</think>\n{move}"


def parse_answer(text: str, *, thoughts: bool = True) -> Answer | None:
  """Reads an answer strictly; None where it is not exactly of the format.

  The format is one thought (where `thoughts` asks for it), optional white
  space, one move, and nothing else. Whether the cell is free is not asked.
  """
  match = _ANSWER.fullmatch(text)
  if match is None or (match["thought"] is None) is thoughts:
    return None
  cell = cell_from_coordinate(match["row"] + match["column"])
  return Answer(match["thought"], cell)
