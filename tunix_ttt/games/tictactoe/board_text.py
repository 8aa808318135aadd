"""Boards and moves in text, ours and other people's.

Two kinds of board are recognised: grids of three lines with `|` between the
cells, and ThinkTacToe's `<|0-0|><|X|>`. A free cell of a grid shows its
coordinate, or is blank or a dot.
"""

import functools
import re
from typing import NamedTuple

from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import grammar

_MARKS = {".": rules.EMPTY, "X": rules.X, "O": rules.O}
_TOKEN_MARKS = {"blank": rules.EMPTY, "X": rules.X, "O": rules.O}
_FREE = ("", ".", "_", "-")
_NAME = re.compile(r"\[?([A-Ca-c][1-3])\]?")
_TRANSPOSED = tuple(
  prompts.COORDINATES[3 * c + r] for r in range(3) for c in range(3)
)
_TOKEN_CELL = re.compile(r"<\|([0-2])-([0-2])\|><\|(X|O|blank)\|>")
_TOKEN_BOARD = re.compile(
  rf"<\|board_start\|>\s*(?:{_TOKEN_CELL.pattern}\s*){{9}}<\|board_end\|>"
)
# What may stand between a board and the answer to it.
_HEADERS = {
  "grid": re.compile(
    r"\n(?:Available moves:[^\n]*\n?|You are [XO]\b[^\n]*\n?|[ \t]*\n)*"
  ),
  "token_board": re.compile(
    r"\s*(?:<\|(?:player|symbol|turn)\|>[^\n<]*(?:\n|$))*"
  ),
}
_PLAYER = re.compile(r"(?:You are |<\|player\|>|<\|symbol\|>)([XO])\b")
_MOVES = {
  "grid": re.compile(r"<move>([A-Ca-c])([1-3])</move>"),
  "token_board": re.compile(r"<\|move\|><\|([0-2])-([0-2])\|>"),
}


class Found(NamedTuple):
  """A board found in a text.

  Attributes:
    board: its index.
    kind: `grid` or `token_board`.
    start: where it begins in the text.
    end: where it ends, and whose turn it is has been said.
    player: whose turn that is; None where it is not said.
  """

  board: int
  kind: str
  start: int
  end: int
  player: int | None


class Move(NamedTuple):
  """A move found in an answer.

  Attributes:
    cell: where; None if the answer has no move.
    is_strict: whether the answer is in the format to the letter.
  """

  cell: int | None
  is_strict: bool


def from_text(text: str) -> int:
  """Returns the board written as nine of `.XO`, row by row."""
  return rules.board_from_cells([_MARKS[c] for c in text])


def to_text(board: int) -> str:
  """Writes a board as nine of `.XO`, row by row."""
  return "".join(".XO"[mark] for mark in rules.cells()[board])


def find(text: str) -> list[Found]:
  """Lists the boards in a text, in order."""
  found = [*_token_boards(text), *_grids(text)]
  return sorted(found, key=lambda board: board.start)


def _token_boards(text: str) -> list[Found]:
  boards = []
  for match in _TOKEN_BOARD.finditer(text):
    marks = {
      3 * int(row) + int(column): _TOKEN_MARKS[mark]
      for row, column, mark in _TOKEN_CELL.findall(match[0])
    }
    if len(marks) == rules.NUM_CELLS:
      cells = [marks[cell] for cell in range(rules.NUM_CELLS)]
      boards.append(_found(cells, "token_board", match.span(), text))
  return boards


def _grids(text: str) -> list[Found]:
  boards, rows, place, start = [], [], 0, 0
  for line in text.splitlines(keepends=True):
    row = [part.strip() for part in line.split("|")]
    if len(row) == 3 and all(map(_is_cell, row)):
      start = start if rows else place
      rows.append(row)
    elif not _is_separator(line):
      rows = []
    if len(rows) == 3:
      cells = _grid_cells([cell for row in rows for cell in row])
      end = place + len(line.rstrip("\r\n"))
      if cells is not None:
        boards.append(_found(cells, "grid", (start, end), text))
      rows = []
    place += len(line)
  return boards


def _is_cell(text: str) -> bool:
  return text in ("X", "O", *_FREE) or _NAME.fullmatch(text) is not None


def _is_separator(line: str) -> bool:
  return bool(line.strip()) and not line.strip().strip("-+=| ")


def _grid_cells(shown: list[str]) -> list[int] | None:
  """Returns the marks by cell; None where the cells are named inconsistently.

  The rows of some grids are 1 to 3 and their columns A to C; a cell is then
  the one of that name.
  """
  matches = {cell: _NAME.fullmatch(text) for cell, text in enumerate(shown)}
  names = {cell: match[1].upper() for cell, match in matches.items() if match}
  marks = [_MARKS.get(text, rules.EMPTY) for text in shown]
  if all(prompts.COORDINATES[cell] == name for cell, name in names.items()):
    return marks
  if all(_TRANSPOSED[cell] == name for cell, name in names.items()):
    return [marks[3 * c + r] for r in range(3) for c in range(3)]
  return None


def _found(
  cells: list[int], kind: str, span: tuple[int, int], text: str
) -> Found:
  header = _HEADERS[kind].match(text, span[1])
  end = header.end() if header else span[1]
  said = _PLAYER.search(text, span[1], end)
  return Found(
    board=rules.board_from_cells(cells),
    kind=kind,
    start=span[0],
    end=end,
    player=_MARKS[said[1]] if said else None,
  )


def read_answer(text: str, kind: str) -> Move:
  """Finds the move of an answer, its last one, and says if it is well formed.

  Args:
    text: the answer.
    kind: Kind of the board that it answers.
  """
  for thoughts in (True, False):
    transitions, cells = _grammar(kind, thoughts)
    state = grammar.START
    for byte in text.encode():
      state = transitions[state][byte]
    if cells[state] >= 0:
      return Move(cells[state], True)
  moves = _MOVES[kind].findall(text)
  if not moves:
    return Move(None, False)
  row, column = moves[-1]
  if kind == "grid":
    return Move(prompts.cell_from_coordinate(row + column), False)
  return Move(3 * int(row) + int(column), False)


@functools.cache
def _grammar(kind: str, thoughts: bool) -> tuple[list[list[int]], list[int]]:
  automaton = text_formats.named(kind, thoughts=thoughts).grammar()
  return automaton.transitions.tolist(), automaton.moves.tolist()
