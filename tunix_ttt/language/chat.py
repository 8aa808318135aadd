"""From messages to token ids, and which of those tokens are supervised.

This is the one place that decides it: a model is trained on the content of
assistant turns and on the token that ends them, and on nothing else. Each
assistant turn is tokenised apart from the header before it, because that is
where generation starts from, so a completion in training has the same ids as
the same completion in sampling.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


class ChatTokenizer(Protocol):
  """What the template needs of a tokenizer."""

  start_of_turn_id: int
  end_of_turn_id: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text."""
    ...

  def bos_id(self) -> int:
    """Returns the id that begins a sequence."""
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


def chat_texts(messages: Sequence[Message]) -> Iterator[str]:
  """Yields the text of each turn as `encode_chat` tokenises it.

  Gemma's template has no system role: a system message goes in front of the
  first user message, a blank line between them.
  """
  system = ""
  for turn in messages:
    if turn["role"] == "system":
      system = f"{turn['content']}\n\n"
    elif turn["role"] == "user":
      yield f"user\n{system}{turn['content']}"
      system = ""
    else:
      yield turn["content"]


def encode_chat(
  messages: Sequence[Message],
  tokenizer: ChatTokenizer,
  *,
  supervised_from: int = 0,
) -> Tokens:
  """Tokenises a conversation with Gemma's template.

  Args:
    messages: a conversation that `check_messages` accepts. Where the last
      message is the user's, the header of the model's turn follows it, ready
      for generation.
    tokenizer: supplies control ids and the ids of plain text.
    supervised_from: assistant messages before this index are context only.

  Returns:
    The ids and which of them are supervised.
  """
  newline = tokenizer.encode("\n")
  start, end = [tokenizer.start_of_turn_id], [tokenizer.end_of_turn_id]
  ids, loss_mask = [tokenizer.bos_id()], [False]

  def add(tokens: list[int], supervised: bool = False) -> None:
    ids.extend(tokens)
    loss_mask.extend([supervised] * len(tokens))

  first = int(messages[0]["role"] == "system")
  for i, text in enumerate(chat_texts(messages), start=first):
    if messages[i]["role"] == "user":
      add(start + tokenizer.encode(text) + end + newline)
      add(start + tokenizer.encode("model\n"))
    else:
      add(tokenizer.encode(text) + end, i >= supervised_from)
      # Nothing after the end of the last turn is read or trained.
      if i + 1 < len(messages):
        add(newline)
  return Tokens(ids, loss_mask)


def encode_text(
  prompt: str, completion: str, tokenizer: ChatTokenizer
) -> Tokens:
  """Tokenises plain text without a template; the completion is supervised.

  The two are tokenised apart, and a token that ends the text is supervised
  too. With an empty prompt this is ordinary language modelling.
  """
  head = [tokenizer.bos_id(), *tokenizer.encode(prompt)]
  tail = [*tokenizer.encode(completion), tokenizer.eos_id()]
  return Tokens(head + tail, [False] * len(head) + [True] * len(tail))
