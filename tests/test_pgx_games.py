"""Tests of pgx's games, held to pgx itself, and of their text."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tunix_ttt import errors
from tunix_ttt.games import game as game_lib
from tunix_ttt.games.connect_four import connect_four_text
from tunix_ttt.games.pgx_boards import pgx_games
from tunix_ttt.games.pgx_boards import pgx_text

pgx = pytest.importorskip("pgx")

NAMES = ("connect_four", "go_9x9", "hex", "othello", "tic_tac_toe")
BATCH = 5


def make_text(name, **options):
  game = pgx_games.PgxGame(name)
  if name == "connect_four":
    return connect_four_text.connect_four_text(game, **options)
  return pgx_text.pgx_text(game, **options)


def random_actions(rng, legal):
  """Draws a legal action of each row, 0 where there is none."""
  return np.array(
    [rng.choice(np.flatnonzero(row)) if row.any() else 0 for row in legal],
    np.int32,
  )


def play(game, actions):
  step, state = jax.jit(game.step), game.init(jax.random.key(0))
  for action in actions:
    assert state.legal[action]
    state = step(state, action)
  return state


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  "name", conftest.slow_but(["connect_four", "hex", "tic_tac_toe"], NAMES)
)
def test_random_games_are_those_of_pgx(name):
  game, env = pgx_games.PgxGame(name), pgx.make(name)
  keys = jax.random.split(jax.random.key(3), BATCH)
  ours, theirs = jax.vmap(game.init)(keys), jax.vmap(env.init)(keys)
  # pgx draws which player moves first; seat 0 does here.
  first = np.asarray(theirs.current_player)
  assert len(set(first.tolist())) == 2
  our_step, their_step = (
    jax.jit(jax.vmap(game.step)),
    jax.jit(jax.vmap(env.step)),
  )
  our_view = jax.jit(
    jax.vmap(
      lambda s: (
        game.to_act(s),
        game.legal(s),
        game.returns(s),
        game.marks(s),
      )
    )
  )
  rng = np.random.default_rng(0)
  returns, plies = np.zeros((BATCH, 2)), 0
  actions = np.zeros(BATCH, np.int32)
  while True:
    to_act, legal, our_returns, marks = map(np.asarray, our_view(ours))
    is_over = np.asarray(theirs.terminated)
    player = np.asarray(theirs.current_player) ^ first
    np.testing.assert_array_equal(
      to_act, np.where(is_over, game_lib.OVER, player)
    )
    np.testing.assert_array_equal(
      legal, np.asarray(theirs.legal_action_mask) & ~is_over[:, None]
    )
    rewards = np.asarray(theirs.rewards)
    returns += np.where(first[:, None] == 1, rewards[:, ::-1], rewards)
    np.testing.assert_array_equal(our_returns, returns)
    # The stones of the player to move, and the others.
    planes = np.asarray(theirs.observation)[..., :2].reshape(BATCH, -1, 2)
    expected = planes[..., 0] * (1 + player[:, None])
    expected += planes[..., 1] * (2 - player[:, None])
    np.testing.assert_array_equal(marks, expected)
    if is_over.all():
      break
    actions = random_actions(rng, legal)
    # Any action is legal for pgx at the end; here nothing happens.
    ours, theirs = our_step(ours, actions), their_step(theirs, actions)
    plies += 1
  assert plies <= game.max_plies
  assert np.abs(returns).sum() > 0
  assert_same(our_step(ours, actions), ours)


@pytest.mark.parametrize(
  "name, one, other",
  [
    ("connect_four", [3, 0, 4, 1], [4, 1, 3, 0]),
    # Two chains that grow in another order and join.
    ("hex", [0, 60, 1, 61, 3, 62, 2, 63], [3, 63, 2, 60, 1, 62, 0, 61]),
    # X plays a1; O swaps, or X moves and O answers: then the counter matters.
    ("hex", [0, 60, 1, 61], [1, 61, 0, 60]),
    ("tic_tac_toe", [0, 4, 8], [8, 4, 0]),
  ],
)
def test_equal_positions_are_equal_states(name, one, other):
  game = pgx_games.PgxGame(name)
  assert_same(play(game, one), play(game, other))


def test_a_swap_in_hex():
  game = pgx_games.PgxGame("hex")
  opened, swap = play(game, [13]), jnp.int32(121)
  # The stone of X in row 2, column 3 becomes one of O in row 3, column 2.
  swapped = game.step(opened, swap)
  assert np.flatnonzero(game.marks(swapped) == 2).tolist() == [23]
  assert not (game.marks(swapped) == 1).any() and game.to_act(swapped) == 0
  assert game.legal(opened)[swap] and not game.legal(swapped)[swap]
  assert not game.legal(play(game, [13, 50, 60]))[swap]


@pytest.mark.parametrize(
  "goes_down, winner", [(True, 0), (False, 1)], ids=["down", "across"]
)
def test_the_sides_of_hex(goes_down, winner):
  game = pgx_games.PgxGame("hex")
  # X has column f, or O has row 05.
  if goes_down:
    x, o = range(5, 121, 11), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
  else:
    x, o = [*range(0, 11, 2), *range(99, 109, 2)], range(44, 55)
  actions = [a for pair in itertools.zip_longest(x, o) for a in pair]
  actions = [a for a in actions if a is not None]
  state = play(game, actions)
  assert game.to_act(state) == game_lib.OVER
  assert game.returns(state).tolist() == [1 - 2 * winner, 2 * winner - 1]


@pytest.mark.parametrize(
  "name, reason",
  [
    ("checkers", "pgx has no game of this name"),
    ("2048", "found 1 players, expected 2"),
    ("sparrow_mahjong", "found 3 players, expected 2"),
    ("chess", "found 4,672 actions, at most 130 are supported"),
    ("animal_shogi", "found 132 actions, at most 130 are supported"),
    ("backgammon", "found 156 actions, at most 130 are supported"),
    ("kuhn_poker", "it has hidden information or chance"),
  ],
)
def test_games_that_do_not_fit(name, reason):
  with pytest.raises(errors.UserError) as error:
    pgx_games.PgxGame(name)
  assert str(error.value) == (
    f"pgx game '{name}': {reason}; use one of connect_four, go_9x9, hex,"
    " othello, tic_tac_toe"
  )


@pytest.mark.slow
def test_every_game_of_pgx_is_played_or_refused():
  for name in pgx.available_envs():
    if name in NAMES:
      assert pgx_games.PgxGame(name).num_actions <= pgx_games.MAX_ACTIONS
    else:
      with pytest.raises(errors.UserError):
        pgx_games.PgxGame(name)


def test_pgx_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, "pgx", None)
  with pytest.raises(
    errors.UserError, match=r"pip install 'tunix_ttt\[games\]'"
  ):
    pgx_games.PgxGame("hex")


@pytest.mark.parametrize("name", NAMES)
def test_no_spelling_begins_another(name):
  text = make_text(name)
  assert len(text.actions) == text.game.num_actions
  spellings = [spelling for action in text.actions for spelling in action]
  for n, one in enumerate(spellings):
    for other in spellings[:n] + spellings[n + 1 :]:
      assert not other.startswith(one)


def render(text, state, seat):
  shown = jax.jit(text.show)(state, jnp.int32(seat)).tolist()
  assert len(shown) == len(text.segments)
  return "".join(
    slot[n] for slot, n in zip(text.segments, shown, strict=True) if n >= 0
  )


def test_text_of_othello():
  text = make_text("othello")
  # X plays d3, which turns d4.
  state = play(text.game, [19])
  assert render(text, state, 1) == (
    "Board:\n"
    "  a b c d e f g h\n"
    "1 . . . . . . . .\n"
    "2 . . . . . . . .\n"
    "3 . . . X . . . .\n"
    "4 . . . X X . . .\n"
    "5 . . . X O . . .\n"
    "6 . . . . . . . .\n"
    "7 . . . . . . . .\n"
    "8 . . . . . . . .\n"
    "Available moves: c3, e3, c5\n"
    "You are O. Your move?"
  )
  assert "Columns are a to h from the left, rows 1 to 8" in text.rules
  assert text.rules.endswith(
    "then give exactly one move such as <move>c2</move>."
  )
  # The other seat sees the board alone.
  assert render(text, state, 0).endswith("8 . . . . . . . .")


def test_text_of_hex():
  text = make_text("hex", thoughts=False)
  state = play(text.game, [13])
  rows = [f"{' ' * n}{n + 1:02}" + " ." * 11 for n in range(11)]
  rows[1] = " 02 . . X . . . . . . . ."
  assert render(text, state, 1).split("\n") == [
    "Board:",
    "   a b c d e f g h i j k",
    *rows,
    "Available moves: free cells, swap",
    "You are O. Your move?",
  ]
  assert "Available moves: free cells\n" in render(
    text, play(text.game, [13, 50]), 0
  )
  assert text.actions[13] == ("c02", "C02")
  assert text.rules.endswith(
    "Answer with exactly one move such as <move>c02</move>."
  )


def test_connect_four_has_no_text_by_cells():
  with pytest.raises(errors.UserError, match="its moves are not cells"):
    pgx_text.pgx_text(pgx_games.PgxGame("connect_four"))
