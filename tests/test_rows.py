"""The rows of a game in every context, as the rollout shows it."""

import pytest

from tunix_ttt import errors
from tunix_ttt.data import row_formats as data_formats
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import text_formats

# X takes the centre, O a corner, X another corner.
TURNS = [
  game_turns.Turn(0, None, 4, "I keep the draw."),
  game_turns.Turn(
    81 + 2, 0, 8, None, "<think>By hand.</think>\n<move>C3</move>"
  ),
]
GRID = text_formats.GridFormat()
FIRST = "<think>I keep the draw.</think>\n<move>B2</move>"


def contents(messages):
  return [message["content"] for message in messages]


def test_a_row_of_each_board():
  first, second = game_turns.of_game(TURNS, GRID, "board")
  assert contents(first["messages"])[2] == FIRST
  assert contents(second["messages"])[2] == TURNS[1].answer
  for row in (first, second):
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", "user", "assistant"]


def test_a_conversation():
  (row,) = game_turns.of_game(TURNS, GRID, "full")
  boards = [GRID.observation(turn.board, turn.last_move) for turn in TURNS]
  system = GRID.prompt("")[0]["content"]
  expected = [system, boards[0], FIRST, boards[1], TURNS[1].answer]
  assert contents(row["messages"]) == expected
  assert data_formats.parse_row(row) == [
    data_formats.Conversation(row["messages"])
  ]


def test_past_thoughts_are_replaced():
  whole = next(game_turns.of_game(TURNS, GRID, "full"))["messages"]
  first, second = game_turns.of_game(TURNS, GRID, "truncated")
  assert first == {"prompt": whole[:2], "completion": [whole[2]]}
  assert second["completion"] == [whole[4]]
  cut = "<think>[TRUNCATED]</think>\n<move>B2</move>"
  assert contents(second["prompt"]) == [
    *contents(whole[:2]),
    cut,
    whole[3]["content"],
  ]


def test_token_boards_are_text():
  text_format = text_formats.TokenBoardFormat()
  first, _ = game_turns.of_game(TURNS[:1] * 2, text_format, "board")
  assert first == {
    "prompt": text_format.observation(0, None),
    "completion": (
      "<player_think>I keep the draw.</player_think>\n<|move|><|1-1|><|end|>"
    ),
  }


def test_token_boards_have_no_conversations():
  tokens = text_formats.TokenBoardFormat()
  game_turns.check_context("full", GRID)
  game_turns.check_context("board", tokens)
  with pytest.raises(errors.UserError, match="context full.*use the context"):
    game_turns.check_context("full", tokens)


def test_no_game():
  for context in ("board", "full", "truncated"):
    assert list(game_turns.of_game([], GRID, context)) == []
