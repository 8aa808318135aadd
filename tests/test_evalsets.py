"""Evalsets: the shipped ones, scoring, and mistakes in others."""

import json
import pathlib

import pytest

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import evalsets
from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import board_text as boards_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

EVALSETS = pathlib.Path(__file__).resolve().parents[1] / "evalsets"
READER = position_reader.of(None, "test")
GENERAL = {"id": "a", "prompt": "2+2?", "expected_answer": "4"}


def item(**fields):
  return evalsets.Item.model_validate({**GENERAL, **fields})


def tictactoe():
  return next(
    evalsets.Item.model_validate(row)
    for row in READER.evalset_rows(0)
    if row["expected_answer"] == ["B2"]
  )


@pytest.mark.parametrize(
  "path", sorted(EVALSETS.glob("*.jsonl")), ids=lambda p: p.name
)
def test_shipped_evalsets_are_valid(path):
  assert evalsets.load(path)


def test_tictactoe_v1_is_what_the_command_makes():
  rows = [files.to_json(row) + "\n" for row in READER.evalset_rows(0)]
  assert (EVALSETS / "tictactoe_v1.jsonl").read_text() == "".join(rows)


def test_tictactoe_v1_has_every_position_once_up_to_symmetry():
  items = evalsets.load(EVALSETS / "tictactoe_v1.jsonl")
  boards = [boards_lib.from_text(i.board or "") for i in items]
  forms = [int(rules.canonical()[b]) for b in boards]
  every = {int(rules.canonical()[b]) for b in rules.positions()}
  assert len(forms) == len(set(forms)) == 627 and set(forms) == every
  assert {i.section for i in items} == {
    f"{mark} {phase}" for mark in "XO" for phase in ("opening", "middle", "end")
  }


@pytest.mark.parametrize(
  "match, expected, response, verdict",
  [
    ("normalized", "4", " 4.\n", "right"),
    ("normalized", "Carbon dioxide", "carbon  DIOXIDE", "right"),
    ("normalized", "4", "<think>2+2 is 4</think>\n4", "right"),
    ("normalized", "4", "44", "wrong"),
    ("normalized", "4", "it is 4", "wrong"),
    ("normalized", "4", "", "wrong"),
    ("exact", "X", "X", "right"),
    ("exact", "X", "x", "wrong"),
    ("exact", "X", "X ", "wrong"),
    ("exact", "X", "<think>so</think>X", "right"),
  ],
)
def test_scoring_text(match, expected, response, verdict):
  scored = item(match=match, expected_answer=expected)
  assert evalsets.verdict(scored, response) == verdict


def test_scoring_moves():
  corner = tictactoe()
  assert corner.board is not None
  taken = text_formats.coordinate(corner.board.index("X"))
  free = "A2" if corner.board[1] == "." else "A1"
  for move, verdict in (
    ("B2", "right"),
    ("b2", "right"),
    (taken, "illegal"),
    (free, "not optimal"),
    ("D1", "unreadable"),
  ):
    answer = f"<move>{move}</move>"
    assert evalsets.verdict(corner, answer) == verdict
    assert evalsets.verdict(corner, f"<think>x</think>\n{answer}") == verdict
  assert evalsets.verdict(corner, "B2") == "unreadable"


def test_fields_that_mean_nothing_here_are_ignored(tmp_path):
  path = tmp_path / "e.jsonl"
  path.write_text(json.dumps({**GENERAL, "difficulty": "easy"}))
  assert evalsets.load(path)[0].section == "general"


@pytest.mark.parametrize(
  "row, found",
  [
    ({"prompt": "a", "expected_answer": "b"}, ":1: id: Field required"),
    ({**GENERAL, "id": ""}, ":1: id: String should have at least 1"),
    ({**GENERAL, "id": 3}, ":1: id: Input should be a valid string"),
    ({**GENERAL, "match": "fuzzy"}, ":1: match: Input should be 'exact'"),
    ({**GENERAL, "match": "optimal_move"}, "needs a list of moves"),
    ({**GENERAL, "expected_answer": ["4"]}, "normalized needs one text"),
    (
      {**GENERAL, "match": "optimal_move", "expected_answer": ["Z9"]},
      "'Z9' is no coordinate",
    ),
    ({**GENERAL, "board": "XO"}, ":1: board: String should match pattern"),
  ],
)
def test_bad_items(tmp_path, row, found):
  path = tmp_path / "e.jsonl"
  path.write_text(json.dumps(row))
  with pytest.raises(errors.UserError) as error:
    evalsets.load(path)
  assert found in str(error.value)
  assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
  "change, found",
  [
    ({"expected_answer": ["A1"]}, "the optimal moves are ['B2']"),
    ({"board": "XXXXXXXXX"}, "no such position to move on"),
    ({"prompt": "Your move?"}, "the prompt shows another board"),
  ],
)
def test_bad_positions(tmp_path, change, found):
  path = tmp_path / "e.jsonl"
  path.write_text(json.dumps(tictactoe().model_dump() | change))
  with pytest.raises(errors.UserError) as error:
    evalsets.load(path)
  assert str(error.value).startswith(f"{path}:1: ")
  assert found in str(error.value)


def test_an_id_is_used_once(tmp_path):
  path = tmp_path / "e.jsonl"
  path.write_text(json.dumps(GENERAL) + "\n" + json.dumps(GENERAL) + "\n")
  with pytest.raises(errors.UserError, match=":2: the id 'a' is taken"):
    evalsets.load(path)
