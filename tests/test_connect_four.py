"""Tests of Connect Four: its text beside boards."""

import jax
import jax.numpy as jnp
import pytest

from tunix_ttt.games import game as game_lib
from tunix_ttt.games import pgx_games
from tunix_ttt.games.connect_four import connect_four_text

pytest.importorskip("pgx")


@pytest.fixture(scope="module")
def text():
  game = pgx_games.PgxGame("connect_four")
  return connect_four_text.connect_four_text(game)


@pytest.fixture(scope="module")
def play(text):
  step = jax.jit(text.game.step)

  def play(columns):
    state = text.game.init(jax.random.key(0))
    for column in columns:
      state = step(state, "abcdefg".index(column))
    return state

  return play


def render(text, state, seat):
  shown = text.show(state, jnp.int32(seat)).tolist()
  return "".join(
    slot[n] for slot, n in zip(text.segments, shown, strict=True) if n >= 0
  )


def test_the_first_board(text, play):
  assert render(text, play(""), 0) == (
    "Board:\n"
    " a b c d e f g\n"
    " . . . . . . .\n"
    " . . . . . . .\n"
    " . . . . . . .\n"
    " . . . . . . .\n"
    " . . . . . . .\n"
    " . . . . . . .\n"
    "Available moves: a, b, c, d, e, f, g\n"
    "You are X. Your move?"
  )


def test_a_full_column_is_not_listed(text, play):
  # O . . . . . .
  # X . . . . . .
  # O . . . . . .
  # X . . . . . .
  # O . . . . . .
  # X . . . . . X
  assert render(text, play("aaaaaag"), 1) == (
    "Board:\n"
    " a b c d e f g\n"
    " O . . . . . .\n"
    " X . . . . . .\n"
    " O . . . . . .\n"
    " X . . . . . .\n"
    " O . . . . . .\n"
    " X . . . . . X\n"
    "Available moves: b, c, d, e, f, g\n"
    "You are O. Your move?"
  )


@pytest.mark.parametrize(
  "columns, returns",
  [
    # . O O O . . .
    # . X X X X . .
    ("bbccdde", [1, -1]),
    # . O . . . . .
    # . O . . . . .
    # . O . . . . .
    # X O X X . . X
    ("abcbdbgb", [-1, 1]),
    # . . . X . . .
    # . . X O . . .
    # . X O O . . X
    # X O O O . X X
    ("abbcgccdgdfdd", [1, -1]),
    # X X O X O O O
    # O X X O X X X
    # X O O X O X O
    # O X X O O X O
    # X O X X X O X
    # O O X O O X O
    ("fffafeeggdfbdfcbcdaebedacccbaaacbgbdeedggg", [0, 0]),
  ],
  ids=["row", "column", "diagonal", "draw"],
)
def test_ends(text, play, columns, returns):
  before, after = play(columns[:-1]), play(columns)
  assert text.game.returns(before).tolist() == [0, 0]
  assert text.game.to_act(before) == (len(columns) - 1) % 2
  assert text.game.to_act(after) == game_lib.OVER
  assert not text.game.legal(after).any()
  assert text.game.returns(after).tolist() == returns


def test_rules(text):
  assert text.rules.endswith(
    " Think between <think> and </think>, then give exactly one move such as"
    " <move>d</move>."
  )
  answer = connect_four_text.connect_four_text(text.game, thoughts=False)
  assert answer.rules.endswith(
    " Answer with exactly one move such as <move>d</move>."
  )
  assert answer.actions[3] == ("d", "D")
