"""Tests finding boards and moves in text of several notations."""

import pytest

from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

X, O = rules.X, rules.O
# X . .
# . O .
# . . X
BOARD = rules.board_from_cells([1, 0, 0, 0, 2, 0, 0, 0, 1])
TOKENS = (
  "<|board_start|>\n<|0-0|><|X|> <|0-1|><|blank|> <|0-2|><|blank|>\n"
  "<|1-0|><|blank|> <|1-1|><|O|> <|1-2|><|blank|>\n"
  "<|2-0|><|blank|> <|2-1|><|blank|> <|2-2|><|X|>\n<|board_end|>\n"
)


def test_nine_characters():
  assert board_text.to_text(BOARD) == "X...O...X"
  assert board_text.from_text("X...O...X") == BOARD


@pytest.mark.parametrize("kind", ["grid", "token_board"])
@pytest.mark.parametrize("thoughts", [True, False])
def test_every_observation_is_read_back(kind, thoughts):
  text_format = text_formats.named(kind, thoughts=thoughts)
  for board in rules.positions().tolist():
    text = text_format.observation(board, None)
    (found,) = board_text.find(text)
    player = int(rules.side_to_move()[board])
    assert (found.position, found.kind, found.player) == (board, kind, player)
    assert found.end == len(text)


@pytest.mark.parametrize(
  "text",
  [
    " X |   |   \n---+---+---\n   | O |   \n---+---+---\n   |   | X \n",
    "X|.|.\n.|O|.\n.|.|X",
    "Current Tic-Tac-Toe board:\n\n X  | [A2] | [A3]\n[B1] |  O | [B3]\n"
    "[C1] | [C2] |  X\nAvailable moves: A2",
    " X |_|_\n_|O|_\n_|_| X",
    TOKENS,
    TOKENS.replace("> <", "><"),
  ],
)
def test_boards_of_other_people(text):
  (found,) = board_text.find(f"Hello.\n{text}")
  assert found.position == BOARD and found.player is None
  assert found.start >= 7


def test_a_grid_whose_columns_are_letters_is_turned():
  text = "[A1]| X  |[C1]\n[A2]|[B2]|[C2]\n[A3]|[B3]| O\nYou are X."
  (found,) = board_text.find(text)
  # The X is on the cell B1, which is in the second row of a standard grid.
  assert board_text.to_text(found.position) == "...X....O"
  assert found.player == X


@pytest.mark.parametrize(
  "text",
  [
    "no board",
    "a | b | c\nd | e | f\ng | h | i",
    "X|O|X\nand\nX|O|X\nX|O|X",
    "[A1]|[A1]|[A3]\n[B1]|[B2]|[B3]\n[C1]|[C2]|[C3]",
    TOKENS.replace("<|0-1|>", "<|0-0|>"),
    TOKENS.replace("<|O|>", "<|Q|>"),
  ],
)
def test_what_is_no_board(text):
  assert board_text.find(text) == []


def test_boards_are_listed_in_order():
  grid = text_formats.render_observation(0, X)
  found = board_text.find(f"{TOKENS}<|player|>O\n{grid}\n{TOKENS}<|symbol|>X\n")
  kinds = ["token_board", "grid", "token_board"]
  assert [board.kind for board in found] == kinds
  assert [board.player for board in found] == [O, X, X]


@pytest.mark.parametrize(
  "text, kind, cell, is_strict",
  [
    ("<think>a</think>\n<move>B2</move>", "grid", 4, True),
    ("<move>b2</move>", "grid", 4, True),
    ("I play <move>B2</move>", "grid", 4, False),
    ("<move>A1</move> or <move>C3</move>", "grid", 8, False),
    ("B2", "grid", None, False),
    ("<move>D2</move>", "grid", None, False),
    ("<player_think>a</player_think>\n<|move|><|1-1|><|end|>", "token_board", 4, True),
    ("<|move|><|2-0|><|end|>", "token_board", 6, True),
    ("<player_think>a</player_think></player_think>\n<|move|><|1-1|><|end|>", "token_board", 4, False),
    ("<|move|><|1-1|>", "token_board", 4, False),
    ("<move>B2</move>", "token_board", None, False),
  ],
)  # fmt: skip
def test_answers(text, kind, cell, is_strict):
  assert board_text.read_answer(text, kind) == position_reader.Move(
    cell, is_strict
  )
