"""From messages to token ids, and which of those tokens are supervised.

This is the one place that decides it: a model is trained on the content of
assistant turns and on the token that ends them, and on nothing else. Each
assistant turn is tokenised apart from the header before it, because that is
where generation starts from, so a completion in training has the same ids as
the same completion in sampling.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple, Protocol

Message = dict[str, str]
# A prompt or an answer: text as it stands, or messages for the template.
Text = str | list[Message]
ROLES = ("system", "user", "assistant")
# Pieces of text and ids of control tokens.
Parts = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """A chat template: what stands around the contents of messages.

  Attributes:
    begin: before the first user message, where there is no system message.
    system: before the system message and between it and the first user message.
      None where the template has no such role: the system message then goes in
      front of the first user message, a blank line between them.
    answer: between a user message and where the model speaks.
    end_of_turn_id: the token that ends what the model says.
    follow: between that token and the next user message.
    trims: whether messages lose white space around them.
  """

  begin: Parts
  system: tuple[Parts, Parts] | None = None
  answer: Parts
  end_of_turn_id: int
  follow: Parts
  trims: bool = False


def gemma_template(bos_id: int, start_id: int, end_id: int) -> Template:
  """Returns Gemma's template, given the ids of its control tokens."""
  return Template(
    begin=(bos_id, start_id, "user\n"),
    answer=(end_id, "\n", start_id, "model\n"),
    end_of_turn_id=end_id,
    follow=("\n", start_id, "user\n"),
  )


class ChatTokenizer(Protocol):
  """The tokenizer interface that conversations need."""

  @property
  def template(self) -> Template:
    """The chat template."""
    ...

  @property
  def end_ids(self) -> Sequence[int]:
    """The tokens that end a turn, the template's first."""
    ...

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text."""
    ...

  def bos_id(self) -> int | None:
    """Returns the id that begins a text, if there is one."""
    ...

  def eos_id(self) -> int:
    """Returns the id that ends plain text."""
    ...

  def pad_id(self) -> int:
    """Returns the id that fills up batches."""
    ...


class Tokens(NamedTuple):
  """A tokenised sequence.

  Attributes:
    ids: the token ids.
    loss_mask: True at the tokens that the model is trained to produce.
  """

  ids: list[int]
  loss_mask: list[bool]


def message(role: str, content: str) -> Message:
  """Returns one message of a conversation."""
  return {"role": role, "content": content}


def check_messages(messages: object) -> list[Message]:
  """Returns `messages` if it is a conversation the template can render.

  That is: an optional system message first, then user and assistant messages
  in turn, starting with the user.

  Raises:
    ValueError: naming the message at fault.
  """
  if not isinstance(messages, list) or not messages:
    raise ValueError("expected a non-empty list of messages")
  for i, item in enumerate(messages):
    if (
      not isinstance(item, dict)
      or item.get("role") not in ROLES
      or not isinstance(item.get("content"), str)
    ):
      raise ValueError(
        f"message {i} is not an object with a role ({', '.join(ROLES)}) and a"
        " content of text"
      )
  first = int(messages[0]["role"] == "system")
  for i, item in enumerate(messages[first:]):
    due = ROLES[1 + i % 2]
    if item["role"] != due:
      raise ValueError(
        f"message {i + first} has the role {item['role']!r} where {due!r} is"
        " due"
      )
  if len(messages) == first:
    raise ValueError("there is no user message")
  return messages


def encode_chat(
  messages: Sequence[Message],
  tokenizer: ChatTokenizer,
  *,
  supervised_from: int = 0,
) -> Tokens:
  """Tokenises a conversation with the tokenizer's template.

  Args:
    messages: a conversation that `check_messages` accepts. Where the last
      message is the user's, the header of the model's turn follows it, ready
      for generation.
    tokenizer: supplies the template and the ids of plain text.
    supervised_from: assistant messages before this index are context only.

  Returns:
    The ids and which of them are supervised.
  """
  template = tokenizer.template
  ids: list[int] = []
  loss_mask: list[bool] = []

  def add(parts: Parts, supervised: bool = False) -> None:
    tokens = _encode_parts(parts, tokenizer)
    ids.extend(tokens)
    loss_mask.extend([supervised] * len(tokens))

  before = template.begin
  for i, turn in enumerate(messages):
    content = turn["content"].strip() if template.trims else turn["content"]
    if turn["role"] == "system":
      if template.system is None:
        before = (*before, f"{content}\n\n")
      else:
        before = (*template.system[0], content, *template.system[1])
    elif turn["role"] == "user":
      add((*before, content, *template.answer))
      before = template.follow
    else:
      add((content, template.end_of_turn_id), i >= supervised_from)
  # Nothing after the end of the last turn is read or trained.
  return Tokens(ids, loss_mask)


def encode_follow(content: str, tokenizer: ChatTokenizer) -> list[int]:
  """Tokenises a user message, from the end of the model's turn to its next."""
  template = tokenizer.template
  parts = (*template.follow, content, *template.answer)
  return _encode_parts(parts, tokenizer)


def _encode_parts(parts: Parts, tokenizer: ChatTokenizer) -> list[int]:
  """Tokenises text between control tokens as a whole."""
  ids, text = [], ""
  for part in parts:
    if isinstance(part, str):
      text += part
    else:
      ids += [*(tokenizer.encode(text) if text else ()), part]
      text = ""
  return ids + (tokenizer.encode(text) if text else [])


def begin_text(tokenizer: ChatTokenizer) -> list[int]:
  """Returns what begins a text without a template: the bos token, if any."""
  bos = tokenizer.bos_id()
  return [] if bos is None else [bos]


def encode_text(
  prompt: str, completion: str, tokenizer: ChatTokenizer
) -> Tokens:
  """Tokenises plain text without a template; the completion is supervised.

  The two are tokenised apart, and a token that ends the text is supervised
  too. With an empty prompt this is ordinary language modelling.
  """
  head = [*begin_text(tokenizer), *tokenizer.encode(prompt)]
  tail = [*tokenizer.encode(completion), tokenizer.eos_id()]
  return Tokens(head + tail, [False] * len(head) + [True] * len(tail))
