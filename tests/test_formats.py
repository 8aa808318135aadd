"""Every row format, and what is said of rows that fit none."""

import pytest

from tunix_ttt.data import formats

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
TURNS = "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
  "row, expected",
  [
    ({"messages": [USER, ANSWER]}, formats.Conversation([USER, ANSWER])),
    ({"prompt": "2+2=", "completion": "4"}, formats.PlainText("2+2=", "4")),
    (
      {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
      formats.Conversation([USER, ANSWER, USER, ANSWER], 3),
    ),
    ({"text": "abc"}, formats.PlainText("", "abc")),
    (
      {"prompts": f"{TURNS}4<end_of_turn>", "final_answer": "4"},
      formats.Conversation([USER, ANSWER]),
    ),
    (
      {"prompts": f"<bos>{TURNS}4<end_of_turn>\n{TURNS}4<end_of_turn>\n"},
      formats.Conversation([USER, ANSWER, USER, ANSWER]),
    ),
    (
      {"prompts": TURNS, "final_answer": "4"},
      formats.Conversation([USER, ANSWER]),
    ),
    (
      {
        "prompts": TURNS.split("\n<start_of_turn>model")[0],
        "final_answer": "4",
      },
      formats.Conversation([USER, ANSWER]),
    ),
  ],
)
def test_formats(row, expected):
  assert formats.parse_row({"id": "x", **row}) == expected


@pytest.mark.parametrize(
  "row, data_format, found",
  [
    ({}, "auto", "found the fields none"),
    ({"a": 1}, "auto", "found the fields a, expected one of: messages;"),
    (
      {"prompt": "a", "chosen": "b", "rejected": "c"},
      "auto",
      "a preference pair, which is for DPO",
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
def test_bad_rows(row, data_format, found):
  with pytest.raises(ValueError, match=found):
    formats.parse_row(row, data_format)
