"""Tests that template thoughts are true statements about their boards."""

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

LINES = rules.LINES


def completes(board: int, cell: int, mark: int) -> bool:
  """Returns whether `mark` on `cell` completes a line."""
  marks = rules.cells()[board].copy()
  marks[cell] = mark
  return any(all(marks[c] == mark for c in line) for line in LINES)


def test_every_thought_of_every_legal_move_is_true():
  kinds = set()
  for board in rules.positions().tolist():
    mark = int(rules.side_to_move()[board])
    other = rules.X + rules.O - mark
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
      thought = text_formats.explain_move(board, cell)
      kinds.add(thought.replace(text_formats.coordinate(cell), "#"))
      after = int(rules.successors()[board, cell])
      free = [c for c in range(9) if rules.cells()[after][c] == rules.EMPTY]
      wins_next = sum(completes(after, c, mark) for c in free)
      # After the move, the other side is to move.
      value = -solver.solve().value[after]
      truth = {
        "I complete a line at #": rules.winners()[after] == mark,
        "I block #": completes(board, cell, other),
        "I make two threats": wins_next > 1,
        "I force a win": value == solver.WIN,
        "I keep the draw": value == solver.DRAW,
        "I am losing": value == solver.LOSS,
      }
      said = thought.replace(text_formats.coordinate(cell), "#")
      assert [t for s, t in truth.items() if said.startswith(s)] == [True], said
  assert len(kinds) == 6


def threats(board, cell, mark):
  """Returns the number of winning cells of `mark` after it takes `cell`."""
  marks = rules.cells()[board].copy()
  marks[cell] = mark
  after = rules.board_from_cells(marks)
  return sum(completes(after, c, mark) for c in range(9) if not marks[c])


def test_every_tactic_of_every_legal_move_is_true():
  kinds = set()
  for board in rules.positions().tolist():
    mark = int(rules.side_to_move()[board])
    other = rules.X + rules.O - mark
    marks = rules.cells()[board]
    said = set()
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
      thought = text_formats.name_tactic(board, cell)
      assert text_formats.coordinate(cell) in thought
      said.add(thought)
      kind = thought.replace(text_formats.coordinate(cell), "#")
      kinds.add(kind)
      # In the order in which they are asked: the first that is true is said.
      truth = {
        "I complete a line at # and win.": completes(board, cell, mark),
        "I block #.": completes(board, cell, other),
        "I make two threats at once at #.": threats(board, cell, mark) > 1,
        "I take #, where a fork threatens.": threats(board, cell, other) > 1,
        "I take the centre, #.": cell == 4,
        "I take #, the corner opposite to theirs.": cell in (0, 2, 6, 8)
        and marks[8 - cell] == other,
        "I take the corner #.": cell in (0, 2, 6, 8),
        "I take the edge #.": cell in (1, 3, 5, 7),
      }
      assert kind == next(name for name, is_true in truth.items() if is_true)
    assert len(said) == rules.mask_sizes()[rules.legal_masks()[board]]
  assert len(kinds) == 8


def test_a_tactic_of_a_taken_cell_says_where_it_is():
  # X O .
  # . . .
  # . . .
  board = rules.board_from_cells([1, 2, 0, 0, 0, 0, 0, 0, 0])
  assert text_formats.name_tactic(board, 0) == "I take the corner A1."
  assert text_formats.name_tactic(board, 1) == "I take the edge A2."


def test_winning_cells():
  # X X .
  # O O .
  # . . .
  board = rules.board_from_cells([1, 1, 0, 2, 2, 0, 0, 0, 0])
  assert text_formats.winning_cells(board, rules.X) == [2]
  assert text_formats.winning_cells(board, rules.O) == [5]
