"""Reads evalsets and scores answers to their items.

An evalset is a JSONL file with one item a line. An item's `match` is one of:

- `exact`: the answer equals `expected_answer`;
- `normalized` (the default): the answer equals `expected_answer` up to case,
  white space and outer punctuation;
- `optimal_move`: the answer is in the game's format and its move is one of those
  in `expected_answer`.

A leading thought in `<think>` tags is not part of the answer.
"""

from collections.abc import Iterator, Sequence
import pathlib
import re
import string
from typing import TYPE_CHECKING, Annotated, Literal, Self
import unicodedata

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games import position_reader
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

if TYPE_CHECKING:
  from tunix_ttt.evaluate import model_player

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


class Item(pydantic.BaseModel):
  """One question.

  Attributes:
    id: Unique id in the evalset.
    prompt: User message.
    system: System message, if any.
    expected_answer: The right answer, or all right moves.
    match: Matching rule of the answer.
    section: Group of items in reports.
    board: Position of an `optimal_move` item, in the game's notation.
    chance: Expected score of a random legal move on an `optimal_move` item.
  """

  model_config = pydantic.ConfigDict(frozen=True, strict=True)

  id: str = pydantic.Field(min_length=1)
  prompt: str = pydantic.Field(min_length=1)
  system: str | None = None
  expected_answer: str | list[str]
  match: Literal["exact", "normalized", "optimal_move"] = "normalized"
  section: str = "general"
  board: str | None = None
  chance: float | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    expected = self.expected_answer
    if self.match == "optimal_move":
      if not isinstance(expected, list) or not expected:
        raise ValueError("optimal_move needs a list of moves to expect")
    elif not isinstance(expected, str):
      raise ValueError(f"{self.match} needs one text to expect")
    return self


def load(
  path: pathlib.Path | str, game: config_lib.GameConfig | None = None
) -> list[Item]:
  """Reads and checks an evalset; None is the default game.

  Raises:
    errors.UserError: If an item is wrong, with its file, line and field, or the
      game cannot read the positions of its items.
  """
  path = files.or_packaged(pathlib.Path(path), "evalsets")
  items: dict[str, Item] = {}
  for number, item in files.read_rows(Item, path, "evalset"):
    if item.id in items:
      raise errors.UserError(f"{path}:{number}: the id {item.id!r} is taken")
    if item.match == "optimal_move" or item.board is not None:
      reader = position_reader.of(game, f"{path}:{number}")
      try:
        reader.check_item(item.board, item.expected_answer, item.prompt)
      except ValueError as error:
        raise errors.UserError(f"{path}:{number}: {error}") from None
    items[item.id] = item
  return list(items.values())


def verdict(
  item: Item, response: str, game: config_lib.GameConfig | None = None
) -> str:
  """Judges a response to an item; None is the default game.

  Returns:
    `right` or `wrong`; for a move `right`, `unreadable` (not in the answer
    format), `illegal` or `not optimal`.
  """
  expected = item.expected_answer
  if isinstance(expected, str):
    answer = _THOUGHT.sub("", response, count=1)
    if item.match == "normalized":
      answer, expected = _normalize(answer), _normalize(expected)
    return "right" if answer == expected else "wrong"
  reader = position_reader.of(game, item.id)
  return reader.verdict(response, expected, item.board)


def _normalize(text: str) -> str:
  text = unicodedata.normalize("NFKC", text).casefold()
  return " ".join(text.split()).strip(string.punctuation + string.whitespace)


class Answer(files.Row):
  """A model's response to one item, scored.

  The fields of the item are as in `Item`. The score is 1 for a right answer,
  else 0, and the seed is the random seed for sampling.
  """

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
  model: "model_player.Model",
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
  seed = config.seed if seed is None else seed
  encoded = []
  for item in items:
    messages = [chat.message("user", item.prompt)]
    if item.system is not None:
      messages.insert(0, chat.message("system", item.system))
    encoded.append(chat.encode_chat(messages, model.tokenizer).ids)
  responses = _responses(model, encoded, config.eval, seed)
  bar = progress.bar(responses, total=len(items), desc="answers", unit="item")
  with progress.stage("answering", has_bar=True):
    for item, response in zip(items, bar, strict=True):
      label = verdict(item, response, config.game)
      yield Answer(
        **item.model_dump(exclude={"system", "board"}),
        response=response,
        verdict=label,
        score=int(label == "right"),
        model=name,
        seed=seed,
      )


def _responses(
  model: "model_player.Model",
  prompts: Sequence[list[int]],
  settings: config_lib.EvalConfig,
  seed: int,
) -> Iterator[str]:
  """Yields the response to each prompt."""
  # Imported lazily: reading answers needs neither JAX nor Tunix.
  from tunix_ttt import requirements
  from tunix_ttt.models import checkpoints
  from tunix_ttt.models import memory
  from tunix_ttt.models import model_policy

  if not isinstance(model, checkpoints.Model):
    return model.answers(prompts, settings, seed)
  size, max_new_tokens = settings.batch_size, settings.max_new_tokens
  longest = max(map(len, prompts), default=0)
  requirements.check_fits(
    memory.sampling(model.spec, size, longest + max_new_tokens, longest),
    f"answering {size:,} questions of up to {longest:,} tokens with up to"
    f" {max_new_tokens:,} each",
    "eval.batch_size or eval.max_new_tokens, or shorten the questions",
  )
  generator = model_policy.Generator(
    model,
    max_prompt_length=longest,
    max_new_tokens=max_new_tokens,
    temperature=settings.temperature,
    top_p=settings.top_p,
  )
  return generator(prompts, batch_size=size, seed=seed)


def write(answers: Sequence[Answer], path: pathlib.Path) -> None:
  """Writes answers as JSONL; raises a UserError if the file exists."""
  files.check_absent(path)
  rows = (files.to_json(answer.model_dump()) + "\n" for answer in answers)
  files.write_text(path, "".join(rows))


def read(path: pathlib.Path) -> dict[str, Answer]:
  """Reads answers by item id.

  Raises:
    errors.UserError: If a line is not an answer, or repeats an item.
  """
  answers: dict[str, Answer] = {}
  rows = files.read_rows(Answer, path, "answer file", "eval_generate.py")
  for number, answer in rows:
    if answer.id in answers:
      raise errors.UserError(
        f"{path}:{number}: the item {answer.id!r} is answered twice"
      )
    answers[answer.id] = answer
  return answers
