"""Tests answer grammars against regular expressions, for any tokenization."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st
import jax
import pytest
import tokenizers as hf_tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import answers
from tunix_ttt.text import hub_tokenizers

_TOKEN_ANSWER = re.compile(
  r"\s*(?:<player_think>(?P<thought>(?:(?!</player_think>).)*)</player_think>"
  r"\s*)?<\|move\|><\|(?P<row>[0-2])-(?P<column>[0-2])\|><\|end\|>\s*",
  re.DOTALL | re.ASCII,
)


def parse_token_answer(text, *, thoughts):
  match = _TOKEN_ANSWER.fullmatch(text)
  if match is None or (match["thought"] is None) is thoughts:
    return -1
  return 3 * int(match["row"]) + int(match["column"])


def parse_grid_answer(text, *, thoughts):
  answer = text_formats.parse_answer(text, thoughts=thoughts)
  return -1 if answer is None else answer.cell


FORMATS = {
  "grid": (text_formats.GridFormat, parse_grid_answer),
  "token board": (text_formats.TokenBoardFormat, parse_token_answer),
}
FRAGMENTS = [
  *("<think>", "</think>", "<move>", "</move>", "A1", "c3", "B", "2", "d1"),
  *("<player_think>", "</player_think>", "<|move|>", "<|1-1|>", "<|2-0|>"),
  *("<|end|>", "<|3-0|>", "<", ">", "</", "</thi", "</</think>", "\n", " "),
  *("\u00a0", "\x1c", "é", "I block B2.", "\t\v\f\r"),
]
# Text that is likely to be nearly right, where the mistakes hide.
TEXT = st.one_of(
  st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join),
  st.tuples(
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(["", "<think>", "<player_think>"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    st.sampled_from(["", "</think>", "</player_think>", "</think></think>"]),
    st.sampled_from(["", "\n", "  ", "."]),
    st.sampled_from(
      ["<move>A2</move>", "<move>b3</move>", "<|move|><|0-2|><|end|>"]
    ),
    st.sampled_from(["", "\n", "x"]),
  ).map("".join),
)


@pytest.mark.parametrize("thoughts", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_the_automaton_is_the_regular_expression(name, thoughts):
  make, parse = FORMATS[name]
  automaton = make(thoughts=thoughts).grammar()

  @given(TEXT)
  def agrees(text):
    assert automaton.read(text) == parse(text, thoughts=thoughts)

  agrees()


@pytest.mark.parametrize("thoughts", [True, False])
def test_every_answer_is_read(thoughts):
  thought = "I block <B2>.</think" if thoughts else None
  automaton = text_formats.GridFormat(thoughts=thoughts).grammar()
  for cell in range(9):
    assert automaton.read(text_formats.render_answer(cell, thought)) == cell


def byte_level_tokenizer() -> hf_tokenizers.Tokenizer:
  """Trains a small byte-level BPE tokenizer, the kind that Qwen has."""
  tokenizer = hf_tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  texts = [
    text_formats.render_answer(c, "I block é and win.") for c in range(9)
  ]
  tokenizer.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=300,
      special_tokens=["<|im_end|>", "<pad>"],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  tokenizer.add_tokens(["<think>", "</think>"])
  tokenizer.add_special_tokens(["<|move|>", "<|1-1|>"])
  return tokenizer


def byte_fallback_tokenizer() -> hf_tokenizers.Tokenizer:
  """Returns a byte-fallback BPE tokenizer, the kind that Gemma has."""
  pieces = ["<pad>", "<end_of_turn>", *(f"<0x{b:02X}>" for b in range(256))]
  pieces += ["\u2581", "I", "\u2581I", *"</>thinkmove"]
  vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
  model = models.BPE(vocab, [("\u2581", "I")], byte_fallback=True)
  tokenizer = hf_tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  tokenizer.add_special_tokens(["<pad>", "<end_of_turn>"])
  return tokenizer


@pytest.fixture(scope="module", params=["sentencepiece", "qwen", "gemma"])
def spelled(request, tokenizer):
  """Returns `encode`, the bytes of all tokens and the end and padding ids."""
  if request.param == "sentencepiece":
    control = (tokenizer.end_of_turn_id, tokenizer.pad_id())
    return tokenizer.encode, tokenizer.token_bytes(), control
  make = {"qwen": byte_level_tokenizer, "gemma": byte_fallback_tokenizer}
  made = make[request.param]()
  names = {"qwen": ("<|im_end|>", "<pad>"), "gemma": ("<end_of_turn>", "<pad>")}
  control = tuple(made.token_to_id(name) for name in names[request.param])
  token_bytes = hub_tokenizers.token_bytes(made, control)
  return lambda text: made.encode(text).ids, token_bytes, control


@pytest.mark.parametrize("name", FORMATS)
def test_the_table_is_the_automaton_however_text_is_split(spelled, name):
  encode, token_bytes, (end, pad) = spelled
  automaton = FORMATS[name][0]().grammar()
  table = jax.device_get(
    answers.compile_automaton(automaton, token_bytes, [end])
  )

  def fold(tokens):
    state, rank = answers.START, 0
    for token in tokens:
      index = state, table.token_class[token]
      state, rank = int(table.next_state[index]), rank + table.offset[index]
    return state, int(table.actions[rank]) if state == answers.ENDED else -1

  @given(TEXT, st.lists(st.integers(0, 60), max_size=4))
  def agrees(text, cuts):
    # SentencePiece writes spaces as U+2581, so it cannot tell the two apart.
    text = text.replace("\u2581", " ").replace("\0", "")
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    tokens = [token for part in parts for token in encode(part)]
    assert b"".join(token_bytes[t] or b"" for t in tokens) == text.encode()
    assert fold([*tokens, pad]) == (answers.DEAD, -1)
    # Nothing but the end of the turn ends it, and nothing comes after that.
    assert fold(tokens)[1] == -1
    assert fold([*tokens, end])[1] == automaton.read(text)
    assert fold([*tokens, end, end]) == (answers.DEAD, -1)

  agrees()


def test_a_tokenizer_of_another_kind():
  made = hf_tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
  with pytest.raises(errors.UserError, match="neither byte-level BPE nor"):
    hub_tokenizers.token_bytes(made, set())
