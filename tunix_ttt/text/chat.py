"""Tokenizes conversations and marks the supervised tokens.

Only the content of assistant turns and their end token are supervised. Each
assistant turn is tokenized separately from its header, so a completion has the
same ids in training and in sampling.
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Any, NamedTuple, Protocol

from tunix_ttt import errors

Message = dict[str, str]
# A prompt or an answer: plain text, or messages for the template.
Text = str | list[Message]
ROLES = ("system", "user", "assistant")
# Text and ids of control tokens.
Parts = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """A chat template: the parts around the contents of messages.

  Attributes:
    begin: Parts before the first user message if there is no system message.
    system: Parts before the system message, and between it and the first user
      message. None if the template has no system role: the system message and
      a blank line then precede the first user message.
    answer: Parts between a user message and the model's answer.
    end_of_turn_id: Id of the token that ends an answer.
    follow: Parts between an answer's end token and the next user message.
    is_trimmed: Whether whitespace around messages is removed.
  """

  begin: Parts
  system: tuple[Parts, Parts] | None = None
  answer: Parts
  end_of_turn_id: int
  follow: Parts
  is_trimmed: bool = False


def gemma_template(bos_id: int, start_id: int, end_id: int) -> Template:
  """Returns Gemma's template."""
  return Template(
    begin=(bos_id, start_id, "user\n"),
    answer=(end_id, "\n", start_id, "model\n"),
    end_of_turn_id=end_id,
    follow=("\n", start_id, "user\n"),
  )


class ChatTokenizer(Protocol):
  """Interface of the tokenizer of a conversation."""

  template: Template

  @property
  def end_ids(self) -> Sequence[int]:
    """Ids that end a turn, starting with the template's."""
    ...

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text."""
    ...

  def bos_id(self) -> int | None:
    """Returns the beginning-of-text id; None if there is none."""
    ...

  def eos_id(self) -> int:
    """Returns the end-of-text id."""
    ...

  def pad_id(self) -> int:
    """Returns the padding id."""
    ...


class Tokens(NamedTuple):
  """A tokenized sequence.

  Attributes:
    ids: Token ids.
    loss_mask: Mask of the supervised tokens.
  """

  ids: list[int]
  loss_mask: list[bool]


def message(role: str, content: str) -> Message:
  """Returns a message."""
  return {"role": role, "content": content}


def check_messages(messages: object) -> list[Message]:
  """Returns `messages` if a template can render them.

  An optional system message comes first; user and assistant messages alternate,
  starting with the user.

  Raises:
    ValueError: with the index of the invalid message.
  """
  if not isinstance(messages, list) or not messages:
    raise ValueError("expected a non-empty list of messages")
  for i, item in enumerate(messages):
    fields = item if isinstance(item, dict) else {}
    has_text = isinstance(fields.get("content"), str)
    if fields.get("role") not in ROLES or not has_text:
      raise ValueError(
        f"message {i} is not an object with a role ({', '.join(ROLES)}) and"
        " text as its content"
      )
  first = int(messages[0]["role"] == "system")
  for i, item in enumerate(messages[first:]):
    expected = ROLES[1 + i % 2]
    if item["role"] != expected:
      raise ValueError(
        f"message {i + first} has the role {item['role']!r}, expected"
        f" {expected!r}"
      )
  if len(messages) == first:
    raise ValueError("no user message; add one")
  return messages


def encode_chat(
  messages: Sequence[Message],
  tokenizer: ChatTokenizer,
  *,
  supervised_from: int = 0,
) -> Tokens:
  """Tokenizes a conversation with the tokenizer's template.

  The messages are as `check_messages` accepts; the assistant header follows a
  last message of the user. Supervision starts at the message `supervised_from`.
  """
  template = tokenizer.template
  ids: list[int] = []
  loss_mask: list[bool] = []

  def add(parts: Parts, supervised: bool = False) -> None:
    tokens = encode_parts(parts, tokenizer)
    ids.extend(tokens)
    loss_mask.extend([supervised] * len(tokens))

  before = template.begin
  for i, turn in enumerate(messages):
    content = turn["content"]
    if template.is_trimmed:
      content = content.strip()
    if turn["role"] == "system":
      before = system_parts(content, template)
    elif turn["role"] == "user":
      add((*before, content, *template.answer))
      before = template.follow
    else:
      add((content, template.end_of_turn_id), i >= supervised_from)
  # Omit the template's text after the last turn.
  return Tokens(ids, loss_mask)


def system_parts(content: str, template: Template) -> Parts:
  """Returns the parts before the first user message, with a system message."""
  if template.is_trimmed:
    content = content.strip()
  if template.system is None:
    return (*template.begin, f"{content}\n\n")
  return (*template.system[0], content, *template.system[1])


def encode_follow(content: str, tokenizer: ChatTokenizer) -> list[int]:
  """Tokenizes a user message between two answers, without their tokens."""
  template = tokenizer.template
  parts = (*template.follow, content, *template.answer)
  return encode_parts(parts, tokenizer)


def encode_parts(parts: Parts, tokenizer: ChatTokenizer) -> list[int]:
  """Tokenizes adjacent text parts as one text."""
  ids, text = [], ""
  for part in parts:
    if isinstance(part, str):
      text += part
    else:
      ids += [*(tokenizer.encode(text) if text else ()), part]
      text = ""
  return ids + (tokenizer.encode(text) if text else [])


def begin_text(tokenizer: ChatTokenizer) -> list[int]:
  """Returns the ids before plain text: the beginning-of-text id, if any."""
  bos = tokenizer.bos_id()
  return [] if bos is None else [bos]


def encode_text(
  prompt: str, completion: str, tokenizer: ChatTokenizer
) -> Tokens:
  """Tokenizes plain text without a template.

  The prompt and the completion are tokenized separately. The completion and
  the end-of-text id are supervised.
  """
  head = [*begin_text(tokenizer), *tokenizer.encode(prompt)]
  tail = [*tokenizer.encode(completion), tokenizer.eos_id()]
  return Tokens(head + tail, [False] * len(head) + [True] * len(tail))


# Placeholder messages that no template contains.
_SYSTEM, _USER, _ANSWER, _NEXT, _THOUGHT = (
  f"\ue000{n}\ue001" for n in range(5)
)


def derive(
  tokenizer: Any, source: str, enable_thinking: bool
) -> tuple[Template, str]:
  """Derives the template of the transformers tokenizer `source`.

  Returns:
    The template, and a note on how conversations differ from the Jinja
    template, empty if they do not.

  Raises:
    errors.UserError: if the Jinja template cannot be used.
  """

  def render(*messages: Message) -> str:
    return tokenizer.apply_chat_template(
      [*messages],
      tokenize=False,
      add_generation_prompt=True,
      enable_thinking=enable_thinking,
    )

  user, answer = message("user", _USER), message("assistant", _ANSWER)
  next_user = message("user", _NEXT)
  try:
    prompt = render(user)
    is_trimmed = f" {_USER}" not in render(message("user", f" {_USER}"))
    conversation = render(user, answer, next_user)
  except Exception as error:
    # A template is a program and may raise any exception.
    raise errors.UserError(
      f"{source}: its chat template fails on a plain conversation:"
      f" {str(error).splitlines()[0][:200]}"
    ) from None
  begin, _, header = prompt.partition(_USER)
  texts = re.split(f"{_USER}|{_ANSWER}|{_NEXT}", conversation)
  if len(texts) != 4 or _USER not in prompt or texts[3] != header:
    raise errors.UserError(
      f"{source}: its chat template does not show every message once, in order"
    )
  added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
  special = {token.content: n for n, token in added.items() if token.special}

  def parts(text: str) -> Parts:
    longest_first = sorted(special, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
    pieces = re.split(f"({pattern})", text)
    return tuple(special.get(piece, piece) for piece in pieces if piece)

  ending = parts(texts[2])
  if not ending or not isinstance(ending[0], int):
    raise errors.UserError(
      f"{source}: its chat template ends an answer with {texts[2][:40]!r}, which"
      " does not begin with a special token"
    )
  template = Template(
    begin=parts(begin),
    system=_system_parts(render, parts, user, header),
    answer=parts(header),
    end_of_turn_id=ending[0],
    follow=ending[1:],
    is_trimmed=is_trimmed,
  )
  thought = message("assistant", f"<think>{_THOUGHT}</think>{_ANSWER}")
  notes = []
  if texts[1] != header:
    notes.append("shows past answers under another header")
  if _THOUGHT not in render(user, thought, next_user):
    notes.append("leaves thoughts out of past answers")
  if not notes:
    return template, ""
  return template, (
    f"the chat template {' and '.join(notes)}; conversations here keep every"
    " token that was read and sampled"
  )


def _system_parts(
  render: Callable[..., str],
  parts: Callable[[str], Parts],
  user: Message,
  header: str,
) -> tuple[Parts, Parts] | None:
  """Returns the parts around a system message; None if it has no role."""
  try:
    text = render(message("system", _SYSTEM), user)
  except Exception:
    # Templates of Gemma 1 and 2 reject system messages.
    return None
  texts = re.split(f"{_SYSTEM}|{_USER}", text)
  if len(texts) != 3 or _SYSTEM not in text or texts[2] != header:
    return None
  return parts(texts[0]), parts(texts[1])
