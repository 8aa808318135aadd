"""Evalsets: questions with known answers, and how answers are scored.

An evalset is JSONL, an item a line. `match` says what counts as right:

- `exact`: the answer is `expected_answer` to the letter;
- `normalized`: the same after case, white space and outer punctuation are
  evened out (the default);
- `optimal_move`: the answer is in the game's format and its move is one of the
  coordinates in `expected_answer`.

A thought in `<think>` tags at the start is no part of an answer.
"""

from collections.abc import Iterator
import pathlib
import re
import string
from typing import Any, Literal, Self
import unicodedata

import numpy as np
import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_PHASES = ((2, "opening"), (5, "middle"), (8, "end"))


class Item(pydantic.BaseModel):
  """One question.

  Attributes:
    id: unique in its evalset.
    prompt: what the user says.
    system: instructions before it.
    expected_answer: the right answer, or all the right moves.
    match: what counts as right.
    section: the group it is reported in.
    board: the position, for `optimal_move`: nine of `.XO`, row by row.
    chance: the score that a random legal move expects, for `optimal_move`.
  """

  model_config = pydantic.ConfigDict(frozen=True, strict=True)

  id: str = pydantic.Field(min_length=1)
  prompt: str = pydantic.Field(min_length=1)
  system: str | None = None
  expected_answer: str | list[str]
  match: Literal["exact", "normalized", "optimal_move"] = "normalized"
  section: str = "general"
  board: str | None = pydantic.Field(None, pattern=r"^[.XO]{9}$")
  chance: float | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.match == "optimal_move":
      if not isinstance(self.expected_answer, list) or not self.expected_answer:
        raise ValueError("optimal_move needs a list of moves to expect")
      for move in self.expected_answer:
        prompts.cell_from_coordinate(move)
    elif not isinstance(self.expected_answer, str):
      raise ValueError(f"{self.match} needs one text to expect")
    if self.board is not None:
      self._check_board(board_text.from_text(self.board))
    return self

  def _check_board(self, board: int) -> None:
    optimal = [prompts.coordinate(c) for c in solver.optimal_cells(board)]
    if not optimal:
      raise ValueError(f"board {self.board}: no such position to move on")
    if self.expected_answer != optimal:
      raise ValueError(
        f"board {self.board}: the optimal moves are {optimal}, expected_answer"
        f" has {self.expected_answer}"
      )
    if prompts.render_grid(board) not in self.prompt:
      raise ValueError(f"board {self.board}: the prompt shows another board")


def load(path: pathlib.Path | str) -> list[Item]:
  """Reads and checks an evalset.

  Raises:
    errors.UserError: naming file, line and field of the first mistake.
  """
  path = files.or_packaged(pathlib.Path(path), "evalsets")
  items: dict[str, Item] = {}
  for number, row in files.read_jsonl(path, "evalset"):
    try:
      item = Item.model_validate(row)
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      field = ".".join(map(str, first["loc"]))
      message = first["msg"].removeprefix("Value error, ")
      raise errors.UserError(
        f"{path}:{number}: {field + ': ' if field else ''}{message}"
      ) from None
    if item.id in items:
      raise errors.UserError(f"{path}:{number}: the id {item.id!r} is taken")
    items[item.id] = item
  return list(items.values())


def verdict(item: Item, response: str) -> str:
  """Returns `right`, or in what way the response is wrong.

  That is `wrong` for text, and for a move `unreadable` (not in the answer
  format), `illegal` or `not optimal`.
  """
  if item.match == "optimal_move":
    return _move_verdict(item, response)
  answer = _THOUGHT.sub("", response, count=1)
  expected = item.expected_answer
  assert isinstance(expected, str)
  if item.match == "normalized":
    answer, expected = _normalize(answer), _normalize(expected)
  return "right" if answer == expected else "wrong"


def _move_verdict(item: Item, response: str) -> str:
  answer = prompts.parse_answer(response) or prompts.parse_answer(
    response, thoughts=False
  )
  if answer is None:
    return "unreadable"
  if prompts.coordinate(answer.cell) in item.expected_answer:
    return "right"
  if item.board is not None and item.board[answer.cell] != ".":
    return "illegal"
  return "not optimal"


def _normalize(text: str) -> str:
  text = unicodedata.normalize("NFKC", text).casefold()
  return " ".join(text.split()).strip(string.punctuation + string.whitespace)


def tictactoe_rows(seed: int = 0) -> Iterator[dict[str, Any]]:
  """Yields the rows of `tictactoe_v1`: every position there is, once.

  Positions that are rotations or reflections of each other count as one, of
  which one is drawn, with the opponent's last move.
  """
  rng = np.random.default_rng(seed)
  positions = rules.positions()
  classes = rules.canonical()[positions]
  for n, form in enumerate(np.unique(classes), start=1):
    board = int(rng.choice(positions[classes == form]))
    mark = int(rules.side_to_move()[board])
    marks = rules.cells()[board]
    theirs = np.flatnonzero((marks != rules.EMPTY) & (marks != mark))
    last_move = int(rng.choice(theirs)) if len(theirs) else None
    optimal = solver.optimal_cells(board)
    legal = int(rules.mask_sizes()[rules.legal_masks()[board]])
    taken = int(rules.num_marks()[board])
    phase = next(name for most, name in _PHASES if taken <= most)
    yield {
      "id": f"ttt-{n:03}",
      "section": f"{prompts.MARK_NAMES[mark]} {phase}",
      "match": "optimal_move",
      "board": board_text.to_text(board),
      "expected_answer": [prompts.coordinate(cell) for cell in optimal],
      "chance": round(len(optimal) / legal, 6),
      "system": prompts.system_prompt(),
      "prompt": prompts.render_observation(board, mark, last_move),
    }
