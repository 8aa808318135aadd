"""Finds boards and moves in text of this library and of other sources.

Two notations are recognized: grids of three lines with `|` between the cells,
and ThinkTacToe's `<|0-0|><|X|>`. A free cell of a grid is a coordinate, a dot,
an underscore, a hyphen or blank.
"""

import functools
import re

from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import spellings

_MARKS = {
  ".": rules.EMPTY,
  "blank": rules.EMPTY,
  "X": rules.X,
  "O": rules.O,
}
_NAME = re.compile(r"\[?([A-Ca-c][1-3])\]?")
_CELL = re.compile(rf"[XO._-]?|{_NAME.pattern}")
_SEPARATOR = re.compile(r"[-+=| ]+")
_TRANSPOSED = tuple(
  text_formats.COORDINATES[3 * c + r] for r in range(3) for c in range(3)
)
_TOKEN_CELL = re.compile(r"<\|([0-2])-([0-2])\|><\|(X|O|blank)\|>")
_TOKEN_BOARD = re.compile(
  rf"<\|board_start\|>\s*(?:{_TOKEN_CELL.pattern}\s*){{9}}<\|board_end\|>"
)
# Text between a board and the answer, by kind.
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


def from_text(text: str) -> int:
  """Parses a board from nine characters of `.XO`, row by row."""
  return rules.board_from_cells([_MARKS[c] for c in text])


def to_text(board: int) -> str:
  """Renders a board as nine characters of `.XO`, row by row."""
  return "".join(".XO"[mark] for mark in rules.cells()[board])


def find(text: str) -> list[position_reader.Match]:
  """Lists the boards in a text, in order: kinds `grid` and `token_board`."""
  boards = _grids(text)
  for match in _TOKEN_BOARD.finditer(text):
    marks = {
      3 * int(row) + int(column): _MARKS[mark]
      for row, column, mark in _TOKEN_CELL.findall(match[0])
    }
    if len(marks) == rules.NUM_CELLS:
      cells = [marks[cell] for cell in range(rules.NUM_CELLS)]
      boards.append(_position(cells, "token_board", match.span(), text))
  return sorted(boards, key=lambda position: position.start)


def _grids(text: str) -> list[position_reader.Match]:
  boards, rows, offset, start = [], [], 0, 0
  for line in text.splitlines(keepends=True):
    row = [part.strip() for part in line.split("|")]
    if len(row) == 3 and all(map(_CELL.fullmatch, row)):
      start = start if rows else offset
      rows.append(row)
    elif not _SEPARATOR.fullmatch(line.strip()):
      rows = []
    if len(rows) == 3:
      cells = _grid_cells([cell for row in rows for cell in row])
      end = offset + len(line.rstrip("\r\n"))
      if cells is not None:
        boards.append(_position(cells, "grid", (start, end), text))
      rows = []
    offset += len(line)
  return boards


def _grid_cells(texts: list[str]) -> list[int] | None:
  """Returns the marks by cell; None if the cell names are inconsistent.

  Some grids name their rows 1 to 3 and their columns A to C. Their cells are
  reordered by name.
  """
  matches = {cell: _NAME.fullmatch(text) for cell, text in enumerate(texts)}
  names = {cell: match[1].upper() for cell, match in matches.items() if match}
  marks = [_MARKS.get(text, rules.EMPTY) for text in texts]
  coordinates = text_formats.COORDINATES
  if all(coordinates[cell] == name for cell, name in names.items()):
    return marks
  if all(_TRANSPOSED[cell] == name for cell, name in names.items()):
    return [marks[3 * c + r] for r in range(3) for c in range(3)]
  return None


def _position(
  cells: list[int], kind: str, span: tuple[int, int], text: str
) -> position_reader.Match:
  header = _HEADERS[kind].match(text, span[1])
  end = header.end() if header else span[1]
  player = _PLAYER.search(text, span[1], end)
  return position_reader.Match(
    position=rules.board_from_cells(cells),
    kind=kind,
    start=span[0],
    end=end,
    player=_MARKS[player[1]] if player else None,
  )


def read_answer(text: str, kind: str) -> position_reader.Move:
  """Parses the last move of an answer and checks the answer's format.

  `kind` is the kind of the board in the prompt.
  """
  for thoughts in (True, False):
    cell = _grammar(kind, thoughts).read(text)
    if cell >= 0:
      return position_reader.Move(cell, True)
  moves = _MOVES[kind].findall(text)
  if not moves:
    return position_reader.Move(None, False)
  row, column = moves[-1]
  if kind == "grid":
    return position_reader.Move(
      text_formats.cell_from_coordinate(row + column), False
    )
  return position_reader.Move(3 * int(row) + int(column), False)


@functools.cache
def _grammar(kind: str, thoughts: bool) -> spellings.Automaton:
  return text_formats.named(kind, thoughts=thoughts).grammar()
