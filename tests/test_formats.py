"""Row formats: parsing, and error messages of invalid rows."""

import pytest

from tunix_ttt import testing
from tunix_ttt.data import row_formats

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
TURNS = "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
  "row, expected",
  [
    ({"messages": [USER, ANSWER]}, row_formats.Conversation([USER, ANSWER])),
    ({"prompt": "2+2=", "completion": "4"}, row_formats.PlainText("2+2=", "4")),
    (
      {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
      row_formats.Conversation([USER, ANSWER, USER, ANSWER], 3),
    ),
    ({"text": "abc"}, row_formats.PlainText("", "abc")),
    (
      {"prompts": f"{TURNS}4<end_of_turn>", "final_answer": "4"},
      row_formats.Conversation([USER, ANSWER]),
    ),
    (
      {"prompts": f"<bos>{TURNS}4<end_of_turn>\n{TURNS}4<end_of_turn>\n"},
      row_formats.Conversation([USER, ANSWER, USER, ANSWER]),
    ),
    (
      {"prompts": TURNS, "final_answer": "4"},
      row_formats.Conversation([USER, ANSWER]),
    ),
    (
      {
        "prompts": TURNS.split("\n<start_of_turn>model")[0],
        "final_answer": "4",
      },
      row_formats.Conversation([USER, ANSWER]),
    ),
  ],
)
def test_formats(row, expected):
  assert row_formats.parse_row({"id": "x", **row}) == [expected]
  assert row_formats.parse_trained(row) == [expected]


PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]}


def test_preference_pairs():
  text = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
  assert row_formats.parse_row(text) == [
    row_formats.Preference("2+2=", "4", "5")
  ]
  (pair,) = row_formats.parse_preference(PAIR)
  assert pair.answers() == (
    row_formats.Conversation([USER, ANSWER], 1),
    row_formats.Conversation([USER, WRONG], 1),
  )
  assert list(pair.texts()) == ["user\n2+2?", "4", "user\n2+2?", "5"]
  with pytest.raises(
    ValueError, match="this is a preference pair; use it for DPO"
  ):
    row_formats.parse_trained(PAIR)
  with pytest.raises(ValueError, match="this is not a preference pair"):
    row_formats.parse_preference({"text": "a"})


def test_the_answers_of_a_pair_are_encoded_apart():
  (pair,) = row_formats.parse_row(PAIR)
  assert isinstance(pair, row_formats.Preference)
  tokenizer = testing.CharacterTokenizer()
  chosen, rejected = (answer.encode(tokenizer) for answer in pair.answers())
  # Only the answer, a character and the end of the turn, tells them apart.
  assert chosen.ids[:-2] == rejected.ids[:-2]
  assert chosen.ids[-2:-1] == tokenizer.encode("4")
  assert rejected.ids[-2:-1] == tokenizer.encode("5")
  for tokens in (chosen, rejected):
    assert tokens.loss_mask == [False] * (len(tokens.ids) - 2) + [True] * 2


def test_prompts():
  assert row_formats.parse_row({"prompt": "2+2="}) == [
    row_formats.Prompt("2+2=")
  ]
  assert row_formats.parse_row({"prompt": [USER]}) == [
    row_formats.Prompt([USER])
  ]
  with pytest.raises(ValueError, match="a prompt without an answer"):
    row_formats.parse_trained({"prompt": "2+2="})


def episode(*prompts):
  steps = [
    {
      "index": n,
      "prev_obs": "…",
      "action": ANSWER["content"],
      "reward": 0.0,
      "info": {"chat_prompt_messages": p, "chat_completion": ANSWER},
    }
    for n, p in enumerate(prompts)
  ]
  return {"id": "e", "steps": steps}


def test_each_step_of_an_episode_trains_its_own_answer():
  cut = {"role": "assistant", "content": "<think>[TRUNCATED]</think>4"}
  assert row_formats.parse_row(episode([USER], [USER, cut, USER])) == [
    row_formats.Conversation([USER, ANSWER], 1),
    row_formats.Conversation([USER, cut, USER, ANSWER], 3),
  ]


@pytest.mark.parametrize(
  "row, data_format, message",
  [
    ({}, "auto", "found the fields none"),
    ({"a": 1}, "auto", "found the fields a, expected one of: messages;"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "auto", "are the same"),
    (
      {"prompt": "a", "chosen": [ANSWER], "rejected": "c"},
      "auto",
      "'prompt' and 'chosen': must both be text or both lists",
    ),
    (
      {"prompt": [USER], "chosen": [ANSWER], "rejected": [USER]},
      "auto",
      "'prompt' and 'rejected': message 1 has the role 'user'",
    ),
    ({"prompt": ""}, "auto", "'prompt' is empty"),
    ({"prompt": [USER, ANSWER]}, "auto", "of 'prompt' is not a user message"),
    ({"steps": []}, "auto", "must be a list and not empty"),
    ({"steps": [{"info": {}}]}, "auto", "step 0 has no info with"),
    ({"steps": [3]}, "auto", "step 0 has no info with"),
    (
      {
        "steps": [
          {"info": {"chat_prompt_messages": [], "chat_completion": USER}}
        ]
      },
      "auto",
      "step 0: the last message is a user message",
    ),
    ({"text": "a"}, "messages", "the field 'messages' is missing; found text"),
    ({"prompt": "a"}, "prompt_completion", "the field 'completion' is missing"),
    ({"messages": [USER]}, "auto", "no answer to train on"),
    ({"messages": "hi"}, "auto", "non-empty list"),
    (
      {"prompt": "a", "completion": ["b"]},
      "auto",
      "both be text or both lists",
    ),
    ({"prompt": "a", "completion": None}, "auto", "both be text or both lists"),
    ({"text": ""}, "auto", "not empty"),
    ({"text": 3}, "auto", "'text' must be text"),
    ({"prompts": "2+2?"}, "auto", "must be Gemma turns"),
    ({"prompts": f"hi {TURNS}4<end_of_turn>"}, "auto", "must be Gemma turns"),
    ({"prompts": TURNS}, "auto", "'final_answer' is not text"),
    ({"prompts": 3}, "auto", "'prompts' must be text"),
  ],
)
def test_bad_rows(row, data_format, message):
  with pytest.raises(ValueError, match=message):
    row_formats.parse_row(row, data_format)
