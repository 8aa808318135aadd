"""Checks of rows in the shape of third-party files."""

import json

import pytest

from tunix_ttt import errors
from tunix_ttt import testing
from tunix_ttt.data import checks
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

READER = position_reader.of(None, "test")


def token_board_row(text, player="<|player|>X\n"):
  board = board_text.from_text(text)
  observation = text_formats.TokenBoardFormat().observation(board, None)
  return observation[: observation.index("<|player|>")] + player


def answer(cell: int, thought: str | None = "Because.") -> str:
  return text_formats.TokenBoardFormat().render_answer(cell, thought)


def grid(text):
  board = board_text.from_text(text)
  return text_formats.GridFormat().observation(board, None)


# X to move wins at 2, by X X . / O O . / . . .
WINNING = "XX.OO...."


def check(tmp_path, rows, **settings):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return checks.check(reading.find(str(path)), READER, **settings)


def counts(shares):
  return {name: entry["count"] for name, entry in shares.items()}


def test_text_rows_of_token_boards(tmp_path):
  board = token_board_row(WINNING)
  turn = token_board_row(WINNING, "<|turn|>player\n<|symbol|>O\n")
  broken = answer(2).replace(
    "</player_think>", "</player_think></player_think>"
  )
  report = check(
    tmp_path,
    [
      {"text": board + answer(2)},
      {"text": board + answer(8)},
      {"text": board + answer(0)},
      {"text": board + broken},
      {"text": board + "I resign."},
      {"text": turn + answer(2, None)},
      {"text": token_board_row("XXXOO....") + answer(8)},
      {"text": board + answer(2)},
    ],
  )
  assert counts(report["moves"]) == {
    "optimal": 4,
    "worse": 1,
    "illegal": 1,
    "unreadable": 1,
    "impossible": 1,
  }
  assert report["moves"]["optimal"]["share"] == 0.5
  assert report["duplicates"] == 1
  assert report["format_errors"] == {
    "the answer is not of the format": {"count": 1, "lines": [4]},
    "the answer has no move": {"count": 1, "lines": [5]},
    "it is the other player's turn on the board": {"count": 2, "lines": [6, 7]},
  }


def test_pairs(tmp_path):
  board = token_board_row(WINNING)
  pair = {"prompt": board, "chosen": answer(2)}
  # X . . / . . . / . . . and O to move: the centre alone keeps the draw.
  early = token_board_row("X........", "<|player|>O\n")
  report = check(
    tmp_path,
    [
      {**pair, "rejected": answer(5)},
      {**pair, "rejected": answer(0)},
      {**pair, "rejected": answer(2, "Another.")},
      {**pair, "rejected": "2"},
      {"prompt": early, "chosen": answer(1), "rejected": answer(8)},
      {"prompt": early, "chosen": answer(1), "rejected": answer(4)},
      {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    ],
  )
  assert counts(report["moves"]) == {"optimal": 4, "worse": 2}
  assert counts(report["rejected_moves"]) == {
    "worse": 2,
    "optimal": 2,
    "illegal": 1,
    "not_of_the_format": 1,
  }
  judged = report["pairs"].pop("judged")
  assert judged == 6
  assert counts(report["pairs"]) == {"rejected_as_good": 2, "same_move": 1}
  assert report["pairs"]["rejected_as_good"]["share"] == round(2 / 6, 4)


def test_a_prompt_that_ends_inside_a_tag(tmp_path):
  row = {
    "prompt": token_board_row(WINNING) + "<|",
    "completion": answer(2, None),
  }
  report = check(tmp_path, [row] * 30)
  assert counts(report["moves"]) == {"optimal": 30}
  entry = report["format_errors"]["the prompt ends inside a tag"]
  assert entry == {"count": 30, "lines": list(range(1, 21))}
  line = next(t for t in checks.table(report).splitlines() if "tag" in t)
  assert line.endswith(
    "30 times: the prompt ends inside a tag (line 1, 2, 3, 4, 5, …)"
  )


def messages(*turns):
  roles = ("user", "assistant")
  return [
    {"role": roles[i % 2], "content": text} for i, text in enumerate(turns)
  ]


def test_conversations_are_judged_turn_by_turn(tmp_path):
  answer_text = "<think>a</think>\n<move>A3</move>"
  turns = messages(grid(WINNING), answer_text, grid(WINNING), "<move>C3</move>")
  report = check(
    tmp_path,
    [
      {"messages": turns},
      # Of the answers, only the last is trained on.
      {"prompt": turns[:3], "completion": turns[3:]},
      {"messages": messages("2+2?", "4")},
    ],
  )
  assert counts(report["moves"]) == {"optimal": 1, "worse": 2}
  assert report["formats"] == {"messages": 2, "prompt_completion": 1}


def test_episode_records(tmp_path):
  text = (
    "Current Tic-Tac-Toe board:\n X | X | [A3]\n O | O | [B3]\n[C1]|[C2]|[C3]"
  )
  step = {
    "info": {
      "chat_prompt_messages": messages(text),
      "chat_completion": messages("", "<think>a</think>\n<move>A3</move>")[1],
    }
  }
  report = check(tmp_path, [{"id": "e", "steps": [step, step]}])
  assert counts(report["moves"]) == {"optimal": 2}
  assert report["rows"] == 1 and report["formats"] == {"episodes": 1}


def test_lengths(tmp_path):
  rows = [
    {"prompt": "ab", "completion": "c"},
    {"text": "abcdef"},
    {"prompt": "a", "chosen": "bcd", "rejected": "b"},
    {"prompt": "a"},
  ]
  report = check(
    tmp_path, rows, tokenizer=testing.CharacterTokenizer(), max_seq_length=6
  )
  # Of text, with the tokens that begin and end it: 5, 8, 6 and 3.
  assert report["tokens"] == {
    "min": 3,
    "p50": 5,
    "p90": 8,
    "p99": 8,
    "max": 8,
    "max_seq_length": 6,
    "over": 1,
  }


def test_leakage(tmp_path):
  # The same position, turned.
  turned = "".join(WINNING[cell] for cell in rules.symmetries()[1])
  rows = [
    {"text": token_board_row(WINNING) + answer(2)},
    {"text": token_board_row(WINNING) + answer(8)},
    {"text": token_board_row(turned) + answer(8)},
    {"messages": messages("2+2?", "4")},
    {"prompt": "3+3?", "completion": "6"},
    {"prompt": messages("4+4?")},
  ]
  questions = ["2+2?", "3+3? ", "4+4?", "9+9?"]
  for symmetric, expected in ((False, 5), (True, 6)):
    leakage = checks.Leakage(
      [WINNING, "." * 9], questions, READER, symmetric=symmetric
    )
    report = check(tmp_path, rows, leakage=leakage)["leakage"]
    assert report == {
      "rows": expected,
      "questions": 6,
      "questions_seen": 4,
      "symmetric": symmetric,
    }


def test_bad_rows(tmp_path):
  rows = [{"text": "a"}, {"txt": "a"}, {"text": ""}]
  with pytest.raises(
    errors.UserError, match="2: found the fields txt.*\n.*3: "
  ):
    check(tmp_path, rows)
  report = check(tmp_path, rows, skip_bad_rows=True)
  assert report["rows"] == 1 and report["bad_rows"]["rows"] == 2
  assert "bad rows    2, skipped" in checks.table(report)


def test_grades():
  full = board_text.from_text("XOXXOOOXX")
  assert READER.grade(full, 0) == "impossible"
  # Three more O than X.
  assert READER.grade(board_text.from_text("OOO......"), 4) == "impossible"
  assert READER.grade(0, None) == "unreadable"
  assert READER.grade(0, 3) == "optimal"


def test_decisions_of_a_text_with_two_boards():
  text = (
    token_board_row("." * 9)
    + answer(4)
    + "\n"
    + token_board_row(WINNING)
    + answer(2)
  )
  first, second = checks.decisions(row_formats.PlainText("", text), READER)
  assert (first.match.position, first.move().action) == (0, 4)
  assert second.move() == position_reader.Move(2, True)
  # The prompt is not trained on.
  cut = text.index("<player_think>", 300)
  sample = row_formats.PlainText(text[:cut], text[cut:])
  assert [d.move().action for d in checks.decisions(sample, READER)] == [2]


@pytest.mark.parametrize(
  ("prompt", "completion"),
  [
    ("<|move|><|", "0-0|><|end|>"),
    ("<|move|>", "<|0-0|><|end|>"),
    ("<|move|><|0-", "0|><|end|>"),
    ("<|mo", "ve|><|0-0|><|end|>"),
    ("", "<|move|><|0-0|><|end|>"),
  ],
)
def test_a_move_that_the_prompt_begins_is_read_whole(prompt, completion):
  board = token_board_row(WINNING)
  sample = row_formats.PlainText(f"{board}\n{prompt}", completion)
  (decision,) = checks.decisions(sample, READER)
  assert decision.move() == position_reader.Move(0, True)


def test_a_move_that_only_the_prompt_has_is_none():
  example = "Answer as <|move|><|1-1|><|end|>\n"
  sample = row_formats.PlainText(
    f"{token_board_row(WINNING)}\n{example}", "I resign."
  )
  (decision,) = checks.decisions(sample, READER)
  assert decision.move().action is None
