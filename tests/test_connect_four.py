"""Tests of Connect Four: its text beside boards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt.games import game as game_lib
from tunix_ttt.games import mcts
from tunix_ttt.games.connect_four import bitboard_value
from tunix_ttt.games.connect_four import connect_four_text
from tunix_ttt.games.pgx_boards import pgx_games

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


def test_columns_are_listed_from_the_bottom(text, play):
  assert render(text, play(""), 0) == (
    "Board: a:...... b:...... c:...... d:...... e:...... f:...... g:......"
    " Your move?"
  )
  # O . . . . . .
  # X . . . . . .
  # O . . . . . .
  # X . . . . . .
  # O . . . X . .
  # X . . . O . X
  columns = "aaaaaagee"
  assert render(text, play(columns), 1) == (
    "Board: a:OXOXOX b:...... c:...... d:...... e:XO.... f:...... g:O....."
    " Your move?"
  )
  # The other seat has the other discs, and waits.
  assert render(text, play(columns), 0) == (
    "Board: a:XOXOXO b:...... c:...... d:...... e:OX.... f:...... g:X....."
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


# Positions of random games; in the last ones few columns are free.
GAMES = ["", "d", "ddddddcccaabbe", "fffafeeggdfbdfcbcdaebedacccbaaacbgbdeedg"]


def test_random_games_on_bitboards_are_those_of_the_rules(text, play):
  states = [play(columns) for columns in GAMES]
  states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  keys = jax.random.split(jax.random.key(0), len(GAMES))
  games = 2000

  def mean(value):
    return np.asarray(jax.jit(jax.vmap(value))(keys, states))

  expected = mean(mcts.rollout_value(text.game, rollouts=games))
  found = mean(bitboard_value.random_value(text.game, rollouts=games))
  error = np.sqrt(2 * (1 - expected**2) / games)
  assert np.all(np.abs(found - expected) <= 3 * error + 1e-6)
  assert len({*np.round(found, 1).tolist()}) > 2


def test_lines_on_bitboards_are_those_of_the_rules(text):
  """Plays random games to their end on both boards."""
  step = jax.jit(jax.vmap(text.game.step))
  words = jax.jit(jax.vmap(bitboard_value.words))
  four = jax.jit(jax.vmap(bitboard_value.has_four))
  rng, count = np.random.default_rng(0), 500
  state = jax.vmap(text.game.init)(jax.random.split(jax.random.key(0), count))
  wins = 0
  while not np.asarray(state.is_over).all():
    legal = np.asarray(state.legal)
    scores = rng.random(legal.shape) * legal
    state = step(state, jnp.asarray(scores.argmax(axis=1), jnp.int32))
    marks = np.asarray(jax.vmap(text.game.marks)(state)).reshape(-1, 6, 7)
    for seat in range(2):
      is_won = np.asarray(state.returns)[:, seat] > 0
      np.testing.assert_array_equal(four(words(marks == seat + 1)), is_won)
      wins += is_won.sum()
  assert wins > count
