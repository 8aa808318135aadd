"""Template thoughts: one short, true sentence on why a move is good."""

from collections.abc import Callable
import functools

from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver


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
  """Says what a legal move of the side to move does on a board.

  What it says is true of the board: that the move wins, blocks, makes two
  threats at once, or how the game stands after it under perfect play.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  wins, threats = winning_cells(board, mark), winning_cells(board, other)
  after = int(rules.successors()[board, cell])
  if cell in wins:
    return f"I complete a line at {prompts.coordinate(cell)} and win."
  if cell in threats:
    return f"I block {prompts.coordinate(cell)}."
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
  """Says which tactic a move is, by Newell and Simon's order (1972).

  Win, block, fork, block a fork, centre, opposite corner, corner, edge: the
  first of them that the move is. Like `explain_move` it is true of the board;
  unlike it, it names the cell in every case and does not judge. Where the cell
  is taken, it says no more than where the move is.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  name = prompts.coordinate(cell)
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
  """Returns how many cells would complete a line of `mark` with one on `cell`."""
  return len(winning_cells(int(rules.place(board, cell, mark)), mark))


# How moves are explained, by name.
STYLES: dict[str, Callable[[int, int], str | None]] = {
  "template": explain_move,
  "tactics": name_tactic,
  "none": lambda board, cell: None,
}
