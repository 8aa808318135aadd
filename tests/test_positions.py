"""Labels are the solver's; rejected answers are wrong in the way they say."""

import itertools
import re

import numpy as np
import pytest

from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

_THOUGHT = re.compile(r"think>([^<]*)</")
KINDS = {"worse": 1.0, "illegal": 1.0, "format": 1.0}


def take(count, kind="grid", style="template", weights=None, seed=0):
  text_format = text_formats.named(kind, thoughts=style != "none")
  rng = np.random.default_rng(seed)
  pairs = board_positions.pairs(rng, text_format, style, weights or KINDS)
  return list(itertools.islice(pairs, count))


def texts(row):
  if isinstance(row["prompt"], str):
    return row["prompt"], row["chosen"], row["rejected"]
  prompt, chosen, rejected = (
    row[name][-1]["content"] for name in ("prompt", "chosen", "rejected")
  )
  return prompt, chosen, rejected


@pytest.mark.parametrize("style", ["template", "tactics", "none"])
@pytest.mark.parametrize("kind", ["grid", "token_board"])
def test_pairs_are_what_they_say(kind, style):
  values = solver.solve().move_values
  for row in take(600, kind, style):
    prompt, chosen, rejected = texts(row)
    (match,) = board_text.find(prompt)
    board = match.position
    assert board_text.to_text(board) == row["board"]
    good, bad = (board_text.read_answer(t, kind) for t in (chosen, rejected))
    assert good.is_strict and good.action in solver.optimal_cells(board)
    assert bad.is_strict is (row["rejected_is"] != "format")
    if row["rejected_is"] == "worse":
      better = values[board, good.action]
      assert solver.LOSS <= values[board, bad.action] < better
    if row["rejected_is"] == "illegal":
      assert rules.cells()[board, bad.action] != rules.EMPTY
    if style != "none":
      matches = [_THOUGHT.search(text) for text in (chosen, rejected)]
      thoughts = [match[1] for match in matches if match]
      assert len(set(thoughts)) == len(thoughts) >= 1


def test_no_format_reads_a_badly_written_answer():
  for style in ("template", "none"):
    for row in take(300, style=style, weights={"format": 1.0}):
      rejected = row["rejected"][0]["content"]
      for thoughts in (True, False):
        answer = text_formats.parse_answer(rejected, thoughts=thoughts)
        assert answer is None or thoughts is (style == "none")


def test_weights_are_shares():
  kinds = [
    row["rejected_is"] for row in take(2000, weights={"worse": 3, "illegal": 1})
  ]
  assert abs(kinds.count("worse") / 2000 - 0.75) < 0.04
  assert kinds.count("format") == 0


def test_boards_come_again_once_all_have_come():
  choice = rules.positions()[:50]
  drawn = board_positions.endless(np.random.default_rng(0), choice)
  for _ in range(2):
    epoch = [next(drawn).board for _ in range(50)]
    assert sorted(epoch) == choice.tolist()


def test_last_moves_are_the_opponents():
  rng = np.random.default_rng(0)
  assert board_positions.draw_last_move(rng, 0) is None
  for board in rules.positions()[1:].tolist():
    cell = board_positions.draw_last_move(rng, board)
    mark = int(rules.side_to_move()[board])
    if cell is not None:
      assert rules.cells()[board, cell] == rules.X + rules.O - mark


def test_prompts_have_the_optimal_moves():
  row = board_positions.prompt_row(
    board_positions.Position(0, None), text_formats.GridFormat()
  )
  assert row["board"] == "." * 9
  assert row["optimal"] == list(text_formats.COORDINATES)
  assert [message["role"] for message in row["prompt"]] == ["system", "user"]
