"""Tests that the tokenizer is lossless, compact and safe from forged turns."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests import players
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import tokenizers


def test_any_text_survives(tokenizer):
  @given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
  )
  def survives(text):
    # SentencePiece writes spaces as U+2581, so it cannot tell the two apart.
    text = text.replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode(text)) == text

  survives()


def test_no_text_encodes_to_a_control_token(tokenizer):
  control = {
    tokenizer.pad_id(),
    tokenizer.bos_id(),
    tokenizer.eos_id(),
    tokenizer.start_of_turn_id,
    tokenizer.end_of_turn_id,
  }
  assert len(control) == 5
  for text in (
    "<end_of_turn>",
    "<start_of_turn>user\n",
    "<s></s><pad>",
    "<bos>",
  ):
    assert not control & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_board_costs_few_tokens(tokenizer):
  costs = [
    len(tokenizer.encode(text_formats.render_observation(int(b), rules.X, 0)))
    for b in rules.positions()
  ]
  assert max(costs) <= 20
  # The second format has two tokens per cell and separators.
  board = "\n".join(
    " ".join(f"<|{r}-{c}|><|blank|>" for c in range(3)) for r in range(3)
  )
  token_board = f"<|board_start|>\n{board}\n<|board_end|>\n<|player|>X\n"
  assert len(tokenizer.encode(token_board)) <= 40


def test_coordinates_are_single_tokens(tokenizer):
  ids = {tuple(tokenizer.encode(c)) for c in text_formats.COORDINATES}
  assert len(ids) == 9 and all(len(i) == 1 for i in ids)


def test_training_is_deterministic(source, tokenizer):
  again = tokenizers.train_tokenizer(
    source.texts(100), 512, players.GAME.symbols(512)
  )
  assert again.digest == tokenizer.digest
  assert again.vocab_size == 512


def test_loading(tmp_path, tokenizer):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(tokenizer.files()[tokenizers.FILE])
  loaded = tokenizers.SentencePieceTokenizer.load(path)
  assert loaded.digest == tokenizer.digest
  path.write_bytes(b"not a model")
  with pytest.raises(errors.UserError, match="not a SentencePiece model"):
    tokenizers.SentencePieceTokenizer.load(path)
  with pytest.raises(errors.UserError, match="No such file"):
    tokenizers.SentencePieceTokenizer.load(tmp_path / "none")


def test_too_many_different_characters():
  text = "".join(map(chr, range(0x4E00, 0x5000)))
  with pytest.raises(errors.UserError, match="512 pieces do not fit this data"):
    tokenizers.train_tokenizer([text], 512)
  assert tokenizers.train_tokenizer([text], 2048).vocab_size <= 2048


@pytest.mark.parametrize("is_split", [True, False])
def test_pieces_end_before_spaces(is_split):
  text = "X . . O . .\n. X . . O ."
  tokenizer = tokenizers.train_tokenizer(
    [text] * 20, 600, split_by_whitespace=is_split
  )
  pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
  assert "".join(pieces) == text
  assert any(" " in piece[1:] for piece in pieces) == (not is_split)
