"""Generates, writes and reads a model's answers to an evalset."""

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
  items: Sequence[evalsets.Item],
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
  responses = model_policy.generate(
    model.module,
    model.spec,
    model.tokenizer,
    encoded,
    max_new_tokens=max_new_tokens,
    batch_size=size,
    temperature=config.eval.temperature,
    top_p=config.eval.top_p,
    seed=seed,
  )
  bar = progress.bar(responses, total=len(items), desc="answers", unit="item")
  with progress.stage("answering", has_bar=True):
    for item, response in zip(items, bar, strict=True):
      verdict = evalsets.verdict(item, response)
      yield Answer(
        **item.model_dump(exclude={"system", "board"}),
        response=response,
        verdict=verdict,
        score=int(verdict == "right"),
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
