"""Judges the reasons that thoughts state, by the rules and the solver.

A claim is a whole sentence of an answer, in any case:

- `I win at B2`, `I complete a line at B2 and win`: the move B2 wins;
- `I block B2`, `I block at B2`: the opponent would win at the move B2 next;
- `I make two threats at once`, also `at B2`: after the move, two cells win;
- `I take B2, where a fork threatens`: the opponent would make two threats there;
- `I force a win`: the move keeps a won position;
- `I keep the draw`: the move keeps a drawn position, so nothing better is lost;
- `I am losing`, `I am losing, so I hold out`: no move avoids the loss.

A claim on another cell than that of the move is false, and so is every claim of a
move that is not legal. Other sentences, such as the name of a place, claim nothing.
"""

from collections.abc import Callable
import functools
import re

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

_SENTENCE_END = re.compile(r"[.!?;]|<[^<>]*>")


def _wins(board: int, cell: int) -> bool:
  return cell in text_formats.winning_cells(board, _mark(board))


def _blocks(board: int, cell: int) -> bool:
  return cell in text_formats.winning_cells(board, _other(board))


def _makes_fork(board: int, cell: int) -> bool:
  return _has_fork(board, cell, _mark(board))


def _prevents_fork(board: int, cell: int) -> bool:
  return _has_fork(board, cell, _other(board))


def _forces_win(board: int, cell: int) -> bool:
  return bool(solver.solve().move_values[board, cell] == solver.WIN)


def _keeps_draw(board: int, cell: int) -> bool:
  value = solver.solve().value[board]
  return bool(solver.solve().move_values[board, cell] == value == solver.DRAW)


def _is_losing(board: int, cell: int) -> bool:
  del cell
  return bool(solver.solve().value[board] == solver.LOSS)


_CELL = "(?P<cell>[A-C][1-3])"
# Functions of the board and the cell of a legal move, by the claim.
_CLAIMS: dict[re.Pattern[str], Callable[[int, int], bool]] = {
  re.compile(pattern, re.IGNORECASE | re.ASCII): holds
  for pattern, holds in {
    f"I (?:complete a line|win) at {_CELL}(?: and win)?": _wins,
    f"I block(?: at)? {_CELL}": _blocks,
    f"I make two threats at once(?: at {_CELL})?": _makes_fork,
    f"I take {_CELL}, where a fork threatens": _prevents_fork,
    "I force a win": _forces_win,
    "I keep the draw": _keeps_draw,
    "I am losing(?:, so I hold out)?": _is_losing,
  }.items()
}


@functools.lru_cache(maxsize=2**15)
def is_true(board: int, cell: int, answer: str) -> bool | None:
  """Returns whether the reasons that an answer states for its move are all true.

  Args:
    board: Board on which the side to move answers.
    cell: Cell of the move; -1 if the answer is unreadable.
    answer: Text of the answer, with its thought.

  Returns:
    None if the answer claims nothing or is unreadable.
  """
  if cell < 0:
    return None
  is_legal = bool(rules.legal_masks()[board] >> cell & 1)
  truths = []
  for text in _SENTENCE_END.split(answer):
    sentence = " ".join(text.split())
    for pattern, holds in _CLAIMS.items():
      if match := pattern.fullmatch(sentence):
        name = match.groupdict().get("cell") or text_formats.coordinate(cell)
        is_own = text_formats.cell_from_coordinate(name) == cell
        truths.append(is_own and is_legal and holds(board, cell))
  return all(truths) if truths else None


def _mark(board: int) -> int:
  return int(rules.side_to_move()[board])


def _other(board: int) -> int:
  return rules.X + rules.O - _mark(board)


def _has_fork(board: int, cell: int, mark: int) -> bool:
  after = int(rules.place(board, cell, mark))
  return len(text_formats.winning_cells(after, mark)) > 1
