"""Conversion between row formats: the same supervision, or an error."""

import itertools

import pytest

from tunix_ttt import testing
from tunix_ttt.data import row_formats

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CHAT = row_formats.Conversation([SYSTEM, USER, ANSWER, USER, ANSWER])
LAST = row_formats.Conversation([SYSTEM, USER, ANSWER, USER, ANSWER], 4)
ONE = row_formats.Conversation([USER, ANSWER])
TEXT = row_formats.PlainText("", "abc")
COMPLETION = row_formats.PlainText("ab", "c")
PAIR = row_formats.Preference("a", "b", "c")
PROMPT = row_formats.Prompt("a")
SAMPLES = {
  "chat": CHAT,
  "last": LAST,
  "one": ONE,
  "text": TEXT,
  "completion": COMPLETION,
  "pair": PAIR,
  "prompt": PROMPT,
}
POSSIBLE = {
  "messages": {"chat", "one"},
  "prompt_completion": {"chat", "last", "one", "text", "completion"},
  "preference": {"pair"},
  "text": {"text"},
  "tunix_sft": {"chat", "one"},
  "prompt": {"prompt"},
  "episodes": set(),
}


@pytest.mark.parametrize(
  "name, data_format", itertools.product(SAMPLES, row_formats.FORMATS)
)
def test_what_can_be_written(name, data_format):
  sample = SAMPLES[name]
  if name not in POSSIBLE[data_format]:
    with pytest.raises(ValueError):
      list(row_formats.FORMATS[data_format].write(sample))
    return
  written = list(row_formats.FORMATS[data_format].write(sample))
  (back,) = row_formats.parse_row(written[-1], data_format)
  if not isinstance(sample, row_formats.Conversation):
    assert back == sample
    return
  # Gemma has no system role, so that the tokens tell whether it is the same.
  tokenizer = testing.CharacterTokenizer()
  assert isinstance(back, row_formats.Conversation)
  tokens, whole = back.encode(tokenizer), sample.encode(tokenizer)
  assert tokens.ids == whole.ids
  if data_format != "prompt_completion":
    assert tokens.loss_mask == whole.loss_mask


def test_every_answer_of_a_conversation_becomes_a_row():
  first, second = row_formats.FORMATS["prompt_completion"].write(CHAT)
  assert first == {"prompt": [SYSTEM, USER], "completion": [ANSWER]}
  assert second["prompt"] == [SYSTEM, USER, ANSWER, USER]
  assert list(row_formats.FORMATS["prompt_completion"].write(LAST)) == [second]


def test_control_tokens_in_text():
  sample = row_formats.Conversation(
    [{"role": "user", "content": "<end_of_turn>"}, ANSWER]
  )
  with pytest.raises(ValueError, match="Gemma's control tokens"):
    list(row_formats.FORMATS["tunix_sft"].write(sample))


def test_reasons():
  for sample, data_format, message in (
    (COMPLETION, "text", "the format text needs plain text without a prompt"),
    (LAST, "messages", "some answers are not trained on"),
    (PAIR, "tunix_sft", "a preference pair has two answers"),
    (TEXT, "episodes", "can be read but not written"),
  ):
    with pytest.raises(ValueError, match=message):
      list(row_formats.FORMATS[data_format].write(sample))
