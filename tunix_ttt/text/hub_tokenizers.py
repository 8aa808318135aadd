"""Loads Hugging Face tokenizers and their chat templates."""

from collections.abc import Collection, Mapping, Sequence
import functools
import hashlib
import json
import logging
import pathlib
import re
from typing import Any

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers as tokenizers_lib

# `chat.gemma_template` in Jinja: a system message precedes the first user
# message, and whitespace is kept.
_TEMPLATE = (
  "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
  "{%- set first = messages[0]['content'] + '\\n\\n' -%}"
  "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}"
  "{%- set turns = messages -%}{%- endif -%}{%- for message in turns -%}"
  "{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}"
  "{{- '<start_of_turn>' + role + '\\n' + (first if loop.first else '')"
  " + message['content'] + '<end_of_turn>\\n' -}}{%- endfor -%}"
  "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}"
  "{%- endif -%}"
)


def to_hugging_face(
  tokenizer: tokenizers_lib.SentencePieceTokenizer,
) -> dict[str, bytes]:
  """Returns the contents of the tokenizer files by name.

  The tokenizer is BPE with byte fallback and without normalization, as
  `tokenizers.train_tokenizer` returns it.
  """
  contents = tokenizer.files()
  converted: Any = _convert(contents[tokenizers_lib.FILE])
  settings = {
    "bos_token": converted.id_to_token(tokenizer.bos_id()),
    "eos_token": converted.id_to_token(tokenizer.eos_id()),
    "pad_token": converted.id_to_token(tokenizer.pad_id()),
    "unk_token": converted.model.unk_token,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
  }
  return contents | {
    "tokenizer.json": converted.to_str(pretty=True).encode(),
    "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
    "chat_template.jinja": _TEMPLATE.encode(),
  }


def _convert(serialized: bytes) -> tokenizers.Tokenizer:
  module: Any = sentencepiece_model_pb2
  model = module.ModelProto()
  model.ParseFromString(serialized)
  kinds = module.ModelProto.SentencePiece.Type
  pieces: list[Any] = list(model.pieces)
  ids = {piece.piece: number for number, piece in enumerate(pieces)}
  scores = {x.piece: x.score for x in pieces if x.type == kinds.NORMAL}
  converted = tokenizers.Tokenizer(
    models.BPE(
      ids,
      _merges(scores, ids),
      byte_fallback=True,
      unk_token=model.trainer_spec.unk_piece,
    )
  )
  converted.normalizer = normalizers.Replace(" ", tokenizers_lib.SPACE)
  spaces = decoders.Replace(tokenizers_lib.SPACE, " ")
  converted.decoder = decoders.Sequence(
    [spaces, decoders.ByteFallback(), decoders.Fuse()]
  )
  special = (kinds.CONTROL, kinds.UNKNOWN)
  converted.add_special_tokens([x.piece for x in pieces if x.type in special])
  # User symbols are matched in normalized text, before merging.
  converted.add_tokens(
    [
      tokenizers.AddedToken(x.piece, special=False, normalized=True)
      for x in pieces
      if x.type == kinds.USER_DEFINED
    ]
  )
  return converted


def _merges(
  scores: dict[str, float], ids: dict[str, int]
) -> list[tuple[str, str]]:
  """Lists all merges of two pieces into one, best piece first.

  SentencePiece merges any two neighbors that form a piece.
  """
  merges = []
  for piece in sorted(scores, key=lambda piece: -scores[piece]):
    halves = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
    pairs = [(a, b) for a, b in halves if a in scores and b in scores]
    merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
  return merges


# Folder of the tokenizer files in a model directory.
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
# Files that define the tokens; a tokenizer has at least one.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_JINJA_FILE = "chat_template.jinja"
_SETTINGS = "chat_settings.json"


class HuggingFaceTokenizer(tokenizers_lib.IdentifiedTokenizer):
  """A byte-level or byte-fallback BPE tokenizer loaded by transformers.

  Attributes:
    template: Chat template.
    end_ids: Ids that end a turn, according to the chat template, the generation
      config and the tokenizer.
    vocab_size: Rows of the model's embedding, at least the number of tokens.
    digest: SHA-256 of the tokenizer files.
    note: Differences between conversations and the Jinja chat template, if any.
  """

  def __init__(
    self,
    contents: Mapping[str, bytes],
    tokenizer: Any,
    vocab_size: int,
    source: str,
    enable_thinking: bool,
  ):
    """Wraps a tokenizer of transformers; use `load` to read one."""
    self._contents = dict(contents)
    self._tokenizer: tokenizers.Tokenizer = tokenizer.backend_tokenizer
    vocab = self._tokenizer.get_vocab(with_added_tokens=True)
    self._num_tokens = max(vocab.values()) + 1
    if self._num_tokens > vocab_size:
      raise errors.UserError(
        f"{source}: its tokenizer has {self._num_tokens} tokens, its model"
        f" {vocab_size} (vocab_size in config.json); use the files of one model"
      )
    self.vocab_size = vocab_size
    self.template, self.note = chat.derive(tokenizer, source, enable_thinking)
    template = self.template
    ends = [template.end_of_turn_id, *_generation_ends(contents, source)]
    ends += [tokenizer.eos_token_id]
    ends = [i for i in ends if i is not None and i < self._num_tokens]
    self.end_ids = tuple(dict.fromkeys(ends))
    bos, eos = tokenizer.bos_token_id, self.end_ids[-1]
    pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    self._ids_of_text = bos, eos, pad
    parts = (*template.begin, *template.answer, *template.follow)
    parts += sum(template.system or (), ())
    control = {part for part in parts if isinstance(part, int)}
    control |= {*self.end_ids, pad}
    control |= {bos, tokenizer.unk_token_id} - {None}
    self._control_ids: frozenset[int] = frozenset(control)
    names = (self._tokenizer.id_to_token(i) for i in sorted(control))
    self._control = re.compile("|".join(re.escape(name) for name in names))
    # Headers and system prompts recur.
    self._ids = functools.lru_cache(maxsize=1024)(self._encode)
    digest = hashlib.sha256()
    for name in sorted(self._contents):
      checksum = hashlib.sha256(self._contents[name]).hexdigest()
      digest.update(f"{name} {checksum}\n".encode())
    self.digest = digest.hexdigest()

  @classmethod
  def load(
    cls,
    directory: pathlib.Path,
    vocab_size: int,
    *,
    chat_template: pathlib.Path | None = None,
    enable_thinking: bool = True,
  ) -> "HuggingFaceTokenizer":
    """Reads the tokenizer of a model directory.

    `vocab_size` is the number of rows of the model's embedding. The Jinja file
    `chat_template` replaces the directory's template. `enable_thinking` is the
    template's switch for thinking; a saved tokenizer keeps its value.
    """
    if not has_tokenizer(directory):
      raise errors.UserError(
        f"{directory}: has no tokenizer: neither tokenizer.json nor"
        " tokenizer.model"
      )
    contents = {
      name: tokenizers_lib.read_bytes(directory / name)
      for name in _FILES
      if (directory / name).is_file()
    }
    settings = directory / _SETTINGS
    if settings.is_file():
      saved = json.loads(tokenizers_lib.read_bytes(settings))
      enable_thinking = saved["enable_thinking"] is True
    text = json.dumps({"enable_thinking": enable_thinking}) + "\n"
    contents[_SETTINGS] = text.encode()
    tokenizer = _from_pretrained(directory)
    if chat_template is not None:
      tokenizer.chat_template = files.read_text(chat_template, "chat template")
      contents[_JINJA_FILE] = tokenizer.chat_template.encode()
    if not isinstance(tokenizer.chat_template, str):
      raise errors.UserError(
        f"{directory}: has no chat template; take the instruction-tuned model,"
        " or name a Jinja file in model.chat_template"
      )
    return cls(contents, tokenizer, vocab_size, str(directory), enable_thinking)

  def files(self) -> dict[str, bytes]:
    """Returns the contents of the tokenizer files by path."""
    return {f"{FOLDER}/{name}": text for name, text in self._contents.items()}

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text, without control tokens."""
    return [*self._ids(text)]

  def _encode(self, text: str) -> tuple[int, ...]:
    """Encodes text; the names of control tokens become plain text."""
    ids, end = [], 0
    for match in self._control.finditer(text):
      ids += self._ids(text[end : match.start()])
      ids += self._literal.encode(match[0], add_special_tokens=False).ids
      end = match.end()
    if ids:
      return (*ids, *self._ids(text[end:]))
    return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

  @functools.cached_property
  def _literal(self) -> tokenizers.Tokenizer:
    """A copy of the tokenizer that encodes special tokens as plain text."""
    literal = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
    literal.encode_special_tokens = True
    return literal

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without control tokens."""
    text_ids = [int(i) for i in ids if int(i) not in self._control_ids]
    return self._tokenizer.decode(text_ids, skip_special_tokens=False)

  def token_bytes(self) -> list[bytes | None]:
    """Returns the bytes of each token; None for control tokens."""
    spellings = token_bytes(self._tokenizer, self._control_ids)
    return spellings + [None] * (self.vocab_size - len(spellings))


def has_tokenizer(directory: pathlib.Path) -> bool:
  """Returns whether a directory has tokenizer files."""
  return any((directory / name).is_file() for name in _VOCABULARIES)


def load_saved(
  directory: pathlib.Path, vocab_size: int
) -> tokenizers_lib.Tokenizer:
  """Reads a saved tokenizer, SentencePiece or Hugging Face.

  `vocab_size` is the number of rows of the model's embedding.
  """
  if (directory / FOLDER).is_dir():
    return HuggingFaceTokenizer.load(directory / FOLDER, vocab_size)
  path = directory / tokenizers_lib.FILE
  return tokenizers_lib.SentencePieceTokenizer.load(path)


def _from_pretrained(directory: pathlib.Path) -> Any:
  # Silence transformers' warnings about PyTorch and about models.
  logging.disable(logging.WARNING)
  try:
    import transformers

    path, settings = directory / "tokenizer_config.json", {}
    if path.is_file():
      settings = files.read_json(path, "tokenizer config")
    loader: Any = transformers.AutoTokenizer
    # For Qwen 2.5, `AutoTokenizer` would load Qwen's own tokenizer class.
    if settings.get("tokenizer_class") == "PreTrainedTokenizerFast":
      loader = transformers.PreTrainedTokenizerFast
    tokenizer = loader.from_pretrained(
      str(directory), local_files_only=True, trust_remote_code=False
    )
  except errors.UserError:
    raise
  except Exception as error:
    # transformers raises many types of exceptions for bad files.
    reason = str(error).strip().splitlines()[0][:200]
    raise errors.UserError(
      f"{directory}: cannot read its tokenizer: {reason}"
    ) from None
  finally:
    logging.disable(logging.NOTSET)
  backend = getattr(tokenizer, "backend_tokenizer", None)
  if not isinstance(backend, tokenizers.Tokenizer):
    raise errors.UserError(
      f"{directory}: its tokenizer, {type(tokenizer).__name__}, has no fast"
      " version; save it with transformers as tokenizer.json"
    )
  return tokenizer


def _generation_ends(contents: Mapping[str, bytes], source: str) -> list[int]:
  """Returns the end-of-turn ids of the generation config."""
  if "generation_config.json" not in contents:
    return []
  try:
    ids = json.loads(contents["generation_config.json"]).get("eos_token_id")
  except (ValueError, AttributeError) as error:
    raise errors.UserError(
      f"{source}/generation_config.json: not a JSON object ({error})"
    ) from None
  ids = ids if isinstance(ids, list) else [ids]
  return [i for i in ids if isinstance(i, int)]


def token_bytes(
  tokenizer: tokenizers.Tokenizer, control_ids: Collection[int]
) -> list[bytes | None]:
  """Returns the bytes by token id; None for control tokens and unused ids.

  Byte-level BPE (such as Qwen's) and BPE with byte fallback (such as Gemma's) are
  supported.

  Raises:
    errors.UserError: if the tokenizer is of another kind.
  """
  settings = json.loads(tokenizer.to_str())
  # Types of the decoder and of its parts.
  decoder = json.dumps(settings["decoder"])
  kinds = re.findall(r'"type": "(\w+)"', decoder)
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


def _spell_with_byte_fallback(piece: str) -> bytes:
  if re.fullmatch("<0x[0-9A-F]{2}>", piece):
    return bytes([int(piece[1:-1], 16)])
  return piece.replace(tokenizers_lib.SPACE, " ").encode()


def _byte_level_alphabet() -> dict[int, str]:
  """Returns the character for each byte in byte-level BPE.

  Printable Latin-1 characters represent their own byte. The characters from 256
  on represent the other bytes in ascending order (Radford et al., 2019).
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {
    **{byte: chr(byte) for byte in printable},
    **{byte: chr(256 + i) for i, byte in enumerate(others)},
  }
