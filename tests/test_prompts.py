"""Tests the exact text of observations and answers and the strict parser."""

import pytest

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

BOARD = rules.board_from_cells([0, 1, 0, 0, 2, 0, 1, 0, 2])


def test_observation():
  assert text_formats.render_observation(BOARD, rules.X, 4) == "\n".join(
    [
      "Opponent played B2.",
      "Board:",
      "[A1]| X  |[A3]",
      "----+----+----",
      "[B1]| O  |[B3]",
      "----+----+----",
      " X  |[C2]| O",
      "Available moves: A1, A3, B1, B3, C2",
      "You are X. Your move?",
    ]
  )


def test_observation_before_the_opponent_has_moved():
  text = text_formats.render_observation(rules.EMPTY_BOARD, rules.X)
  assert text.startswith("Board:\n[A1]|[A2]|[A3]\n")


def test_observation_of_the_opening_move_to_o():
  board = rules.board_from_cells([0, 0, 0, 0, 0, 0, 0, 0, 1])
  text = text_formats.render_observation(board, rules.O, 8)
  assert text.startswith("Opponent played C3.\n")
  assert text.endswith("You are O. Your move?")


def test_every_observation_is_distinct():
  texts = {
    text_formats.render_observation(int(b), int(rules.side_to_move()[b]))
    for b in rules.positions()
  }
  assert len(texts) == len(rules.positions())


def test_coordinates():
  assert [text_formats.coordinate(c) for c in (0, 4, 8)] == ["A1", "B2", "C3"]
  assert [text_formats.cell_from_coordinate(t) for t in ("A1", "b2", "C3")] == [
    0,
    4,
    8,
  ]
  with pytest.raises(ValueError, match="'D1' is no coordinate"):
    text_formats.cell_from_coordinate("D1")


def test_answers_round_trip():
  for cell in range(9):
    text = text_formats.render_answer(cell, "a < b\nthought")
    assert text_formats.parse_answer(text) == ("a < b\nthought", cell)
    assert text_formats.parse_answer(text, thoughts=False) is None
    bare = text_formats.render_answer(cell)
    assert text_formats.parse_answer(bare, thoughts=False) == (None, cell)
    assert text_formats.parse_answer(bare) is None


@pytest.mark.parametrize(
  "text, cell",
  [
    ("<think></think><move>A1</move>", 0),
    (" \n<think>x</think> \n <move>c3</move>\n", 8),
    ("<think>so <move>A1</move></think><move>B2</move>", 4),
  ],
)
def test_accepted(text, cell):
  answer = text_formats.parse_answer(text)
  assert answer is not None and answer.cell == cell


@pytest.mark.parametrize(
  "text",
  [
    "",
    "A1",
    "<think>x</think>",
    "<think>x<move>A1</move>",
    "<think>x</think><move>A4</move>",
    "<think>x</think><move>D1</move>",
    "<think>x</think><move> A1</move>",
    "<think>x</think><move>A1</move>.",
    "<think>x</think><move>A1</move><move>A2</move>",
    "<think>x</think>so <move>A1</move>",
    "so <think>x</think><move>A1</move>",
    "<think>x</think></think><move>A1</move>",
    "<THINK>x</THINK><move>A1</move>",
  ],
)
def test_rejected(text):
  assert text_formats.parse_answer(text) is None
