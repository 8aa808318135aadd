"""Tokenizers and chat templates of Hugging Face directories.

transformers reads the files; what they say is taken apart once, so that
conversations are put together from tokens and no text can forge a turn.
"""

from collections.abc import Collection, Mapping, Sequence
import functools
import hashlib
import json
import logging
import pathlib
import re
from typing import Any

import tokenizers

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers as tokenizers_lib

# Where a model directory keeps such a tokenizer's files.
FOLDER = "tokenizer"
_FILES = (
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "generation_config.json",
  "config.json",
)
# One of these is what it knows its tokens from.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = "chat_template.jinja"
_SETTINGS = "chat_settings.json"
# How SentencePiece writes a space.
_SPACE = "\u2581"
# Contents that no template has in it, to find where it puts them.
_SYSTEM, _USER, _ANSWER, _NEXT, _THOUGHT = (
  f"\ue000{n}\ue001" for n in range(5)
)


class HuggingFaceTokenizer:
  """A tokenizer that transformers loads, byte-level BPE or with byte fallback.

  Attributes:
    template: its chat template, taken apart.
    end_ids: the tokens that end a turn: the template's, and those that the
      generation config and the tokenizer name besides.
    vocab_size: rows of the model's embedding; there may be fewer tokens.
    digest: SHA-256 of its files.
    note: in what conversations differ from the template's, if they do.
  """

  def __init__(
    self,
    contents: Mapping[str, bytes],
    tokenizer: Any,
    vocab_size: int,
    source: str,
    *,
    enable_thinking: bool,
  ):
    """Takes a tokenizer apart; `load` reads one.

    Args:
      contents: its files, by name.
      tokenizer: transformers' own.
      vocab_size: rows of the model's embedding.
      source: whose it is, for messages.
      enable_thinking: what a template that has such a switch is told.

    Raises:
      errors.UserError: if it does not fit the model, or its chat template
        cannot be used.
    """
    self._contents = dict(contents)
    self._tokenizer: tokenizers.Tokenizer = tokenizer.backend_tokenizer
    vocab = self._tokenizer.get_vocab(with_added_tokens=True)
    self._num_tokens = max(vocab.values()) + 1
    if self._num_tokens > vocab_size:
      raise errors.UserError(
        f"{source}: its tokenizer has {self._num_tokens} tokens, its model"
        f" {vocab_size} (vocab_size in config.json); the files are of different"
        " models"
      )
    self.vocab_size = vocab_size
    self._bos_id: int | None = tokenizer.bos_token_id
    self.template, self.note = _take_apart(tokenizer, source, enable_thinking)
    ends = [self.template.end_of_turn_id, *_generation_ends(contents, source)]
    ends += [tokenizer.eos_token_id]
    known = [i for i in ends if i is not None and i < self._num_tokens]
    self.end_ids = tuple(dict.fromkeys(known))
    self._eos_id: int = self.end_ids[-1]
    pad: int | None = tokenizer.pad_token_id
    self._pad_id = self._eos_id if pad is None else pad
    template = self.template
    parts = (*template.begin, *template.answer, *template.follow)
    for more in template.system or ():
      parts += more
    control = {part for part in parts if isinstance(part, int)}
    control |= {*self.end_ids, self._pad_id}
    control |= {self._bos_id, tokenizer.unk_token_id} - {None}
    self._control_ids: frozenset[int] = frozenset(control)
    names = (self._tokenizer.id_to_token(i) for i in sorted(control))
    self._control = re.compile("|".join(re.escape(name) for name in names))
    # Much of what is encoded recurs: headers, system prompts.
    self._ids = functools.lru_cache(maxsize=1024)(self._encode)
    digest = hashlib.sha256()
    for name in sorted(self._contents):
      found = hashlib.sha256(self._contents[name]).hexdigest()
      digest.update(f"{name} {found}\n".encode())
    self.digest = digest.hexdigest()

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, HuggingFaceTokenizer)
      and self.digest == other.digest
      and self.vocab_size == other.vocab_size
    )

  def __hash__(self) -> int:
    return hash(self.digest)

  @classmethod
  def load(
    cls,
    directory: pathlib.Path,
    vocab_size: int,
    *,
    chat_template: pathlib.Path | None = None,
    enable_thinking: bool = True,
  ) -> "HuggingFaceTokenizer":
    """Reads the tokenizer of a model's directory, or one that was saved.

    Args:
      directory: the directory.
      vocab_size: rows of the model's embedding.
      chat_template: a Jinja file to use in place of the directory's template.
      enable_thinking: what a template that has such a switch is told.

    Raises:
      errors.UserError: if there is none, or it cannot be used.
    """
    found = [n for n in _FILES if (directory / n).is_file()]
    if not has_tokenizer(directory):
      raise errors.UserError(
        f"{directory}: has no tokenizer: neither tokenizer.json nor"
        " tokenizer.model"
      )
    contents = {name: _read(directory / name) for name in found}
    settings = directory / _SETTINGS
    if settings.is_file():
      enable_thinking = json.loads(_read(settings))["enable_thinking"] is True
    text = json.dumps({"enable_thinking": enable_thinking}) + "\n"
    contents[_SETTINGS] = text.encode()
    tokenizer = _from_pretrained(directory)
    if chat_template is not None:
      tokenizer.chat_template = files.read_text(chat_template, "chat template")
      contents[_TEMPLATE] = tokenizer.chat_template.encode()
    if not isinstance(tokenizer.chat_template, str):
      raise errors.UserError(
        f"{directory}: has no chat template; take the instruction-tuned model,"
        " or name a Jinja file in model.chat_template"
      )
    return cls(
      contents,
      tokenizer,
      vocab_size,
      str(directory),
      enable_thinking=enable_thinking,
    )

  def files(self) -> dict[str, bytes]:
    """Returns the files that it was loaded from."""
    return {f"{FOLDER}/{name}": text for name, text in self._contents.items()}

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text, without control tokens."""
    return [*self._ids(text)]

  def _encode(self, text: str) -> tuple[int, ...]:
    if self._control.search(text):
      return tuple(self._encode_forged(text))
    return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

  def _encode_forged(self, text: str) -> list[int]:
    """Encodes text that spells control tokens, as text."""
    ids, end = [], 0
    for match in self._control.finditer(text):
      ids += [*self.encode(text[end : match.start()])]
      ids += self._literal.encode(match[0], add_special_tokens=False).ids
      end = match.end()
    return [*ids, *self.encode(text[end:])]

  @functools.cached_property
  def _literal(self) -> tokenizers.Tokenizer:
    """The tokenizer, for which no text is a special token."""
    literal = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
    literal.encode_special_tokens = True
    return literal

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; control tokens vanish."""
    kept = [int(i) for i in ids if int(i) not in self._control_ids]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def token_bytes(self) -> list[bytes | None]:
    """Returns what each token stands for in text; None for control tokens."""
    known = token_bytes(self._tokenizer, self._control_ids)
    return known + [None] * (self.vocab_size - len(known))

  def bos_id(self) -> int | None:
    """Returns the id that begins a text, None where there is none."""
    return self._bos_id

  def eos_id(self) -> int:
    """Returns the id that ends plain text."""
    return self._eos_id

  def pad_id(self) -> int:
    """Returns the id that fills up batches."""
    return self._pad_id


def has_tokenizer(directory: pathlib.Path) -> bool:
  """Returns whether a directory has a tokenizer's files."""
  return any((directory / name).is_file() for name in _VOCABULARIES)


def load_saved(
  directory: pathlib.Path, vocab_size: int
) -> tokenizers_lib.Tokenizer:
  """Reads the tokenizer of a model directory, of either kind.

  Args:
    directory: where a tokenizer's `files` were written.
    vocab_size: rows of the model's embedding.

  Raises:
    errors.UserError: if there is none, or it cannot be used.
  """
  if (directory / FOLDER).is_dir():
    return HuggingFaceTokenizer.load(directory / FOLDER, vocab_size)
  path = directory / tokenizers_lib.FILE
  return tokenizers_lib.SentencePieceTokenizer.load(path)


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror}") from None


def _tokenizer_class(directory: pathlib.Path) -> Any:
  path = directory / "tokenizer_config.json"
  if not path.is_file():
    return None
  return files.read_json(path, "tokenizer config").get("tokenizer_class")


def _from_pretrained(directory: pathlib.Path) -> Any:
  # What it says of PyTorch's absence, and of models, is not meant for users.
  logging.disable(logging.WARNING)
  try:
    import transformers

    # For Qwen 2.5, `AutoTokenizer` takes any tokenizer for Qwen's own.
    is_plain = _tokenizer_class(directory) == "PreTrainedTokenizerFast"
    loader: Any = (
      transformers.PreTrainedTokenizerFast
      if is_plain
      else transformers.AutoTokenizer
    )
    tokenizer = loader.from_pretrained(
      str(directory), local_files_only=True, trust_remote_code=False
    )
  except errors.UserError:
    raise
  except Exception as error:
    # transformers reports what is wrong with files in many types.
    reason = str(error).strip().splitlines()[0][:200]
    raise errors.UserError(
      f"{directory}: cannot read its tokenizer: {reason}"
    ) from None
  finally:
    logging.disable(logging.NOTSET)
  if not isinstance(
    getattr(tokenizer, "backend_tokenizer", None), tokenizers.Tokenizer
  ):
    raise errors.UserError(
      f"{directory}: its tokenizer, {type(tokenizer).__name__}, has no fast"
      " version; save it with transformers as tokenizer.json"
    )
  return tokenizer


def _generation_ends(contents: Mapping[str, bytes], source: str) -> list[int]:
  """Returns the ends of a turn that the generation config names."""
  if "generation_config.json" not in contents:
    return []
  try:
    found = json.loads(contents["generation_config.json"]).get("eos_token_id")
  except (ValueError, AttributeError) as error:
    raise errors.UserError(
      f"{source}/generation_config.json: not a JSON object ({error})"
    ) from None
  ids = found if isinstance(found, list) else [found]
  return [i for i in ids if isinstance(i, int)]


def _take_apart(
  tokenizer: Any, source: str, enable_thinking: bool
) -> tuple[chat.Template, str]:
  """Finds out what a chat template puts around messages.

  Returns:
    The template, and in what conversations will differ from it, if they will.
  """

  def render(*messages: chat.Message) -> str:
    return tokenizer.apply_chat_template(
      [*messages],
      tokenize=False,
      add_generation_prompt=True,
      enable_thinking=enable_thinking,
    )

  user, answer = chat.message("user", _USER), chat.message("assistant", _ANSWER)
  try:
    alone = render(user)
    trims = f" {_USER}" not in render(chat.message("user", f" {_USER}"))
    whole = render(user, answer, chat.message("user", _NEXT))
  except Exception as error:
    # A template is a program: it fails as it likes.
    raise errors.UserError(
      f"{source}: its chat template fails on a plain conversation:"
      f" {str(error).splitlines()[0][:200]}"
    ) from None
  begin, _, header = alone.partition(_USER)
  shown = re.split(f"{_USER}|{_ANSWER}|{_NEXT}", whole)
  if len(shown) != 4 or _USER not in alone or shown[3] != header:
    raise errors.UserError(
      f"{source}: its chat template does not show every message once, in order"
    )
  special = {
    token.content: number
    for number, token in tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    if token.special
  }

  def parts(text: str) -> chat.Parts:
    longest_first = sorted(special, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
    pieces = re.split(f"({pattern})", text)
    return tuple(special.get(piece, piece) for piece in pieces if piece)

  ending = parts(shown[2])
  if not ending or not isinstance(ending[0], int):
    raise errors.UserError(
      f"{source}: its chat template ends an answer with {shown[2][:40]!r}, which"
      " does not begin with a special token"
    )
  template = chat.Template(
    begin=parts(begin),
    system=_system_parts(render, parts, user, header),
    answer=parts(header),
    end_of_turn_id=ending[0],
    follow=ending[1:],
    trims=trims,
  )
  thought = chat.message("assistant", f"<think>{_THOUGHT}</think>{_ANSWER}")
  forgets = _THOUGHT not in render(user, thought, chat.message("user", _NEXT))
  notes = []
  if shown[1] != header:
    notes.append("shows past answers under another header")
  if forgets:
    notes.append("leaves thoughts out of past answers")
  note = ""
  if notes:
    note = (
      f"the chat template {' and '.join(notes)}; here a conversation goes on from"
      " what was read and said"
    )
  return template, note


def _system_parts(
  render: Any, parts: Any, user: chat.Message, header: str
) -> tuple[chat.Parts, chat.Parts] | None:
  """Returns what stands around a system message; None where it has no role."""
  try:
    text = render(chat.message("system", _SYSTEM), user)
  except Exception:
    # Gemma 1 and 2 refuse it.
    return None
  shown = re.split(f"{_SYSTEM}|{_USER}", text)
  if len(shown) != 3 or _SYSTEM not in text or shown[2] != header:
    return None
  return parts(shown[0]), parts(shown[1])


def token_bytes(
  tokenizer: tokenizers.Tokenizer, control_ids: Collection[int]
) -> list[bytes | None]:
  """Returns what each token of a `tokenizer.json` stands for in text.

  Args:
    tokenizer: byte-level BPE, as Qwen's, or BPE with byte fallback, as Gemma's.
    control_ids: tokens that are no text: padding, the marks of turns.

  Returns:
    A list by token id; None for control tokens and for ids without a token.

  Raises:
    errors.UserError: if the tokenizer is of another kind.
  """
  settings = json.loads(tokenizer.to_str())
  kinds = _component_types(settings["decoder"])
  if "ByteLevel" in kinds:
    codes = {char: byte for byte, char in _byte_level_alphabet().items()}
    added = {x.content for x in tokenizer.get_added_tokens_decoder().values()}

    def spell(piece: str) -> bytes:
      if piece in added:
        return piece.encode()
      return bytes(codes[char] for char in piece)

  elif "ByteFallback" in kinds:
    spell = _spell_with_byte_fallback
  else:
    raise errors.UserError(
      "the tokenizer is neither byte-level BPE nor BPE with byte fallback: its"
      f" tokenizer.json decodes by {', '.join(kinds) or 'nothing'}"
    )
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  result: list[bytes | None] = [None] * (max(vocab.values()) + 1)
  for piece, token in vocab.items():
    if token not in control_ids:
      result[token] = spell(piece)
  return result


def _component_types(component: dict[str, Any] | None) -> list[str]:
  """Lists the types of a component of `tokenizer.json` and of its parts."""
  if component is None:
    return []
  parts = component.get("decoders", [])
  return [
    component["type"],
    *(t for part in parts for t in _component_types(part)),
  ]


def _spell_with_byte_fallback(piece: str) -> bytes:
  if re.fullmatch("<0x[0-9A-F]{2}>", piece):
    return bytes([int(piece[1:-1], 16)])
  return piece.replace(_SPACE, " ").encode()


def _byte_level_alphabet() -> dict[int, str]:
  """Returns the character that stands for each byte in byte-level BPE.

  Printable characters of Latin-1 stand for themselves, the other bytes in
  ascending order for the characters from 256 on (Radford et al., 2019).
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {
    **{byte: chr(byte) for byte in printable},
    **{byte: chr(256 + i) for i, byte in enumerate(others)},
  }
