"""The row formats that training data comes in.

Conversational rows go through the chat template; plain ones are text as it
stands. What is supervised is decided in `language.chat`.
"""

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple

from tunix_ttt.language import chat
from tunix_ttt.language import tokenizers


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


Sample = Conversation | PlainText
Row = dict[str, Any]

_TURN = re.compile(
  f"{tokenizers.START_OF_TURN}(user|model)\n(.*?)"
  f"(?:{tokenizers.END_OF_TURN}\\s*|$)",
  re.DOTALL,
)


def parse_row(row: Row, data_format: str = "auto") -> Sample:
  """Reads one row.

  Args:
    row: the row's fields; those a format does not name are ignored.
    data_format: a key of `FORMATS`, or `auto` to tell by the fields.

  Raises:
    ValueError: saying what is missing or wrong.
  """
  if data_format == "auto":
    for fields, parse in FORMATS.values():
      if all(field in row for field in fields):
        return parse(row)
    known = "; ".join(" + ".join(f) for f, _ in FORMATS.values())
    hint = " (a preference pair, which is for DPO)" if "chosen" in row else ""
    raise ValueError(
      f"found the fields {', '.join(row) or 'none'}{hint}, expected one of:"
      f" {known}"
    )
  fields, parse = FORMATS[data_format]
  for field in fields:
    if field not in row:
      raise ValueError(
        f"the field {field!r} is missing; found {', '.join(row) or 'none'}"
      )
  return parse(row)


def _parse_messages(row: Row) -> Sample:
  return _conversation(chat.check_messages(row["messages"]))


def _parse_prompt_completion(row: Row) -> Sample:
  prompt, completion = row["prompt"], row["completion"]
  if isinstance(prompt, str) and isinstance(completion, str):
    return PlainText(prompt, completion)
  if isinstance(prompt, list) and isinstance(completion, list):
    messages = chat.check_messages([*prompt, *completion])
    return _conversation(messages, len(prompt))
  raise ValueError(
    "'prompt' and 'completion' must both be text or both lists of messages"
  )


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
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Row], Sample]]] = {
  "messages": (("messages",), _parse_messages),
  "prompt_completion": (("prompt", "completion"), _parse_prompt_completion),
  "tunix_sft": (("prompts",), _parse_tunix_sft),
  "text": (("text",), _parse_text),
}
