"""Template thoughts: one short, true sentence on why a move is good."""

from tunix_ttt.game import rules
from tunix_ttt.game import solver
from tunix_ttt.language import prompts


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
