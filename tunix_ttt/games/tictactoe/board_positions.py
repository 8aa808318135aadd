"""Draws positions, labels them by the solver and finds them in prompts."""

from collections.abc import Iterator, Mapping
import re
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

Row = dict[str, Any]

_TAG = re.compile(r"<[^>]*>")
_LAST_MOVE = re.compile(re.escape(text_formats.LAST_MOVE) + r"([A-C][1-3])")


class Position(NamedTuple):
  """A board and the cell that the opponent took last, None for none."""

  board: int
  last_move: int | None


def endless(rng: np.random.Generator, boards: np.ndarray) -> Iterator[Position]:
  """Yields positions without end, each board once per epoch."""
  while True:
    for board in rng.permutation(boards).tolist():
      yield Position(board, draw_last_move(rng, board))


def draw_last_move(rng: np.random.Generator, board: int) -> int | None:
  """Draws one of the opponent's cells, None if it has none."""
  cells = np.flatnonzero(_opponent_cells(board))
  return int(rng.choice(cells)) if len(cells) else None


def rejected_cells(board: int, kind: str) -> tuple[int, ...]:
  """Returns the moves to reject for a kind of `row_kinds.REJECTED`.

  They are moves of lower value than the optimal ones (`worse`), taken cells
  (`illegal`), or none (`format`, which rejects the text of an optimal move).
  """
  legal = int(rules.legal_masks()[board])
  masks = {
    "worse": legal & ~int(solver.solve().optimal[board]),
    "illegal": rules.ALL_CELLS & ~legal,
    "format": 0,
  }
  return rules.mask_to_cells(masks[kind])


def prompt_row(position: Position, text_format: text_formats.TextFormat) -> Row:
  """Returns a prompt for GRPO with its board and the optimal moves."""
  optimal = solver.optimal_cells(position.board)
  return {
    "prompt": text_format.prompt(text_format.observation(*position)),
    "board": board_text.to_text(position.board),
    "optimal": [text_formats.coordinate(cell) for cell in optimal],
  }


def pair_row(
  position: Position,
  text_format: text_formats.TextFormat,
  chosen: str,
  rejected: str,
  kind: str,
) -> Row:
  """Returns a preference pair of answers; `kind` is one of `row_kinds.REJECTED`."""
  return {
    "prompt": text_format.prompt(text_format.observation(*position)),
    "chosen": text_format.completion(chosen),
    "rejected": text_format.completion(rejected),
    "board": board_text.to_text(position.board),
    "rejected_is": kind,
  }


def pairs(
  rng: np.random.Generator,
  text_format: text_formats.TextFormat,
  style: str,
  weights: Mapping[str, float],
) -> Iterator[Row]:
  """Yields preference pairs without end.

  `style` is a key of `text_formats.STYLES`; `weights` are the relative
  frequencies of the kinds in `row_kinds.REJECTED`.
  """
  positions = {kind: endless(rng, _boards(kind)) for kind in weights}
  shares = np.array([*weights.values()], float)
  while True:
    kind = str(rng.choice([*weights], p=shares / shares.sum()))
    position = next(positions[kind])
    board = position.board
    chosen_cell = int(rng.choice(solver.optimal_cells(board)))
    thought = text_formats.STYLES[style](board, chosen_cell)
    chosen = text_format.render_answer(chosen_cell, thought)
    cell = int(rng.choice(rejected_cells(board, kind) or (chosen_cell,)))
    thought = _other_thought(board, cell, style, chosen)
    rejected = text_format.render_answer(cell, thought)
    if kind == "format":
      malformed = _malformed(rejected)
      rejected = malformed[int(rng.integers(len(malformed)))]
    yield pair_row(position, text_format, chosen, rejected, kind)


def _boards(kind: str) -> np.ndarray:
  """Returns the boards that have a rejected answer of a kind."""
  boards = rules.positions()
  if kind == "format":
    return boards
  return boards[[bool(rejected_cells(board, kind)) for board in boards]]


def _other_thought(
  board: int, cell: int, style: str, answer: str
) -> str | None:
  """Returns a thought for a move that `answer` lacks, in `style` if possible."""
  if style == "none":
    return None
  options = [text_formats.name_tactic(board, cell)]
  if rules.legal_masks()[board] >> cell & 1:
    options.insert(0, text_formats.STYLES[style](board, cell) or "")
  options.append(f"I play {text_formats.coordinate(cell)}.")
  return next(thought for thought in options if thought not in answer)


def _malformed(answer: str) -> list[str]:
  """Returns variants of an answer that violate its format."""
  last_tag = answer.rindex("<")
  return [
    answer[:last_tag],
    f"{answer}\nThat is my move.",
    answer + answer[answer.rfind("\n") + 1 :],
    _TAG.sub("", answer).strip() or answer[:last_tag],
  ]


def find(text: str) -> Position:
  """Returns the position on which a prompt asks for a move, its last board.

  Raises:
    ValueError: If the prompt has no board, or no move is possible on it.
  """
  boards = board_text.find(text)
  if not boards:
    raise ValueError("the prompt has no board")
  board, player = boards[-1].position, boards[-1].player
  marks = board_text.to_text(board)
  if not solver.solve().optimal[board]:
    raise ValueError(
      f"no move is possible on the board {marks}: it is won, full or"
      " unreachable"
    )
  mover = int(rules.side_to_move()[board])
  if player not in (None, mover):
    raise ValueError(
      f"the board {marks} has {text_formats.MARK_NAMES[mover]} to move, but the"
      f" prompt says {text_formats.MARK_NAMES[player]}"
    )
  return Position(board, _find_last_move(text[: boards[-1].start], board))


def _opponent_cells(board: int) -> np.ndarray:
  """Returns which cells the player not to move has taken: bool [9]."""
  marks = rules.cells()[board]
  return (marks != rules.EMPTY) & (marks != rules.side_to_move()[board])


def _find_last_move(text: str, board: int) -> int | None:
  """Returns the last move that a text names, else the opponent's first cell."""
  is_opponent = _opponent_cells(board)
  names = _LAST_MOVE.findall(text)
  if not names:
    return int(is_opponent.argmax()) if is_opponent.any() else None
  cell = text_formats.cell_from_coordinate(names[-1])
  if not is_opponent[cell]:
    raise ValueError(
      f"the last move {names[-1]} is not the opponent's on the board"
      f" {board_text.to_text(board)}"
    )
  return cell
