"""Loads and trains SentencePiece tokenizers.

A tokenizer has Tunix's interface (`encode`, `decode`, `bos_id`, `eos_id`,
`pad_id`) and a chat template. `encode` never returns control tokens: it encodes
`<end_of_turn>` in a text as plain text, so data cannot end a turn.
"""

from collections.abc import Iterable, Sequence
import hashlib
import io
import pathlib
from typing import Protocol

import sentencepiece

from tunix_ttt import errors
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

# Space in SentencePiece's pieces.
SPACE = "\u2581"

FILE = "tokenizer.model"
START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"

# Text between the turns of a conversation.
_TURN_SYMBOLS = ("user\n", "model\n", "\n\n", "\n")
# Leaves room for learned pieces besides symbols, control and byte pieces.
MIN_VOCAB_SIZE = 512


def gemma_turn(role: str, content: str) -> str:
  """Returns the text of a turn in Gemma's template, of a `user` or `model`."""
  return f"{START_OF_TURN}{role}\n{content}{END_OF_TURN}\n"


class Tokenizer(chat.ChatTokenizer, Protocol):
  """A model's tokenizer.

  Attributes:
    vocab_size: Number of tokens in the vocabulary.
    digest: SHA-256 of the tokenizer in hexadecimal.
  """

  vocab_size: int
  digest: str

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without control tokens."""
    ...

  def token_bytes(self) -> list[bytes | None]:
    """Returns the bytes of each token; None for control tokens."""
    ...

  def files(self) -> dict[str, bytes]:
    """Returns the contents of the tokenizer files by path."""
    ...


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a file; raises a UserError if it cannot be read."""
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror}") from None


class IdentifiedTokenizer:
  """A tokenizer that equals those of its class, size and digest."""

  vocab_size: int
  digest: str
  _ids_of_text: tuple[int | None, int, int]

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, IdentifiedTokenizer)
      and type(self) is type(other)
      and (self.digest, self.vocab_size) == (other.digest, other.vocab_size)
    )

  def __hash__(self) -> int:
    return hash(self.digest)

  def bos_id(self) -> int | None:
    """Returns the beginning-of-text id; None if there is none."""
    return self._ids_of_text[0]

  def eos_id(self) -> int:
    """Returns the end-of-text id."""
    return self._ids_of_text[1]

  def pad_id(self) -> int:
    """Returns the padding id."""
    return self._ids_of_text[2]


class SentencePieceTokenizer(IdentifiedTokenizer):
  """A SentencePiece model with Gemma's control tokens.

  Attributes:
    start_of_turn_id: Id that starts a turn.
    end_of_turn_id: Id that ends a turn.
    end_ids: Ids that end generation: `end_of_turn_id`.
    template: Gemma's chat template.
    vocab_size: Number of pieces.
    digest: SHA-256 of the serialized model in hexadecimal.
  """

  def __init__(self, model: bytes, source: str = "the tokenizer"):
    """Loads a serialized SentencePiece model.

    Raises:
      errors.UserError: if the model is invalid or lacks a control token.
    """
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model)
    except (RuntimeError, ValueError) as error:
      raise errors.UserError(
        f"{source}: not a SentencePiece model ({error})"
      ) from None
    self.vocab_size: int = self._processor.GetPieceSize()
    self.digest = hashlib.sha256(model).hexdigest()
    self.start_of_turn_id = self._control_id(START_OF_TURN, source)
    self.end_of_turn_id = self._control_id(END_OF_TURN, source)
    self.end_ids = (self.end_of_turn_id,)
    bos_id: int = self._processor.bos_id()
    self._ids_of_text = (
      bos_id,
      self._processor.eos_id(),
      self._processor.pad_id(),
    )
    self.template = chat.gemma_template(
      bos_id, self.start_of_turn_id, self.end_of_turn_id
    )

  def _control_id(self, piece: str, source: str) -> int:
    token = self._processor.PieceToId(piece)
    if token == self._processor.unk_id():
      raise errors.UserError(f"{source}: has no token {piece}")
    return token

  @classmethod
  def load(cls, path: pathlib.Path) -> "SentencePieceTokenizer":
    """Reads a `tokenizer.model` file."""
    return cls(read_bytes(path), str(path))

  def files(self) -> dict[str, bytes]:
    """Returns the file of the SentencePiece model."""
    return {FILE: self._model}

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text, without control tokens."""
    return self._processor.EncodeAsIds(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without control tokens."""
    return self._processor.DecodeIds([int(i) for i in ids])

  def token_bytes(self) -> list[bytes | None]:
    """Returns the bytes of each token; None for control tokens."""
    processor = self._processor

    def spell(token: int) -> bytes | None:
      if processor.IsControl(token) or processor.IsUnknown(token):
        return None
      piece = processor.IdToPiece(token)
      if processor.IsByte(token):
        return bytes([int(piece[1:-1], 16)])
      return piece.replace(SPACE, " ").encode()

    return [spell(token) for token in range(self.vocab_size)]


@progress.stage("training the tokenizer")
def train_tokenizer(
  texts: Iterable[str],
  vocab_size: int,
  symbols: Iterable[str] = (),
  *,
  split_by_whitespace: bool = False,
) -> SentencePieceTokenizer:
  """Trains a lossless BPE tokenizer with byte fallback.

  Args:
    texts: Training texts in a fixed order.
    vocab_size: Maximum number of pieces, at least `MIN_VOCAB_SIZE`.
    symbols: Texts that are one piece each and are never merged.
    split_by_whitespace: Whether a piece ends before each space.

  Raises:
    errors.UserError: if there is no text or `vocab_size` is too small.
  """
  texts = [text for text in texts if text]
  if not texts:
    raise errors.UserError(
      "there is no text to train the tokenizer on; add rows"
    )
  pieces = dict.fromkeys((*symbols, *_TURN_SYMBOLS))
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.Train(
      sentence_iterator=iter(texts),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      # Characters outside this share of the text become bytes.
      character_coverage=0.9995,
      byte_fallback=True,
      split_by_whitespace=split_by_whitespace,
      split_by_number=False,
      split_by_unicode_script=False,
      max_sentencepiece_length=64,
      max_sentence_length=1 << 20,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      control_symbols=[START_OF_TURN, END_OF_TURN],
      # SentencePiece matches symbols after replacing spaces.
      user_defined_symbols=[s.replace(" ", SPACE) for s in pieces],
      pad_id=0,
      eos_id=1,
      bos_id=2,
      unk_id=3,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    reason = str(error).rpartition("] ")[2]
    raise errors.UserError(
      f"tokenizer.vocab_size: {vocab_size} pieces do not fit this data: {reason}"
    ) from None
  return SentencePieceTokenizer(model.getvalue())
