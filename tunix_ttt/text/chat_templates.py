"""Derives a `chat.Template` from a tokenizer's Jinja chat template.

The template is rendered once with placeholders as messages. Conversations are
then built from tokens, so no message can insert a control token.
"""

from collections.abc import Callable
import re
from typing import Any

from tunix_ttt import errors
from tunix_ttt.text import chat

# Placeholder messages that no template contains.
_SYSTEM, _USER, _ANSWER, _NEXT, _THOUGHT = (
  f"\ue000{n}\ue001" for n in range(5)
)


def derive(
  tokenizer: Any, source: str, enable_thinking: bool
) -> tuple[chat.Template, str]:
  """Derives the template of a transformers tokenizer.

  `source` names the tokenizer in error messages.

  Returns:
    The template, and a note on how conversations differ from the Jinja
    template, empty if they do not.

  Raises:
    errors.UserError: if the Jinja template cannot be used.
  """

  def render(*messages: chat.Message) -> str:
    return tokenizer.apply_chat_template(
      [*messages],
      tokenize=False,
      add_generation_prompt=True,
      enable_thinking=enable_thinking,
    )

  user, answer = chat.message("user", _USER), chat.message("assistant", _ANSWER)
  next_user = chat.message("user", _NEXT)
  try:
    prompt = render(user)
    is_trimmed = f" {_USER}" not in render(chat.message("user", f" {_USER}"))
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

  def parts(text: str) -> chat.Parts:
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
  template = chat.Template(
    begin=parts(begin),
    system=_system_parts(render, parts, user, header),
    answer=parts(header),
    end_of_turn_id=ending[0],
    follow=ending[1:],
    is_trimmed=is_trimmed,
  )
  thought = chat.message("assistant", f"<think>{_THOUGHT}</think>{_ANSWER}")
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
  parts: Callable[[str], chat.Parts],
  user: chat.Message,
  header: str,
) -> tuple[chat.Parts, chat.Parts] | None:
  """Returns the parts around a system message; None if it has no role."""
  try:
    text = render(chat.message("system", _SYSTEM), user)
  except Exception:
    # Templates of Gemma 1 and 2 reject system messages.
    return None
  texts = re.split(f"{_SYSTEM}|{_USER}", text)
  if len(texts) != 3 or _SYSTEM not in text or texts[2] != header:
    return None
  return parts(texts[0]), parts(texts[1])
