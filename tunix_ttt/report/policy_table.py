"""A greedy player as a table of answers, all that there is to know about it.

A greedy player answers alike whenever the game so far is alike, so that the
games of every line hold all its answers. They are looked up by what the other
side has played, move by move.
"""

from collections.abc import Iterable
from typing import Any

from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

# Of an answer that names no cell.
UNREADABLE = -1


def make(games: Iterable[game_files.Game]) -> dict[str, Any]:
  """Returns the table of a player, as plain data for a page to play from.

  Args:
    games: Games of every line, as X and as O.

  Returns:
    `says`, what it says, each text once; `first`, the optimal cells of the
    empty board as a 9-bit mask; `answers`, by its mark and the other side's
    moves so far, as a string of cells from 0 to 8: what it says, by its number,
    the cell it names, the cells that would be optimal, and those that then are
    for the other side, 0 where the game is over.
  """
  says: dict[str, int] = {}
  answers: dict[str, dict[str, tuple[int, int, int, int]]] = {"X": {}, "O": {}}
  optimal = solver.solve().optimal
  for game in games:
    moves = game.moves()
    theirs = moves[1::2] if game.agent == "X" else moves[::2]
    for turn in game.turns:
      before = (int(rules.num_marks()[turn.board]) + 1) // 2
      after = turn.board
      if turn.is_legal:
        after = int(rules.successors()[turn.board, turn.move])
      key = "".join(map(str, theirs[:before]))
      # A second try at an unreadable answer stands for both.
      answers[game.agent][key] = (
        says.setdefault(turn.response, len(says)),
        UNREADABLE if turn.move is None else turn.move,
        int(optimal[turn.board]),
        int(optimal[after]) if turn.is_legal else 0,
      )
  return {
    "says": list(says),
    "first": int(optimal[rules.EMPTY_BOARD]),
    "answers": answers,
  }
