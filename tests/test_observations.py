"""Tests that observation tables yield the ids of whole conversations."""

import itertools

import numpy as np
import pytest

from tunix_ttt import testing
from tunix_ttt.data import row_formats as data_formats
from tunix_ttt.games.tictactoe import board_tables
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat

#  X | O |
# ---+---+---
#    | X |      O to move after X took the centre.
OPENING = rules.board_from_cells([0, 0, 0, 0, rules.X, 0, 0, 0, 0])
LATER = rules.board_from_cells([rules.X, rules.O, 0, 0, rules.X, 0, 0, 0, 0])


def row(chunks, n):
  return chunks.ids[n, : chunks.lengths[n]].tolist()


@pytest.fixture(scope="module")
def grid(tokenizer):
  return board_tables.build(text_formats.GridFormat(), tokenizer)


def test_a_whole_conversation_has_the_same_ids(grid, tokenizer):
  first, second = grid.rows[OPENING, 4 + 1], grid.rows[LATER, 0 + 1]
  said = text_formats.render_answer(1, "I keep the draw.")
  messages = [
    chat.message("system", text_formats.system_prompt()),
    chat.message("user", text_formats.render_observation(OPENING, rules.O, 4)),
    chat.message("assistant", said),
    chat.message("user", text_formats.render_observation(LATER, rules.O, 0)),
  ]
  whole = chat.encode_chat(messages, tokenizer).ids
  turns = [
    row(grid.begin, first),
    [*tokenizer.encode(said), tokenizer.end_of_turn_id],
    row(grid.follow, second),
  ]
  assert [*itertools.chain(*turns)] == whole

  messages[2] = chat.message(
    "assistant", text_formats.render_answer(1, "[TRUNCATED]")
  )
  turns[1] = row(grid.answers, 1)
  assert [*itertools.chain(*turns)] == chat.encode_chat(messages, tokenizer).ids


def test_every_observation_of_the_game_is_there(grid):
  asked = np.flatnonzero((grid.rows >= 0).any(axis=1))
  assert asked.tolist() == rules.positions().tolist()
  assert sorted(grid.rows[grid.rows >= 0]) == list(range(len(grid.begin.ids)))
  for board in asked[::97].tolist():
    theirs = rules.X + rules.O - rules.side_to_move()[board]
    cells = np.flatnonzero(grid.rows[board, 1:] >= 0)
    assert (
      cells.tolist() == np.flatnonzero(rules.cells()[board] == theirs).tolist()
    )


def test_rows_read_as_what_they_stand_for(grid, tokenizer):
  n = grid.rows[LATER, 0 + 1]
  text = text_formats.render_observation(LATER, rules.O, 0)
  assert tokenizer.decode(row(grid.follow, n)) == f"\nuser\n{text}\nmodel\n"
  assert "required format.\nOpponent played A1." in tokenizer.decode(
    row(grid.retry, n)
  )
  assert tokenizer.decode(row(grid.answers, 9)) == "[TRUNCATED]"


@pytest.mark.parametrize("thoughts", [True, False])
def test_token_boards_are_those_of_thinktactoe(tokenizer, thoughts):
  text_format = text_formats.TokenBoardFormat(thoughts=thoughts)
  table = board_tables.build(text_format, tokenizer)
  board = (
    "<|board_start|>\n<|0-0|><|X|> <|0-1|><|O|> <|0-2|><|blank|>\n"
    "<|1-0|><|blank|> <|1-1|><|X|> <|1-2|><|blank|>\n"
    "<|2-0|><|blank|> <|2-1|><|blank|> <|2-2|><|blank|>\n<|board_end|>\n"
  ) + ("<|player|>O\n" if thoughts else "<|turn|>bot\n<|symbol|>O\n")
  answer = "<|move|><|0-2|><|end|>"
  if thoughts:
    answer = f"<player_think>[TRUNCATED]</player_think>\n{answer}"
  n = table.rows[LATER, 0]
  sample = data_formats.PlainText(board, answer).encode(tokenizer)
  assert row(table.begin, n) + row(table.answers, 2) == sample.ids
  assert tokenizer.decode(row(table.follow, n)) == f"\n{board}"


@pytest.mark.parametrize("thoughts", [True, False])
@pytest.mark.parametrize(
  "kind", [text_formats.GridFormat, text_formats.TokenBoardFormat]
)
def test_a_formats_answers_are_in_its_grammar(kind, thoughts):
  text_format = kind(thoughts=thoughts)
  toy = testing.CharacterTokenizer()
  automaton = text_format.grammar()
  for cell in (*range(9), None):
    ids = text_format.answer(cell, "a thought", toy)
    assert automaton.read(toy.decode(ids)) == (-1 if cell is None else cell)
