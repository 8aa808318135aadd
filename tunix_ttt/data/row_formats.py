"""Parses and writes the row formats of training data.

Conversations go through the chat template; plain text is encoded without one.
`text.chat` decides which tokens are supervised.
"""

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple, Protocol, TypeVar

from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers

Row = dict[str, Any]
RowT = TypeVar("RowT", covariant=True)

_GEMMA_ROLES = {"user": "user", "assistant": "model"}
_GEMMA_TURN = re.compile(
  f"{tokenizers.START_OF_TURN}(user|model)\n(.*?)"
  f"(?:{tokenizers.END_OF_TURN}\\s*|$)",
  re.DOTALL,
)


class Conversation(NamedTuple):
  """A chat; assistant messages from index `supervised_from` on are trained."""

  messages: list[chat.Message]
  supervised_from: int = 0

  def texts(self) -> Iterator[str]:
    """Yields the text of each turn, to train a tokenizer on."""
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
  """Text without a chat template; only the completion is trained."""

  prompt: str
  completion: str

  def texts(self) -> Iterator[str]:
    """Yields the text of the sample, to train a tokenizer on."""
    yield self.prompt
    yield self.completion

  def encode(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens and the loss mask."""
    return chat.encode_text(self.prompt, self.completion, tokenizer)


# Samples with one answer, which SFT trains on.
Trained = Conversation | PlainText


class TokenPair(NamedTuple):
  """A tokenized preference pair; each sequence is the prompt and an answer."""

  chosen: chat.Tokens
  rejected: chat.Tokens


class Encodable(Protocol[RowT]):
  """A sample that tokenizes to `chat.Tokens` or a `TokenPair`."""

  def encode(self, tokenizer: chat.ChatTokenizer) -> RowT:
    """Returns the tokens."""
    ...


class Preference(NamedTuple):
  """A prompt with a chosen and a rejected answer; text or lists of messages."""

  prompt: chat.Text
  chosen: chat.Text
  rejected: chat.Text

  def answers(self) -> tuple[Trained, Trained]:
    """Returns the prompt with the chosen and with the rejected answer."""
    return (
      _answered(self.prompt, self.chosen),
      _answered(self.prompt, self.rejected),
    )

  def encode(self, tokenizer: chat.ChatTokenizer) -> TokenPair:
    """Returns the tokens of both answers."""
    return TokenPair(*(each.encode(tokenizer) for each in self.answers()))

  def texts(self) -> Iterator[str]:
    """Yields the text of both answers, to train a tokenizer on."""
    for answer in self.answers():
      yield from answer.texts()


class Prompt(NamedTuple):
  """A prompt: text, or messages that end with a user message."""

  prompt: chat.Text

  def _unanswered(self) -> Trained:
    if isinstance(self.prompt, str):
      return PlainText(self.prompt, "")
    return Conversation(self.prompt)

  def texts(self) -> Iterator[str]:
    """Yields the text of the prompt, to train a tokenizer on."""
    return self._unanswered().texts()

  def encode(self, tokenizer: chat.ChatTokenizer) -> chat.Tokens:
    """Returns the tokens and the loss mask."""
    return self._unanswered().encode(tokenizer)


Sample = Trained | Preference | Prompt


def questions(sample: Sample) -> list[str]:
  """Returns the text prompt or the user messages of a sample."""
  is_chat = isinstance(sample, Conversation)
  turns = sample.messages if is_chat else sample.prompt
  if isinstance(turns, str):
    return [turns]
  return [turn["content"] for turn in turns if turn["role"] == "user"]


def num_tokens(row: chat.Tokens | TokenPair) -> int:
  """Returns the number of tokens; the longer sequence of a pair counts."""
  if isinstance(row, chat.Tokens):
    return len(row.ids)
  return max(map(num_tokens, row))


class Format(NamedTuple):
  """A row format: the fields that identify it, its parser and its writer."""

  fields: tuple[str, ...]
  parse: Callable[[Row], list[Sample]]
  write: Callable[[Sample], list[Row]]


def name_of(row: Row) -> str:
  """Returns the name of a row's format; raises a ValueError if none matches."""
  for name, row_format in FORMATS.items():
    if all(field in row for field in row_format.fields):
      return name
  expected = "; ".join(" + ".join(each.fields) for each in FORMATS.values())
  raise ValueError(
    f"found the fields {', '.join(row) or 'none'}, expected one of: {expected}"
  )


def parse_row(row: Row, data_format: str = "auto") -> list[Sample]:
  """Parses a row; an episode has one sample per step, other formats have one.

  The format is a key of `FORMATS`, or `auto` to detect it. Fields outside the
  format are ignored.

  Raises:
    ValueError: If a field is missing or invalid.
  """
  row_format = FORMATS[name_of(row) if data_format == "auto" else data_format]
  for field in row_format.fields:
    if field not in row:
      raise ValueError(
        f"the field {field!r} is missing; found {', '.join(row) or 'none'}"
      )
  return row_format.parse(row)


def parse_trained(row: Row, data_format: str = "auto") -> list[Trained]:
  """Parses a row for SFT; raises a ValueError for pairs and bare prompts."""
  samples: list[Trained] = []
  for sample in parse_row(row, data_format):
    if isinstance(sample, Preference):
      raise ValueError("this is a preference pair; use it for DPO")
    if isinstance(sample, Prompt):
      raise ValueError("this is a prompt without an answer to train on")
    samples.append(sample)
  return samples


def parse_preference(row: Row, data_format: str = "auto") -> list[Preference]:
  """Parses a preference pair; raises a ValueError for another format."""
  samples = parse_row(row, data_format)
  pairs = [sample for sample in samples if isinstance(sample, Preference)]
  if len(pairs) < len(samples):
    raise ValueError(
      "this is not a preference pair; expected prompt + chosen + rejected"
    )
  return pairs


def _conversation(
  messages: list[chat.Message], supervised_from: int = 0
) -> Conversation:
  if messages[-1]["role"] != "assistant":
    raise ValueError(
      "the last message is a user message, so there is no answer to train on"
    )
  return Conversation(messages, supervised_from)


def _answered(prompt: chat.Text, answer: chat.Text) -> Trained:
  if isinstance(prompt, str) and isinstance(answer, str):
    return PlainText(prompt, answer)
  if isinstance(prompt, list) and isinstance(answer, list):
    messages = chat.check_messages([*prompt, *answer])
    return _conversation(messages, len(prompt))
  raise ValueError("must both be text or both lists of messages")


def _as_conversation(sample: Sample) -> Conversation:
  if isinstance(sample, Conversation):
    return sample
  reasons = {
    PlainText: "plain text has no turns",
    Preference: "a preference pair has two answers",
    Prompt: "a prompt has no answer",
  }
  raise ValueError(reasons[type(sample)])


def _supervised_messages(sample: Sample) -> list[chat.Message]:
  """Returns the messages of a conversation if all its answers are supervised."""
  messages, supervised_from = _as_conversation(sample)
  if any(turn["role"] == "assistant" for turn in messages[:supervised_from]):
    raise ValueError(
      "some answers are not trained on; use the format prompt_completion"
    )
  return messages


def _parse_preference(row: Row) -> list[Sample]:
  pair = Preference(row["prompt"], row["chosen"], row["rejected"])
  if pair.chosen == pair.rejected:
    raise ValueError("'chosen' and 'rejected' are the same")
  for name in ("chosen", "rejected"):
    try:
      _answered(pair.prompt, row[name])
    except ValueError as error:
      raise ValueError(f"'prompt' and {name!r}: {error}") from None
  return [pair]


def _write_preference(sample: Sample) -> list[Row]:
  if not isinstance(sample, Preference):
    raise ValueError("a preference pair needs two answers")
  return [sample._asdict()]


def _parse_prompt_completion(row: Row) -> list[Sample]:
  try:
    return [_answered(row["prompt"], row["completion"])]
  except ValueError as error:
    raise ValueError(f"'prompt' and 'completion': {error}") from None


def _write_prompt_completion(sample: Sample) -> list[Row]:
  if isinstance(sample, PlainText):
    return [sample._asdict()]
  messages, supervised_from = _as_conversation(sample)
  return [
    {"prompt": messages[:i], "completion": [turn]}
    for i, turn in enumerate(messages)
    if turn["role"] == "assistant" and i >= supervised_from
  ]


def _parse_tunix_sft(row: Row) -> list[Sample]:
  text = row["prompts"]
  if not isinstance(text, str):
    raise ValueError("'prompts' must be text")
  turns = list(_GEMMA_TURN.finditer(text))
  if not turns or "".join(t[0] for t in turns) != text.removeprefix("<bos>"):
    raise ValueError(
      "'prompts' must be Gemma turns: <start_of_turn>user, a line break, text,"
      " <end_of_turn>"
    )
  roles = {gemma: role for role, gemma in _GEMMA_ROLES.items()}
  messages = [chat.message(roles[turn[1]], turn[2]) for turn in turns]
  # An empty model turn at the end is a generation prompt, not an answer.
  if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
    messages.pop()
  if messages and messages[-1]["role"] == "user":
    answer = row.get("final_answer")
    if not isinstance(answer, str):
      raise ValueError(
        "'prompts' has no model turn at its end and 'final_answer' is not text"
      )
    messages.append(chat.message("assistant", answer))
  return [_conversation(chat.check_messages(messages))]


def _write_tunix_sft(sample: Sample) -> list[Row]:
  text, system = "", ""
  for turn in _supervised_messages(sample):
    content = turn["content"]
    if tokenizers.START_OF_TURN in content or tokenizers.END_OF_TURN in content:
      raise ValueError("a message has Gemma's control tokens in its text")
    if turn["role"] == "system":
      system = f"{content}\n\n"
      continue
    role = _GEMMA_ROLES[turn["role"]]
    text += tokenizers.gemma_turn(role, system + content)
    system = ""
  return [{"prompts": text}]


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


def _write_episode(sample: Sample) -> list[Row]:
  del sample
  raise ValueError("episodes can be read but not written")


def _parse_text(row: Row) -> list[Sample]:
  if not isinstance(row["text"], str) or not row["text"]:
    raise ValueError("'text' must be text and not empty")
  return [PlainText("", row["text"])]


def _write_text(sample: Sample) -> list[Row]:
  if not isinstance(sample, PlainText) or sample.prompt:
    raise ValueError("the format text needs plain text without a prompt")
  return [{"text": sample.completion}]


def _parse_prompt(row: Row) -> list[Sample]:
  prompt = row["prompt"]
  if isinstance(prompt, str):
    if not prompt:
      raise ValueError("'prompt' is empty")
  elif not isinstance(prompt, list):
    raise ValueError("'prompt' must be text or a list of messages")
  elif chat.check_messages(prompt)[-1]["role"] != "user":
    raise ValueError("the last message of 'prompt' is not a user message")
  return [Prompt(prompt)]


def _write_prompt(sample: Sample) -> list[Row]:
  if not isinstance(sample, Prompt):
    raise ValueError("the format prompt has no field for an answer")
  return [sample._asdict()]


# `name_of` returns the first format whose fields a row has.
FORMATS: dict[str, Format] = {
  "messages": Format(
    ("messages",),
    lambda row: [_conversation(chat.check_messages(row["messages"]))],
    lambda sample: [{"messages": _supervised_messages(sample)}],
  ),
  "preference": Format(
    ("prompt", "chosen", "rejected"), _parse_preference, _write_preference
  ),
  "prompt_completion": Format(
    ("prompt", "completion"), _parse_prompt_completion, _write_prompt_completion
  ),
  "tunix_sft": Format(("prompts",), _parse_tunix_sft, _write_tunix_sft),
  "episodes": Format(("steps",), _parse_episode, _write_episode),
  "text": Format(("text",), _parse_text, _write_text),
  "prompt": Format(("prompt",), _parse_prompt, _write_prompt),
}
