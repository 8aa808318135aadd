"""Positions to play from, as rows of data ask for a move on them."""

import functools
import re
from typing import Any, NamedTuple

from tunix_ttt.data import positions
from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules

_LAST_MOVE = re.compile(re.escape(prompts.LAST_MOVE) + r"([A-C][1-3])")


class Start(NamedTuple):
  """A row's position.

  Attributes:
    sample: the row.
    shown: the position.
  """

  sample: row_formats.Sample
  shown: positions.Shown


def parse(row: dict[str, Any], data_format: str) -> list[Start]:
  """Finds the positions on which a row asks for a move.

  That is the last board of the prompt; what is answered does not matter.

  Args:
    row: the row's fields.
    data_format: see `formats.parse_row`.

  Raises:
    ValueError: if there is no prompt or no board, or no move can be made on it.
  """
  samples = row_formats.parse_row(row, data_format)
  return [Start(sample, _position(_asked(sample))) for sample in samples]


def _asked(sample: row_formats.Sample) -> str:
  """Returns the last thing that is said before the answer."""
  if isinstance(sample, row_formats.Conversation):
    prompt = sample.messages
  else:
    prompt = sample.prompt
  if isinstance(prompt, str):
    return prompt
  asked = [turn["content"] for turn in prompt if turn["role"] == "user"]
  return asked[-1] if asked else ""


def _position(text: str) -> positions.Shown:
  found = board_text.find(text)
  if not found:
    raise ValueError("there is no board in the prompt")
  board, player = found[-1].board, found[-1].player
  shown = board_text.to_text(board)
  if board not in _playable():
    raise ValueError(
      f"no move can be made on the board {shown}: it is won or full, or no game"
      " comes to it"
    )
  mover = int(rules.side_to_move()[board])
  if player not in (None, mover):
    raise ValueError(
      f"on the board {shown} it is the turn of {prompts.MARK_NAMES[mover]}, and"
      f" the prompt says {prompts.MARK_NAMES[player]}"
    )
  return positions.Shown(board, _last_move(text[: found[-1].start], board))


@functools.cache
def _playable() -> frozenset[int]:
  return frozenset(rules.positions().tolist())


def _last_move(text: str, board: int) -> int | None:
  """Returns the opponent's last move: as it is said, or its first cell."""
  marks = rules.cells()[board]
  theirs = (marks != rules.EMPTY) & (marks != rules.side_to_move()[board])
  said = _LAST_MOVE.findall(text)
  if not said:
    return int(theirs.argmax()) if theirs.any() else None
  cell = prompts.cell_from_coordinate(said[-1])
  if not theirs[cell]:
    raise ValueError(
      f"the opponent has not taken {said[-1]} on the board"
      f" {board_text.to_text(board)}"
    )
  return cell
