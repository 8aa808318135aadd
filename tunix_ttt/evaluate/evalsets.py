"""Reads evalsets and scores answers to their items.

An evalset is a JSONL file with one item a line. An item's `match` is one of:

- `exact`: the answer equals `expected_answer`;
- `normalized` (the default): the answer equals `expected_answer` up to case,
  white space and outer punctuation;
- `optimal_move`: the answer is in the game's format and its move is one of the
  coordinates in `expected_answer`.

A leading thought in `<think>` tags is not part of the answer.
"""

from collections.abc import Iterator, Sequence
import pathlib
import re
import string
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
import unicodedata

import numpy as np
import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

if TYPE_CHECKING:
  from tunix_ttt.models import checkpoints

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
# (maximum number of marks, section name).
_PHASES = ((2, "opening"), (5, "middle"), (8, "end"))


class Item(pydantic.BaseModel):
  """One question.

  Attributes:
    id: Unique id in the evalset.
    prompt: User message.
    system: System message, if any.
    expected_answer: The right answer, or all right moves.
    match: Matching rule of the answer.
    section: Group of items in reports.
    board: Board of an `optimal_move` item: nine of `.XO`, row by row.
    chance: Expected score of a random legal move on an `optimal_move` item.
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
        text_formats.cell_from_coordinate(move)
    elif not isinstance(self.expected_answer, str):
      raise ValueError(f"{self.match} needs one text to expect")
    if self.board is not None:
      self._check_board(board_text.from_text(self.board))
    return self

  def _check_board(self, board: int) -> None:
    optimal = [text_formats.coordinate(c) for c in solver.optimal_cells(board)]
    if not optimal:
      raise ValueError(f"board {self.board}: no such position to move on")
    if self.expected_answer != optimal:
      raise ValueError(
        f"board {self.board}: the optimal moves are {optimal}, expected_answer"
        f" has {self.expected_answer}"
      )
    if text_formats.render_grid(board) not in self.prompt:
      raise ValueError(f"board {self.board}: the prompt shows another board")


def load(path: pathlib.Path | str) -> list[Item]:
  """Reads and checks an evalset.

  Raises:
    errors.UserError: If an item is wrong, with its file, line and field.
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
  """Judges a response to an item.

  Returns:
    `right` or `wrong`; for a move `right`, `unreadable` (not in the answer
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
  answer = text_formats.parse_answer(response) or text_formats.parse_answer(
    response, thoughts=False
  )
  if answer is None:
    return "unreadable"
  if text_formats.coordinate(answer.cell) in item.expected_answer:
    return "right"
  if item.board is not None and item.board[answer.cell] != ".":
    return "illegal"
  return "not optimal"


def _normalize(text: str) -> str:
  text = unicodedata.normalize("NFKC", text).casefold()
  return " ".join(text.split()).strip(string.punctuation + string.whitespace)


def tictactoe_rows(seed: int = 0) -> Iterator[dict[str, Any]]:
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
    marks = rules.cells()[board]
    opponent = np.flatnonzero((marks != rules.EMPTY) & (marks != mark))
    last_move = int(rng.choice(opponent)) if len(opponent) else None
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


class Answer(pydantic.BaseModel):
  """A model's response to one item, scored.

  Attributes:
    id: Id of the item.
    section: Section of the item.
    match: Matching rule of the item.
    prompt: User message of the item.
    expected_answer: The right answer, or all right moves.
    response: The model's answer.
    verdict: Verdict of `evalsets.verdict`.
    score: 1 for a right answer, else 0.
    chance: Expected score of a random legal move; None if the item has none.
    model: Name of the model.
    seed: Random seed for sampling.
  """

  model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

  id: str
  section: str
  match: Literal["exact", "normalized", "optimal_move"]
  prompt: str
  expected_answer: str | list[str]
  response: str
  verdict: str
  # Not Literal[0, 1], which accepts True.
  score: Annotated[int, pydantic.Field(ge=0, le=1)]
  chance: float | None
  model: str
  seed: int


def generate(
  model: "checkpoints.Model",
  name: str,
  config: config_lib.SFTConfig,
  items: Sequence[Item],
  seed: int | None = None,
) -> Iterator[Answer]:
  """Yields a model's answer to each item, sampled as in the `eval` settings.

  The seed defaults to the config's and is unused at temperature 0. Answers
  record `name` as their model.

  Raises:
    errors.UserError: If the answers do not fit in memory.
  """
  # Imported lazily: reading answers needs neither JAX nor Tunix.
  from tunix_ttt import requirements
  from tunix_ttt.models import memory
  from tunix_ttt.models import model_policy

  seed = config.seed if seed is None else seed
  encoded = []
  for item in items:
    messages = [chat.message("user", item.prompt)]
    if item.system is not None:
      messages.insert(0, chat.message("system", item.system))
    encoded.append(chat.encode_chat(messages, model.tokenizer).ids)
  size, max_new_tokens = config.eval.batch_size, config.eval.max_new_tokens
  longest = max(map(len, encoded), default=0)
  requirements.check_fits(
    memory.sampling(model.spec, size, longest + max_new_tokens, longest),
    f"answering {size:,} questions of up to {longest:,} tokens with up to"
    f" {max_new_tokens:,} each",
    "eval.batch_size or eval.max_new_tokens, or shorten the questions",
  )
  generator = model_policy.Generator(
    model, max_prompt_length=longest, max_new_tokens=max_new_tokens
  )
  responses = generator(
    encoded,
    batch_size=size,
    temperature=config.eval.temperature,
    top_p=config.eval.top_p,
    seed=seed,
  )
  bar = progress.bar(responses, total=len(items), desc="answers", unit="item")
  with progress.stage("answering", has_bar=True):
    for item, response in zip(items, bar, strict=True):
      label = verdict(item, response)
      yield Answer(
        **item.model_dump(exclude={"system", "board"}),
        response=response,
        verdict=label,
        score=int(label == "right"),
        model=name,
        seed=seed,
      )


def write(answers: Sequence[Answer], path: pathlib.Path) -> None:
  """Writes answers as JSONL.

  Raises:
    errors.UserError: If the file exists.
  """
  files.check_absent(path)
  rows = (files.to_json(answer.model_dump()) + "\n" for answer in answers)
  files.write_text(path, "".join(rows))


def read(path: pathlib.Path) -> dict[str, Answer]:
  """Reads answers by item id.

  Raises:
    errors.UserError: If a line is not an answer, or repeats an item.
  """
  answers: dict[str, Answer] = {}
  for number, row in files.read_jsonl(path, "answer file"):
    try:
      answer = Answer.model_validate(row)
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      field = ".".join(map(str, first["loc"]))
      raise errors.UserError(
        f"{path}:{number}: {field}: {first['msg']}; is this a file that"
        " eval_generate.py wrote?"
      ) from None
    if answer.id in answers:
      raise errors.UserError(
        f"{path}:{number}: the item {answer.id!r} is answered twice"
      )
    answers[answer.id] = answer
  return answers
