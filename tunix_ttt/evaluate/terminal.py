"""A game of a person against a model, in a terminal."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tunix_ttt.evaluate import partner as partner_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

# As the keys lie: 7 is the upper left corner.
_KEYS = (7, 8, 9, 4, 5, 6, 1, 2, 3)
HELP = (
  "Take a cell by its name, A1 to C3, or as the keys of a number pad lie, 7 for"
  " A1; u takes your last move back, q ends the game."
)

Ask = Callable[[str], str]
Tell = Callable[[str], None]


def draw(board: int) -> str:
  """Returns a board as lines of text, free cells by their names."""
  rows = [
    " | ".join(
      f"{prompts.MARK_NAMES[mark]} " if mark else prompts.coordinate(cell)
      for cell, mark in enumerate(rules.cells()[board])
      if cell // 3 == row
    )
    for row in range(3)
  ]
  return "\n".join(f"  {row}".rstrip() for row in rows)


class Partner(Protocol):
  """See `partner.Partner`."""

  def answer(
    self, mark: int, moves: Sequence[Sequence[int]]
  ) -> list[partner_lib.Answer]:
    """Returns what it says next."""
    ...


def play(
  partner: Partner, mark: int, ask: Ask | None = None, tell: Tell = print
) -> str | None:
  """Plays a game to its end, or until there is no more to read.

  Args:
    partner: the model.
    mark: the person's.
    ask: given a prompt, returns a line; raises EOFError if there is none. None
      for `input`, as it is when this is called: notebooks put in their own.
    tell: shows lines.

  Returns:
    How it ended for the person: `won`, `lost` or `drawn`; None for not at all.
  """
  ask = ask or input
  moves: list[int] = []
  tell(HELP)
  while True:
    board = partner_lib.board_after(moves)
    winner = int(rules.winners()[board])
    if winner != rules.NO_WINNER:
      tell(f"\n{draw(board)}")
      ending = "won" if winner == mark else "lost"
      ending = "drawn" if winner == rules.DRAWN else ending
      tell("A draw." if ending == "drawn" else f"You have {ending}.")
      return ending
    if rules.side_to_move()[board] != mark:
      (answer,) = partner.answer(rules.X + rules.O - mark, [moves])
      tell(f"The model: {answer.said}")
      if not answer.is_legal:
        reason = "names no cell" if answer.cell < 0 else "is of a taken cell"
        tell(f"That {reason}, so you have won.")
        return "won"
      if not answer.is_optimal:
        tell(f"  Not optimal: {_names(answer.best)} would have been.")
      moves.append(answer.cell)
      continue
    tell(f"\n{draw(board)}")
    try:
      said = ask("your move: ").strip().lower()
    except EOFError:
      said = "q"
    if said == "q":
      return None
    if said == "u":
      moves = _undone(moves, mark, tell)
      continue
    cell = _cell(said)
    if cell is None or not rules.legal_masks()[board] >> cell & 1:
      tell(f"{said!r} is no free cell. {HELP}")
      continue
    best = solver.optimal_cells(board)
    if cell not in best:
      tell(f"  Not optimal: {_names(best)} would have been.")
    moves.append(cell)


def _undone(moves: list[int], mark: int, tell: Tell) -> list[int]:
  """Returns the moves up to the person's last one."""
  if len(moves) < (2 if mark == rules.X else 3):
    tell("There is no move of yours to take back.")
    return moves
  return moves[:-2]


def _cell(said: str) -> int | None:
  if said in map(str, _KEYS):
    return _KEYS.index(int(said))
  try:
    return prompts.cell_from_coordinate(said)
  except ValueError:
    return None


def _names(cells: tuple[int, ...]) -> str:
  return " or ".join(map(prompts.coordinate, cells))
