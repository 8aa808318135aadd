"""Template thoughts: one short sentence that explains a move."""

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
  """Explains a legal move of the side to move.

  The sentence is always true: it names a win, a block, a fork, or else the
  minimax value of the move.
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
  """Names the tactic and the cell of a move (Newell and Simon, 1972).

  Returns the first tactic that applies: win, block, fork, block a fork, center,
  opposite corner, corner, edge. The sentence is always true and does not say
  whether the move is good. On a taken cell it names the location only.
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
  """Returns the number of winning cells of `mark` after it takes `cell`."""
  return len(winning_cells(int(rules.place(board, cell, mark)), mark))


# Functions that explain a move, by name.
STYLES: dict[str, Callable[[int, int], str | None]] = {
  "template": explain_move,
  "tactics": name_tactic,
  "none": lambda board, cell: None,
}
