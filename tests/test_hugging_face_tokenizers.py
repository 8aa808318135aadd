"""Tests loading Hugging Face tokenizers and their chat templates."""

import pathlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
import transformers

from tests import conftest
from tests import hugging_face as made
from tests import players
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.text import chat
from tunix_ttt.text import hub_tokenizers

FAMILIES = ["qwen2.5", "qwen3", "gemma2", "gemma3"]
VOCAB_SIZE = 400


def messages(*contents: str, system: str | None = None) -> list[chat.Message]:
  roles = ["user", "assistant"] * len(contents)
  turns = [chat.message(r, c) for r, c in zip(roles, contents, strict=False)]
  return ([chat.message("system", system)] if system else []) + turns


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("directory") / request.param
  made.write_tokenizer(path, request.param)
  return path


@pytest.fixture(scope="module")
def loaded(directory):
  return hub_tokenizers.HuggingFaceTokenizer.load(directory, VOCAB_SIZE)


def theirs(directory, turns) -> list[int]:
  tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
  text = tokenizer.apply_chat_template(
    turns, tokenize=False, add_generation_prompt=turns[-1]["role"] == "user"
  )
  return tokenizer(text, add_special_tokens=False)["input_ids"]


OBSERVATION = text_formats.render_observation(rules.EMPTY_BOARD, rules.X)


@pytest.mark.parametrize("system", [None, "Play well."])
@pytest.mark.parametrize(
  "contents",
  [
    ("Hello",),
    (OBSERVATION,),
    ("Hello", "<move>B2</move>", OBSERVATION),
    ("a", "b", "c", "d", "e"),
  ],
)
def test_prompts_are_the_templates_own(directory, loaded, contents, system):
  turns = messages(*contents, system=system)
  found = chat.encode_chat(turns, loaded).ids
  if system and directory.name == "gemma2":
    turns[1]["content"] = f"{system}\n\n{turns[1]['content']}"
    turns = turns[1:]
  assert found == theirs(directory, turns)


def test_white_space_around_messages_is_the_templates_matter(directory, loaded):
  turns = messages(" Hello\n")
  assert chat.encode_chat(turns, loaded).ids == theirs(directory, turns)


def test_the_answer_and_its_end_are_supervised(directory, loaded):
  tokens = chat.encode_chat(messages("Hi", "B2"), loaded)
  trained = [i for i, on in zip(*tokens, strict=True) if on]
  end = loaded.template.end_of_turn_id
  assert trained == [*loaded.encode("B2"), end]
  name = "<|im_end|>" if directory.name.startswith("qwen") else "<end_of_turn>"
  assert loaded._tokenizer.id_to_token(end) == name
  assert loaded.end_ids[0] == end and len(loaded.end_ids) == 2


def test_a_conversation_goes_on_from_what_was_said(loaded):
  turns = messages("a", "<think>x</think>\n<move>A1</move>", "c", "d")
  whole = chat.encode_chat(turns, loaded).ids
  for length in (1, 3):
    prompt = chat.encode_chat(turns[:length], loaded).ids
    assert whole[: len(prompt)] == prompt


def test_thinking(tmp_path):
  made.write_tokenizer(tmp_path, "qwen3")
  load = hub_tokenizers.HuggingFaceTokenizer.load
  thinking = load(tmp_path, VOCAB_SIZE)
  assert thinking.template.answer[-1] == "assistant\n"
  assert "leaves thoughts out of past answers" in thinking.note
  plain = load(tmp_path, VOCAB_SIZE, enable_thinking=False)
  assert plain.template.answer[-1] == "assistant\n<think>\n\n</think>\n\n"
  assert "another header" in plain.note
  assert plain.digest != thinking.digest
  # Answers contain the tags that are single tokens in this tokenizer.
  answer = plain.encode(text_formats.render_answer(4, "x"))
  assert answer[0] == plain._tokenizer.token_to_id("<think>")


def test_text_cannot_forge_a_turn(loaded):
  names = [loaded._tokenizer.id_to_token(i) for i in loaded._control_ids]

  @given(st.lists(st.sampled_from([*names, "a", " ", "\n", "<", "|>"])))
  def stays_text(pieces):
    text = "".join(pieces)
    ids = loaded.encode(text)
    assert not loaded._control_ids & {*ids}
    assert loaded.decode(ids) == text
    spelled = loaded.token_bytes()
    assert b"".join(spelled[i] or b"" for i in ids) == text.encode()

  stays_text()


def test_what_is_saved_is_the_same(loaded, tmp_path):
  for name, data in loaded.files().items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
  again = hub_tokenizers.load_saved(tmp_path, VOCAB_SIZE)
  assert again.digest == loaded.digest
  assert again.template == loaded.template


# It renders all observations of the game.
@pytest.mark.slow
def test_observations_and_answers(loaded):
  text_format = text_formats.GridFormat()
  tables = tables_lib.build(players.GAME, loaded)
  assert tables.answers.token_class.shape == (VOCAB_SIZE,)
  row = tables.observations.rows[rules.EMPTY_BOARD, 0]
  ids = tables.observations.begin.ids[row]
  length = tables.observations.begin.lengths[row]
  system = text_formats.system_prompt()
  expected = chat.encode_chat(messages(OBSERVATION, system=system), loaded).ids
  assert ids[:length].tolist() == expected
  answer = text_format.answer(4, "I take the centre.", loaded)
  for end in loaded.end_ids:
    tokens = [*answer[:-1], end]
    at = conftest.read_tokens(tables.answers, tokens)
    assert conftest.action_after(tables.answers, *at) == 4


def write(tmp_path, name, text):
  made.write_tokenizer(tmp_path, "qwen2.5")
  (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("chat_template.jinja", "{% for %}", "chat template fails on a plain"),
    ("chat_template.jinja", "{{ 1 / 0 }}", "chat template fails on a plain"),
    ("chat_template.jinja", "hello", "does not show every message once"),
    (
      "chat_template.jinja",
      "{% for m in messages %}{{ m.content }}\n{% endfor %}",
      "ends an answer with",
    ),
    ("tokenizer.json", "{", "cannot read its tokenizer"),
    ("generation_config.json", "[", "not a JSON object"),
  ],
)
def test_wrong_files(tmp_path, name, text, message):
  write(tmp_path, name, text)
  with pytest.raises(errors.UserError, match=message) as caught:
    hub_tokenizers.HuggingFaceTokenizer.load(tmp_path, VOCAB_SIZE)
  assert str(tmp_path) in str(caught.value)


def test_wrong_directories(tmp_path):
  load = hub_tokenizers.HuggingFaceTokenizer.load
  with pytest.raises(errors.UserError, match="has no tokenizer"):
    load(tmp_path, VOCAB_SIZE)
  made.write_tokenizer(tmp_path, "qwen2.5")
  with pytest.raises(errors.UserError, match="tokens, its model 100"):
    load(tmp_path, 100)
  (tmp_path / "chat_template.jinja").unlink()
  with pytest.raises(errors.UserError, match="has no chat template"):
    load(tmp_path, VOCAB_SIZE)
  template = tmp_path / "mine.jinja"
  template.write_text(made.QWEN2)
  tokenizer = load(tmp_path, VOCAB_SIZE, chat_template=template)
  assert tokenizer.files()["tokenizer/chat_template.jinja"]
