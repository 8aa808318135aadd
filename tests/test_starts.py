"""Positions found in rows of prompts."""

import pytest

from tunix_ttt.data import positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

GRID, TOKENS = text_formats.GridFormat(), text_formats.TokenBoardFormat()


def found(row):
  (start,) = positions.parse(row, "auto")
  return start.shown


@pytest.mark.parametrize("text_format", [GRID, TOKENS])
def test_our_own_prompts_are_read_back(text_format):
  for board in rules.positions()[::37].tolist():
    last = found(
      {"prompt": text_format.prompt(text_format.observation(board, None))}
    ).last_move
    shown = positions.Shown(board, last)
    assert found(positions.prompt_row(shown, text_format)) == shown


def test_the_last_move_is_the_one_that_is_said():
  board = board_text.from_text("OXO...X..")
  for cell in (0, 2):
    shown = positions.Shown(board, cell)
    assert found(positions.prompt_row(shown, GRID)) == shown


def test_answers_do_not_matter():
  text = TOKENS.observation(0, None)
  assert found({"prompt": text, "completion": "no"}) == (0, None)
  pair = {"prompt": text, "chosen": "a", "rejected": "b"}
  assert found(pair) == (0, None)


def test_the_board_asked_last():
  first, then = (
    GRID.observation(b, None) for b in (0, board_text.from_text("XO......."))
  )
  messages = [
    {"role": "user", "content": first},
    {"role": "assistant", "content": "<move>A1</move>"},
    {"role": "user", "content": then},
  ]
  assert board_text.to_text(found({"prompt": messages}).board) == "XO......."


@pytest.mark.parametrize(
  "prompt, message",
  [
    ("What is 2 + 2?", "no board in the prompt"),
    (
      TOKENS.observation(board_text.from_text("XXXOO...."), None),
      "won or full",
    ),
    (TOKENS.observation(board_text.from_text("XXX......"), None), "XXX......"),
    (
      TOKENS.observation(board_text.from_text("XO......."), None).replace(
        "<|player|>X", "<|player|>O"
      ),
      "it is the turn of X, and the prompt says O",
    ),
    (
      GRID.observation(board_text.from_text("XO......."), 1).replace(
        "A2.", "B2."
      ),
      "the opponent has not taken B2",
    ),
  ],
)
def test_rows_that_ask_for_no_move(prompt, message):
  with pytest.raises(ValueError, match=message):
    found({"prompt": prompt})
