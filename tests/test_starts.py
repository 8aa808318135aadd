"""Positions found in rows of prompts."""

import pytest

from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

GRID, TOKENS = text_formats.GridFormat(), text_formats.TokenBoardFormat()


def find(row):
  (sample,) = row_formats.parse_row(row)
  return board_positions.find(row_formats.questions(sample)[-1])


@pytest.mark.parametrize("text_format", [GRID, TOKENS])
def test_our_own_prompts_are_read_back(text_format):
  for board in rules.positions()[::37].tolist():
    last = find(
      {"prompt": text_format.prompt(text_format.observation(board, None))}
    ).last_move
    position = board_positions.Position(board, last)
    assert find(board_positions.prompt_row(position, text_format)) == position


def test_the_last_move_is_the_one_that_is_said():
  board = board_text.from_text("OXO...X..")
  for cell in (0, 2):
    position = board_positions.Position(board, cell)
    assert find(board_positions.prompt_row(position, GRID)) == position


def test_answers_do_not_matter():
  text = TOKENS.observation(0, None)
  assert find({"prompt": text, "completion": "no"}) == (0, None)
  pair = {"prompt": text, "chosen": "a", "rejected": "b"}
  assert find(pair) == (0, None)


def test_the_board_asked_last():
  first, then = (
    GRID.observation(b, None) for b in (0, board_text.from_text("XO......."))
  )
  messages = [
    {"role": "user", "content": first},
    {"role": "assistant", "content": "<move>A1</move>"},
    {"role": "user", "content": then},
  ]
  assert board_text.to_text(find({"prompt": messages}).board) == "XO......."


@pytest.mark.parametrize(
  "prompt, message",
  [
    ("What is 2 + 2?", "the prompt has no board"),
    (
      TOKENS.observation(board_text.from_text("XXXOO...."), None),
      "it is won, full or unreachable",
    ),
    (TOKENS.observation(board_text.from_text("XXX......"), None), "XXX......"),
    (
      TOKENS.observation(board_text.from_text("XO......."), None).replace(
        "<|player|>X", "<|player|>O"
      ),
      "has X to move, but the prompt says O",
    ),
    (
      GRID.observation(board_text.from_text("XO......."), 1).replace(
        "A2.", "B2."
      ),
      "the last move B2 is not the opponent's",
    ),
  ],
)
def test_rows_that_ask_for_no_move(prompt, message):
  with pytest.raises(ValueError, match=message):
    find({"prompt": prompt})
