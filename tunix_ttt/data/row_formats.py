"""The row formats that training data comes in.

Conversational rows go through the chat template; plain ones are text as it
stands. What is supervised is decided in `text.chat`.
"""

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple

from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers


class Conversation(NamedTuple):
  """A chat; assistant messages from index `supervised_from` on are trained."""

  messages: list[chat.Message]
  supervised_from: int = 0

  def texts(self) -> Iterator[str]:
    """Yields what the tokenizer of a tiny model will be asked to encode."""
    system = ""
    for turn in self.messages:
      if turn["role"] == "system":
        system = f"{turn['content']}\n\n"
      elif turn["role"] == "user":
        yield f"user\n{system}{turn['content']}"
        system = ""
      else:
        yield turn["content"]

  def encode(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens and the loss mask."""
    return chat.encode_chat(
      self.messages, tokenizer, supervised_from=self.supervised_from
    )


class PlainText(NamedTuple):
  """Text without a template, of which the completion is trained."""

  prompt: str
  completion: str

  def texts(self) -> Iterator[str]:
    """Yields what the tokenizer will be asked to encode."""
    yield self.prompt
    yield self.completion

  def encode(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens and the loss mask."""
    return chat.encode_text(self.prompt, self.completion, tokenizer)


# What can be trained on as it is.
Trained = Conversation | PlainText


class Preference(NamedTuple):
  """Two answers to a prompt, one of them better; text, or lists of messages."""

  prompt: chat.Text
  chosen: chat.Text
  rejected: chat.Text

  def answers(self) -> tuple[Trained, Trained]:
    """Returns the prompt with the chosen and with the rejected answer."""
    chosen, rejected = (
      _answered(self.prompt, answer) for answer in (self.chosen, self.rejected)
    )
    return chosen, rejected

  def texts(self) -> Iterator[str]:
    """Yields what the tokenizer will be asked to encode."""
    for answer in self.answers():
      yield from answer.texts()

  def encode_chosen(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens with the chosen answer, which the mask marks."""
    return _answered(self.prompt, self.chosen).encode(tokenizer)

  def encode_rejected(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens with the rejected answer, which the mask marks."""
    return _answered(self.prompt, self.rejected).encode(tokenizer)


class Prompt(NamedTuple):
  """A prompt: text, or messages that end with the user's."""

  prompt: chat.Text

  def texts(self) -> Iterator[str]:
    """Yields what the tokenizer will be asked to encode."""
    if isinstance(self.prompt, str):
      yield self.prompt
    else:
      yield from Conversation(self.prompt).texts()


Sample = Trained | Preference | Prompt
Row = dict[str, Any]

_TURN = re.compile(
  f"{tokenizers.START_OF_TURN}(user|model)\n(.*?)"
  f"(?:{tokenizers.END_OF_TURN}\\s*|$)",
  re.DOTALL,
)


def name_of(row: Row) -> str:
  """Returns the format that a row's fields are of.

  Raises:
    ValueError: if they are of none.
  """
  for name, (fields, _) in FORMATS.items():
    if all(field in row for field in fields):
      return name
  known = "; ".join(" + ".join(f) for f, _ in FORMATS.values())
  raise ValueError(
    f"found the fields {', '.join(row) or 'none'}, expected one of: {known}"
  )


def parse_row(row: Row, data_format: str = "auto") -> list[Sample]:
  """Reads one row; an episode has a sample for each step, others have one.

  Args:
    row: the row's fields; those a format does not name are ignored.
    data_format: a key of `FORMATS`, or `auto` to tell by the fields.

  Raises:
    ValueError: saying what is missing or wrong.
  """
  name = name_of(row) if data_format == "auto" else data_format
  fields, parse = FORMATS[name]
  for field in fields:
    if field not in row:
      raise ValueError(
        f"the field {field!r} is missing; found {', '.join(row) or 'none'}"
      )
  found = parse(row)
  return found if isinstance(found, list) else [found]


def parse_trained(row: Row, data_format: str = "auto") -> list[Trained]:
  """Reads one row of those that can be trained on as they are; see `parse_row`.

  Raises:
    ValueError: if it is a preference pair or a prompt alone.
  """
  samples: list[Trained] = []
  for sample in parse_row(row, data_format):
    if isinstance(sample, Preference):
      raise ValueError("this is a preference pair, which is for DPO")
    if isinstance(sample, Prompt):
      raise ValueError("this is a prompt without an answer to train on")
    samples.append(sample)
  return samples


def parse_preference(row: Row, data_format: str = "auto") -> list[Preference]:
  """Reads one row that is a preference pair; see `parse_row`.

  Raises:
    ValueError: if it is anything else.
  """
  samples = parse_row(row, data_format)
  pairs = [sample for sample in samples if isinstance(sample, Preference)]
  if len(pairs) < len(samples):
    raise ValueError(
      "this is not a preference pair; expected prompt + chosen + rejected"
    )
  return pairs


def _parse_messages(row: Row) -> Sample:
  return _conversation(chat.check_messages(row["messages"]))


def _answered(prompt: chat.Text, answer: chat.Text) -> Trained:
  if isinstance(prompt, str) and isinstance(answer, str):
    return PlainText(prompt, answer)
  if isinstance(prompt, list) and isinstance(answer, list):
    messages = chat.check_messages([*prompt, *answer])
    return _conversation(messages, len(prompt))
  raise ValueError("must both be text or both lists of messages")


def _parse_prompt_completion(row: Row) -> Sample:
  try:
    return _answered(row["prompt"], row["completion"])
  except ValueError as error:
    raise ValueError(f"'prompt' and 'completion': {error}") from None


def _parse_preference(row: Row) -> Sample:
  pair = Preference(row["prompt"], row["chosen"], row["rejected"])
  if pair.chosen == pair.rejected:
    raise ValueError("'chosen' and 'rejected' are the same")
  for name in ("chosen", "rejected"):
    try:
      _answered(pair.prompt, row[name])
    except ValueError as error:
      raise ValueError(f"'prompt' and {name!r}: {error}") from None
  return pair


def _parse_prompt(row: Row) -> Sample:
  prompt = row["prompt"]
  if isinstance(prompt, str):
    if not prompt:
      raise ValueError("'prompt' is empty")
  elif not isinstance(prompt, list):
    raise ValueError("'prompt' must be text or a list of messages")
  elif chat.check_messages(prompt)[-1]["role"] != "user":
    raise ValueError("the last message of 'prompt' is not the user's")
  return Prompt(prompt)


def _parse_episode(row: Row) -> list[Sample]:
  steps = row["steps"]
  if not isinstance(steps, list) or not steps:
    raise ValueError("'steps' must be a list and not empty")
  samples: list[Sample] = []
  for number, step in enumerate(steps):
    try:
      info = step["info"]
      prompt, answer = info["chat_prompt_messages"], info["chat_completion"]
      samples.append(_answered(prompt, [answer]))
    except (TypeError, KeyError):
      raise ValueError(
        f"step {number} has no info with chat_prompt_messages and"
        " chat_completion"
      ) from None
    except ValueError as error:
      raise ValueError(f"step {number}: {error}") from None
  return samples


def _parse_text(row: Row) -> Sample:
  if not isinstance(row["text"], str) or not row["text"]:
    raise ValueError("'text' must be text and not empty")
  return PlainText("", row["text"])


def _parse_tunix_sft(row: Row) -> Sample:
  text = row["prompts"]
  if not isinstance(text, str):
    raise ValueError("'prompts' must be text")
  turns = list(_TURN.finditer(text))
  if not turns or "".join(t[0] for t in turns) != text.removeprefix("<bos>"):
    raise ValueError(
      "'prompts' must be Gemma turns: <start_of_turn>user, a line break, text,"
      " <end_of_turn>"
    )
  roles = {"user": "user", "model": "assistant"}
  messages = [chat.message(roles[turn[1]], turn[2]) for turn in turns]
  # A prompt that stops where the model is to speak is answered by the row.
  if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
    messages.pop()
  if messages and messages[-1]["role"] == "user":
    answer = row.get("final_answer")
    if not isinstance(answer, str):
      raise ValueError(
        "'prompts' has no model turn at its end and 'final_answer' is not text"
      )
    messages.append(chat.message("assistant", answer))
  return _conversation(chat.check_messages(messages))


def _conversation(
  messages: list[chat.Message], supervised_from: int = 0
) -> Conversation:
  if messages[-1]["role"] != "assistant":
    raise ValueError(
      "the last message is the user's, so there is no answer to train on"
    )
  return Conversation(messages, supervised_from)


# Format: the fields that tell it, and its parser. The first match wins.
FORMATS: dict[
  str, tuple[tuple[str, ...], Callable[[Row], Sample | list[Sample]]]
] = {
  "messages": (("messages",), _parse_messages),
  "preference": (("prompt", "chosen", "rejected"), _parse_preference),
  "prompt_completion": (("prompt", "completion"), _parse_prompt_completion),
  "tunix_sft": (("prompts",), _parse_tunix_sft),
  "episodes": (("steps",), _parse_episode),
  "text": (("text",), _parse_text),
  "prompt": (("prompt",), _parse_prompt),
}
