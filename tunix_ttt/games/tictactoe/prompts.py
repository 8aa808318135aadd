"""Renders observations and the system prompt; renders and parses answers.

This module handles text only, no tokens. A cell is written as a row letter and
a column digit, from A1 at the top left to C3 at the bottom right.
"""

from collections.abc import Callable, Sequence
import functools
import re
from typing import NamedTuple

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

MARK_NAMES = {rules.X: "X", rules.O: "O"}
COORDINATES = tuple(row + column for row in "ABC" for column in "123")
ROW_SEPARATOR = "\n----+----+----\n"

# Parts of an observation that every board shares.
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
  """A parsed answer: its thought, if any, and the cell of its move."""

  thought: str | None
  cell: int


def coordinate(cell: int) -> str:
  """Returns the name of a cell, from A1 (0) to C3 (8)."""
  return COORDINATES[cell]


def cell_from_coordinate(text: str) -> int:
  """Returns the cell of an upper- or lower-case coordinate.

  Raises:
    ValueError: if `text` is not a coordinate.
  """
  try:
    return COORDINATES.index(text.upper())
  except ValueError:
    raise ValueError(f"{text!r} is no coordinate from A1 to C3") from None


def system_prompt(*, thoughts: bool = True) -> str:
  """Returns the instructions, which ask for a thought if `thoughts` is set."""
  return _RULES + (_WITH_THOUGHT if thoughts else _WITHOUT_THOUGHT)


def render_row(row: int, marks: Sequence[int]) -> str:
  """Renders row 0, 1 or 2 of a board with these three marks."""
  drawn = [
    f" {MARK_NAMES[mark]}  " if mark else f"[{COORDINATES[3 * row + column]}]"
    for column, mark in enumerate(marks)
  ]
  return "|".join(drawn).rstrip()


def render_grid(board: int) -> str:
  """Renders a board; a free cell shows its coordinate in brackets."""
  rows = rules.cells()[board].reshape(3, 3).tolist()
  return ROW_SEPARATOR.join(render_row(i, row) for i, row in enumerate(rows))


def render_observation(
  board: int, agent: int, last_move: int | None = None
) -> str:
  """Renders the last move, the grid, the free cells and the agent's mark.

  `last_move` is the opponent's last move; None before its first move.
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
  """Returns the answer that plays `cell`, with `thought` before it if not None."""
  move = f"<move>{coordinate(cell)}</move>"
  return move if thought is None else f"<think>{thought}</think>\n{move}"


def parse_answer(text: str, *, thoughts: bool = True) -> Answer | None:
  """Parses an answer strictly; returns None if it does not match the format.

  The format is one thought (only if `thoughts` is set), optional whitespace and
  one move. The cell may be taken.
  """
  match = _ANSWER.fullmatch(text)
  if match is None or (match["thought"] is None) is thoughts:
    return None
  cell = cell_from_coordinate(match["row"] + match["column"])
  return Answer(match["thought"], cell)


def winning_cells(board: int, mark: int) -> list[int]:
  """Lists the free cells that complete a line of `mark`, in ascending order."""
  marks = rules.cells()[board]
  return [
    cell
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board]))
    if any(
      cell in line and all(marks[c] == mark for c in line if c != cell)
      for line in rules.LINES
    )
  ]


@functools.cache
def explain_move(board: int, cell: int) -> str:
  """Explains a legal move of the side to move.

  The sentence is always true: it names a win, a block, a fork, or else the
  minimax value of the move.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  wins, threats = winning_cells(board, mark), winning_cells(board, other)
  after = int(rules.successors()[board, cell])
  if cell in wins:
    return f"I complete a line at {coordinate(cell)} and win."
  if cell in threats:
    return f"I block {coordinate(cell)}."
  if len(winning_cells(after, mark)) > 1:
    return "I make two threats at once."
  value = int(solver.solve().move_values[board, cell])
  if value == solver.WIN:
    return "I force a win."
  if value == solver.DRAW:
    return "I keep the draw."
  return "I am losing, so I hold out."


_CENTRE, _CORNERS = 4, (0, 2, 6, 8)


@functools.cache
def name_tactic(board: int, cell: int) -> str:
  """Names the tactic and the cell of a move (Newell and Simon, 1972).

  Returns the first tactic that applies: win, block, fork, block a fork, center,
  opposite corner, corner, edge. The sentence is always true and does not say
  whether the move is good. On a taken cell it names the location only.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  name = coordinate(cell)
  is_free = bool(rules.legal_masks()[board] >> cell & 1)
  if is_free and cell in winning_cells(board, mark):
    return f"I complete a line at {name} and win."
  if is_free and cell in winning_cells(board, other):
    return f"I block {name}."
  if is_free and _num_threats(board, cell, mark) > 1:
    return f"I make two threats at once at {name}."
  if is_free and _num_threats(board, cell, other) > 1:
    return f"I take {name}, where a fork threatens."
  if cell == _CENTRE:
    return f"I take the centre, {name}."
  if cell in _CORNERS:
    opposite = int(rules.cells()[board, rules.NUM_CELLS - 1 - cell])
    if is_free and opposite == other:
      return f"I take {name}, the corner opposite to theirs."
    return f"I take the corner {name}."
  return f"I take the edge {name}."


def _num_threats(board: int, cell: int, mark: int) -> int:
  """Returns the number of winning cells of `mark` after it takes `cell`."""
  return len(winning_cells(int(rules.place(board, cell, mark)), mark))


# Functions that explain a move, by name.
STYLES: dict[str, Callable[[int, int], str | None]] = {
  "template": explain_move,
  "tactics": name_tactic,
  "none": lambda board, cell: None,
}
