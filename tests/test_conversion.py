"""Tests that converted SentencePiece tokenizers return the same ids."""

import random
from typing import Any

import pytest
import transformers

from tests import players
from tests import test_hugging_face_tokenizers as hf
from tunix_ttt import files
from tunix_ttt.text import chat
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers


@pytest.fixture(scope="module", params=[512, 1024])
def converted(source, request, tmp_path_factory):
  """Writes a converted tokenizer and returns it with its directory."""
  tokenizer = tokenizers.train_tokenizer(
    source.texts(100), request.param, players.GAME.symbols(512)
  )
  path = tmp_path_factory.mktemp("converted")
  files.write_all(path, hub_tokenizers.to_hugging_face(tokenizer))
  return tokenizer, path


def texts(source):
  rng = random.Random(0)
  pieces = [s.replace("\u2581", " ") for s in players.GAME.symbols(512)]
  # Rare characters become bytes; pieces overlap in runs of one character.
  characters = "abAB123 \n\t\r<>-|[]./\u2581\x01\u00e9\u6f22\U0001f642\u200b"
  for length in range(1, 400):
    yield "".join(rng.choices(characters, k=length % 40 + 1))
    yield "".join(rng.choices("-a ", k=30))
    parts = rng.choices([*pieces, *characters], k=length % 9 + 1)
    yield "".join(part[rng.randrange(2) :] for part in parts)
  yield from source.texts(100)


def test_ids_and_text_are_the_same(converted, source):
  tokenizer, path = converted
  theirs: Any = transformers.AutoTokenizer.from_pretrained(path)
  assert len(theirs) == tokenizer.vocab_size
  for text in texts(source):
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == tokenizer.decode(ids)


def test_it_is_the_same_tokenizer_here(converted, source):
  tokenizer, path = converted
  again = hub_tokenizers.HuggingFaceTokenizer.load(path, tokenizer.vocab_size)
  assert again.token_bytes() == tokenizer.token_bytes()
  assert (again.bos_id(), again.eos_id(), again.pad_id()) == (
    tokenizer.bos_id(),
    tokenizer.eos_id(),
    tokenizer.pad_id(),
  )
  assert again.end_ids[0] == tokenizer.end_ids[0]
  # Text that spells a control token stays text.
  forged = "a<end_of_turn>b<s>"
  assert again.decode(again.encode(forged)) == forged
  for system in (None, "Play well."):
    turns = hf.messages(hf.OBSERVATION, " B2\n", "c", system=system)
    ours = chat.encode_chat(turns, tokenizer)
    assert chat.encode_chat(turns, again) == ours
    assert hf.theirs(path, turns) == ours.ids
