"""Test helpers: checks of games and a toy tokenizer."""

from collections.abc import Sequence

from tunix_ttt.games import conformance
from tunix_ttt.text import chat

check_game = conformance.check_game


class CharacterTokenizer:
  """A toy tokenizer with an id per character and control ids 0 to 5."""

  start_of_turn_id, end_of_turn_id = 4, 5
  end_ids = (end_of_turn_id,)
  template = chat.gemma_template(2, start_of_turn_id, end_of_turn_id)
  vocab_size = 6 + 128

  def encode(self, text: str) -> list[int]:
    """Returns the ASCII code of each character plus 6."""
    return [6 + code for code in text.encode("ascii")]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without control ids."""
    return bytes(int(i) - 6 for i in ids if i > 5).decode("ascii")

  def token_bytes(self) -> list[bytes | None]:
    """Returns the bytes of each id; None for control ids."""
    return [None] * 6 + [bytes([code]) for code in range(128)]

  def pad_id(self) -> int:
    """Returns the padding id."""
    return 0

  def eos_id(self) -> int:
    """Returns the end-of-text id."""
    return 1

  def bos_id(self) -> int:
    """Returns the beginning-of-text id."""
    return 2
