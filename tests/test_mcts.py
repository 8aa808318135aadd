"""Tests of the search: tactics, legality, keys and signs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt import errors
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import mcts as mcts_lib
from tunix_ttt.games import players
from tunix_ttt.games.pgx_boards import pgx_games

pytest.importorskip("mctx")
pytest.importorskip("pgx")


class Nim:
  """Players take 1 to 3 of the stones in turn; who takes the last wins.

  A state is the number of stones and the number of plies, int32 [2].
  """

  num_seats, num_actions, max_plies = 2, 3, 21

  def __init__(self, stones=21, outcomes=0):
    self.stones, self.outcomes = stones, outcomes

  def init(self, key):
    del key
    return jnp.array([self.stones, 0])

  def to_act(self, state):
    return jnp.where(state[0] > 0, state[1] % 2, game_lib.OVER)

  def legal(self, state):
    return jnp.arange(1, 4) <= state[0]

  def chance(self, state):
    del state
    return jnp.zeros(self.outcomes)

  def step(self, state, action):
    after = state + jnp.array([-1, 1]) * jnp.array([action + 1, 1])
    return jnp.where(state[0] > 0, after, state)

  def returns(self, state):
    loser = state[1] % 2
    return jnp.where(state[0] > 0, 0.0, jnp.ones(2).at[loser].set(-1.0))


@functools.cache
def tic_tac_toe():
  return pgx_games.PgxGame("tic_tac_toe")


def searched(game, **settings):
  """Returns a search as a function of a key and a state."""
  player = mcts_lib.mcts(game, **settings)
  return lambda key, state: player(players.Keys(game=key, ply=key), state)


@functools.cache
def searching(simulations):
  """Returns moves of a batch of keys in one state of tic-tac-toe."""
  player = searched(tic_tac_toe(), simulations=simulations)
  return jax.jit(jax.vmap(player, (0, None)))


def after(game, actions):
  state, step = game.init(jax.random.key(0)), jax.jit(game.step)
  for action in actions:
    state = step(state, action)
  return state


@pytest.mark.parametrize(
  "moves, best",
  [
    # X X .   X wins.
    # O O .
    # . . .
    ([0, 3, 1, 4], 2),
    # X X .   O wins rather than blocks.
    # O O .
    # X . .
    ([0, 3, 1, 4, 6], 5),
    # X X .   O blocks.
    # . O .
    # . . .
    ([0, 4, 1], 2),
    # O . .   X blocks.
    # O X .
    # . . X
    ([4, 0, 8, 3], 6),
  ],
  ids=["x wins", "o wins", "o blocks", "x blocks"],
)
def test_wins_and_blocks(moves, best):
  state = after(tic_tac_toe(), moves)
  keys = jax.random.split(jax.random.key(0), 31)
  assert searching(64)(keys, state).tolist() == [best] * 31


@pytest.mark.slow
@pytest.mark.parametrize("stones", [5, 6, 7])
def test_a_multiple_of_four_is_left_in_nim(stones):
  player = searched(Nim(stones), simulations=128, rollouts=4)
  state = Nim(stones).init(None)
  keys = jax.random.split(jax.random.key(1), 5)
  moves = jax.jit(jax.vmap(player, (0, None)))(keys, state)
  assert moves.tolist() == [stones % 4 - 1] * 5


@pytest.mark.slow
def test_a_value_function_replaces_rollouts():
  # The seat to act loses at multiples of four: one ply of search is enough.
  def value(key, state):
    del key
    return jnp.where(state[0] % 4 == 0, -1.0, 1.0)

  player = searched(Nim(), simulations=6, value=value)
  keys = jax.random.split(jax.random.key(0), 9)
  moves = jax.vmap(player, (0, None))(keys, jnp.array([14, 1]))
  assert moves.tolist() == [1] * 9


def test_rollout_values_have_the_sign_of_the_seat_to_act():
  game = Nim()
  value = mcts_lib.rollout_value(game, rollouts=3)
  # Whoever acts takes the last stone.
  for plies in (0, 1):
    assert value(jax.random.key(0), jnp.array([1, plies])) == 1.0
  # With two stones: 1 or 2 are taken, each in half of the games.
  value = mcts_lib.rollout_value(game, rollouts=4000)
  assert abs(float(value(jax.random.key(0), jnp.array([2, 1])))) < 0.06


@pytest.mark.slow
def test_a_move_depends_on_its_own_key_and_state():
  player = searched(tic_tac_toe(), simulations=5, rollouts=1)
  moves = [[], [4], [0, 4, 1]]
  states = [after(tic_tac_toe(), m) for m in moves]
  batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  keys = jax.random.split(jax.random.key(2), 3)
  search = jax.jit(jax.vmap(player))
  batched = search(keys, batch).tolist()
  single = jax.jit(player)
  assert [
    int(single(k, s)) for k, s in zip(keys, states, strict=True)
  ] == batched
  assert search(keys, batch).tolist() == batched
  assert single(keys[0], states[0]).dtype == jnp.int32
  openings = [int(single(n, states[0])) for n in jax.random.split(keys[0], 30)]
  assert len(set(openings)) > 6


def test_a_finished_game():
  state = after(tic_tac_toe(), [0, 3, 1, 4, 2])
  keys = jax.random.split(jax.random.key(0), 31)
  assert searching(64)(keys, state).tolist() == [0] * 31


def play_random(name, simulations, num_games, **settings):
  """Returns each game's return for the search, and whether all was legal."""
  game = pgx_games.PgxGame(name)
  player = searched(game, simulations=simulations, **settings)

  def play(key, seat):
    def ply(carry, n):
      state, is_legal = carry
      search_key, random_key = jax.random.split(jax.random.fold_in(key, n))
      legal = game.legal(state)
      action = player(search_key, state)
      is_legal &= legal[action] | ~legal.any()
      other = players.choose(random_key, legal)
      action = jnp.where(game.to_act(state) == seat, action, other)
      return (game.step(state, action), is_legal), None

    start = (game.init(key), jnp.bool_(True))
    (state, is_legal), _ = jax.lax.scan(ply, start, jnp.arange(game.max_plies))
    return game.returns(state)[seat], is_legal

  keys = jax.random.split(jax.random.key(5), num_games)
  seats = jnp.arange(num_games) % 2
  return map(np.asarray, jax.jit(jax.vmap(play))(keys, seats))


@pytest.mark.slow
def test_it_plays_legally_and_does_not_lose_to_a_random_player():
  returns, is_legal = play_random("tic_tac_toe", 16, 13)
  assert is_legal.all()
  assert (returns == -1).sum() <= 1 and (returns == 1).sum() >= 9


@pytest.mark.slow
def test_it_beats_a_random_player_at_connect_four():
  returns, is_legal = play_random("connect_four", 32, 32)
  assert is_legal.all()
  assert (returns == 1).sum() >= 30


@pytest.mark.parametrize(
  "game, found",
  [(Nim(outcomes=2), "2 seats and 2 outcomes"), (Nim(), "1 seats and 0")],
)
def test_games_that_cannot_be_searched(monkeypatch, game, found):
  if found.startswith("1"):
    monkeypatch.setattr(game, "num_seats", 1, raising=False)
  with pytest.raises(errors.UserError, match=f"without chance.*found {found}"):
    mcts_lib.mcts(game, simulations=4)


@pytest.mark.parametrize("setting", ["simulations", "rollouts"])
def test_numbers_below_one(setting):
  numbers = {"simulations": 4, "rollouts": 1} | {setting: 0}
  with pytest.raises(errors.UserError, match=f"{setting} must be 1 or more"):
    mcts_lib.mcts(
      Nim(),
      simulations=numbers["simulations"],
      rollouts=numbers["rollouts"],
    )
