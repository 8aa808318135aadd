"""Answers to an evalset: producing, writing and reading them."""

from collections.abc import Iterator, Sequence
import pathlib
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import evalsets
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

if TYPE_CHECKING:
  from tunix_ttt.models import checkpoints


class Answer(pydantic.BaseModel):
  """A model's response to one item, scored.

  Attributes:
    id: the item's.
    section: the item's.
    match: what counted as right.
    prompt: what the user said.
    expected_answer: the right answer, or all the right moves.
    response: what the model said.
    verdict: see `evalsets.verdict`.
    score: 1 if right, else 0.
    chance: the score that a random legal move expects, if the item says.
    model: what answered.
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
  # Of a literal 1, True would be one.
  score: Annotated[int, pydantic.Field(ge=0, le=1)]
  chance: float | None
  model: str
  seed: int


def generate(
  model: "checkpoints.Model",
  name: str,
  config: config_lib.SFTConfig,
  items: Sequence[evalsets.Item],
  seed: int | None = None,
) -> Iterator[Answer]:
  """Yields a model's answer to each item.

  Args:
    model: Model that answers.
    name: Name of the model in the answers.
    config: Settings, of which `eval` says how to sample.
    items: Questions.
    seed: Random seed for sampling, used if the temperature is above 0; None
      for the config's.

  Raises:
    errors.UserError: if the answers need far more memory than there is.
  """
  # Imported lazily: reading answers needs neither JAX nor Tunix.
  from tunix_ttt import requirements
  from tunix_ttt.models import memory
  from tunix_ttt.models import model_policy

  seed = config.seed if seed is None else seed
  encoded = [
    chat.encode_chat(_messages(item), model.tokenizer).ids for item in items
  ]
  size, longest = config.eval.batch_size, max(map(len, encoded), default=0)
  length = longest + config.eval.max_new_tokens
  requirements.check_fits(
    memory.sampling(model.spec, size, length, longest),
    f"answering {size:,} questions of up to {longest:,} tokens with up to"
    f" {config.eval.max_new_tokens:,} each",
    "eval.batch_size or eval.max_new_tokens, or shorten the questions",
  )
  responses = model_policy.generate(
    model.module,
    model.spec,
    model.tokenizer,
    encoded,
    max_new_tokens=config.eval.max_new_tokens,
    batch_size=config.eval.batch_size,
    temperature=config.eval.temperature,
    top_p=config.eval.top_p,
    seed=seed,
  )
  bar = progress.bar(responses, total=len(items), desc="answers", unit="item")
  with progress.stage("answering", has_bar=True):
    for item, response in zip(items, bar, strict=True):
      verdict = evalsets.verdict(item, response)
      yield Answer(
        id=item.id,
        section=item.section,
        match=item.match,
        prompt=item.prompt,
        expected_answer=item.expected_answer,
        response=response,
        verdict=verdict,
        score=1 if verdict == "right" else 0,
        chance=item.chance,
        model=name,
        seed=seed,
      )


def _messages(item: evalsets.Item) -> list[chat.Message]:
  system = [] if item.system is None else [chat.message("system", item.system)]
  return [*system, chat.message("user", item.prompt)]


def write(answers: Sequence[Answer], path: pathlib.Path) -> None:
  """Writes answers as JSONL; the file must not exist.

  Raises:
    errors.UserError: if it does.
  """
  files.check_absent(path)
  rows = (files.to_json(answer.model_dump()) + "\n" for answer in answers)
  files.write_text(path, "".join(rows))


def read(path: pathlib.Path) -> dict[str, Answer]:
  """Reads answers by item id.

  Raises:
    errors.UserError: naming the line that is no answer, or answers an item
      that has an answer already.
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
