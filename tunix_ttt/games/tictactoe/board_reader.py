"""Reads boards and moves from text and grades them by the solver."""

from collections.abc import Iterator, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

# The beginning of a move, in the syntax of either board, at a prompt's end.
_OPEN_MOVE = re.compile(
  r"<move>\w*$|(?:<\|move\|>|<move>\w*)?<[|/\w-]*$|<\|move\|>$"
)
_BOARD = re.compile(r"[.XO]{9}")
# (maximum number of marks, section name).
_PHASES = ((2, "opening"), (5, "middle"), (8, "end"))


@dataclasses.dataclass(frozen=True)
class BoardReader:
  """Reads grids and token boards; a position is the index of a board.

  Attributes:
    text_format: Format of the better answers to a model's mistakes.
  """

  text_format: text_formats.TextFormat

  find = staticmethod(board_text.find)
  read_answer = staticmethod(board_text.read_answer)
  from_text = staticmethod(board_text.from_text)
  start = staticmethod(board_positions.find)

  def open_move(self, prompt: str) -> int | None:
    """Returns the start of a move that a prompt's end begins, if any."""
    match = _OPEN_MOVE.search(prompt)
    return match and match.start()

  def is_turn(self, match: position_reader.Match) -> bool:
    """Returns whether the side to move is the player that the header names."""
    return match.player in (None, rules.side_to_move()[match.position])

  def grade(self, position: int, action: int | None) -> str:
    """Grades a move; it is `illegal` to take a taken cell."""
    if not solver.solve().optimal[position]:
      return "impossible"
    if action is None:
      return "unreadable"
    if not rules.legal_masks()[position] >> action & 1:
      return "illegal"
    is_optimal = action in solver.optimal_cells(position)
    return "optimal" if is_optimal else "worse"

  def is_as_good(self, position: int, action: int, other: int) -> bool:
    """Returns whether a cell has at least the value of a legal other."""
    values = solver.solve().move_values[position]
    return bool(values[action] >= values[other] >= solver.LOSS)

  def form(self, position: int) -> int:
    """Returns the canonical form of a board."""
    return int(rules.canonical()[position])

  def check_item(
    self, board: str | None, expected: str | Sequence[str], prompt: str
  ) -> None:
    """Checks coordinates, and a board against the solver and the prompt."""
    if not isinstance(expected, str):
      for move in expected:
        text_formats.cell_from_coordinate(move)
    if board is None:
      return
    if not _BOARD.fullmatch(board):
      raise ValueError(f"board: String should match pattern '{_BOARD.pattern}'")
    number = board_text.from_text(board)
    optimal = [*map(text_formats.coordinate, solver.optimal_cells(number))]
    if not optimal:
      raise ValueError(f"board {board}: no such position to move on")
    if expected != optimal:
      raise ValueError(
        f"board {board}: the optimal moves are {optimal},"
        f" expected_answer has {expected}"
      )
    if text_formats.render_grid(number) not in prompt:
      raise ValueError(f"board {board}: the prompt shows another board")

  def verdict(
    self, response: str, expected: Sequence[str], board: str | None
  ) -> str:
    """Judges a response, which may have a thought."""
    move = text_formats.parse_answer(response) or text_formats.parse_answer(
      response, thoughts=False
    )
    if move is None:
      return "unreadable"
    if text_formats.coordinate(move.cell) in expected:
      return "right"
    is_taken = board is not None and board[move.cell] != "."
    return "illegal" if is_taken else "not optimal"

  def evalset_rows(self, seed: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of `tictactoe_v1`: one for each class of positions.

    A class holds the rotations and reflections of a position. One of them is
    drawn at random, and so is the opponent's last move.
    """
    rng = np.random.default_rng(seed)
    positions = rules.positions()
    classes = rules.canonical()[positions]
    for n, form in enumerate(np.unique(classes), start=1):
      board = int(rng.choice(positions[classes == form]))
      mark = int(rules.side_to_move()[board])
      last_move = board_positions.draw_last_move(rng, board)
      optimal = solver.optimal_cells(board)
      legal = int(rules.mask_sizes()[rules.legal_masks()[board]])
      taken = int(rules.num_marks()[board])
      phase = next(name for limit, name in _PHASES if taken <= limit)
      yield {
        "id": f"ttt-{n:03}",
        "section": f"{text_formats.MARK_NAMES[mark]} {phase}",
        "match": "optimal_move",
        "board": board_text.to_text(board),
        "expected_answer": [text_formats.coordinate(cell) for cell in optimal],
        "chance": round(len(optimal) / legal, 6),
        "system": text_formats.system_prompt(),
        "prompt": text_formats.render_observation(board, mark, last_move),
      }

  def pair_row(
    self,
    state: Any,
    answer: str,
    kind: str,
    rng: np.random.Generator,
    style: str,
  ) -> dict[str, Any]:
    """Returns a pair of an answer and an optimal move.

    The move has a thought that the answer lacks if possible. A thought of another
    style would be unlike everything that the model writes.
    """
    explain, board = text_formats.STYLES[style], int(state.board)
    cells = rng.permutation(solver.optimal_cells(board)).tolist()
    options = [(cell, explain(board, cell)) for cell in cells]
    distinct = (each for each in options if (each[1] or "") not in answer)
    chosen = self.text_format.render_answer(*next(distinct, options[0]))
    last_move = int(state.last_move)
    position = board_positions.Position(
      board, None if last_move < 0 else last_move
    )
    return board_positions.pair_row(
      position, self.text_format, chosen, answer, kind
    )
