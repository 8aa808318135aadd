"""Tests the moves of players of any game and their frequencies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests import toy_games
from tunix_ttt import errors
from tunix_ttt.games import players

NIM = toy_games.Nim()
# Seeds are fixed, so tests of frequencies do not fail at random.
SIGNIFICANCE = 1e-4


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"):
    yield


def take(number):
  """A player that always takes so many stones."""
  return lambda keys, state: jnp.int32(number - 1)


def state(stones):
  return dataclasses.replace(NIM.init(None), stones=jnp.int32(stones))


def moves(player, stones, num_moves, *, num_games=None, seed=0):
  """Returns the moves of a player, each in a game of its own."""
  num_games = num_games or num_moves
  game_key, ply_key = jax.random.split(jax.random.key(seed))
  keys = players.Keys(
    game=jax.random.split(game_key, num_games)[
      jnp.arange(num_moves) % num_games
    ],
    ply=jax.random.split(ply_key, num_moves),
  )
  play = jax.jit(jax.vmap(player, (0, None)))
  result = play(keys, state(stones))
  assert result.dtype == jnp.int32 and result.shape == (num_moves,)
  return np.asarray(result)


def assert_frequencies(actions, probabilities):
  counts = np.bincount(actions, minlength=len(probabilities))
  probabilities = np.asarray(probabilities)
  is_possible = probabilities > 0
  assert counts[~is_possible].sum() == 0
  expected = probabilities[is_possible] * len(actions)
  if is_possible.sum() > 1:
    pvalue = stats.chisquare(counts[is_possible], expected).pvalue
    assert pvalue > SIGNIFICANCE


def test_random_moves_are_legal_and_uniform():
  player = players.random(NIM)
  assert_frequencies(moves(player, 7, 6001), [1 / 3] * 3)
  assert_frequencies(moves(player, 2, 6001), [1 / 2, 1 / 2, 0])
  assert_frequencies(moves(player, 1, 101), [1, 0, 0])


def test_a_player_of_a_mask_plays_each_of_its_actions():
  player = players.uniform_over(lambda state: jnp.array([True, False, True]))
  assert_frequencies(moves(player, 7, 6001), [1 / 2, 0, 1 / 2])


def test_a_move_of_each_ply_takes_its_key():
  player = players.per_ply(
    lambda key, state: jax.random.randint(key, (), 0, state.stones)
  )
  # In one game, so the key of the game cannot be the source.
  assert_frequencies(moves(player, 3, 6001, num_games=1), [1 / 3] * 3)


def test_without_a_possible_action_the_result_is_the_first():
  assert moves(players.random(NIM), 0, 5).tolist() == [0] * 5
  nothing = players.draw(jax.random.key(0), jnp.zeros(3))
  assert nothing == 0 and nothing.dtype == jnp.int32


def test_a_table_is_followed_where_it_is_legal():
  table = jnp.array([0, 1, 0, 2, 9, -1, 0, 0])
  player = players.tabular(NIM, table, lambda state: state.stones)
  assert_frequencies(moves(player, 3, 101), [0, 0, 1])
  # Illegal, above and below the range.
  assert_frequencies(moves(player, 1, 101), [1, 0, 0])
  assert_frequencies(moves(player, 4, 6001), [1 / 3] * 3)
  assert_frequencies(moves(player, 5, 6001), [1 / 3] * 3)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_how_often_a_move_is_random(epsilon):
  player = players.epsilon(NIM, take(2), epsilon)
  slip = epsilon / 3
  # Of the same game: slips are drawn for each move.
  actions = moves(player, 7, 6001, num_games=1)
  assert_frequencies(actions, [slip, 1 - 2 * slip, slip])


def test_slips_tell_nothing_of_the_random_move():
  player = players.epsilon(NIM, players.random(NIM), 0.5)
  assert_frequencies(moves(player, 7, 6001), [1 / 3] * 3)


def test_a_mixture_is_one_player_for_a_whole_game():
  player = players.mixture([take(1), take(2), take(3)], [1.0, 0.0, 3.0])
  by_game = moves(player, 7, 4 * 2001, num_games=2001).reshape(4, 2001)
  assert (by_game == by_game[0]).all()
  assert_frequencies(by_game[0], [1 / 4, 0, 3 / 4])


def test_players_of_a_mixture_have_random_moves():
  """Mixes uniform moves and action 1 evenly: 2/3, 1/6, 1/6."""
  player = players.mixture([take(1), players.random(NIM)], [0.5, 0.5])
  assert_frequencies(moves(player, 7, 6001), [2 / 3, 1 / 6, 1 / 6])


def test_mixtures_nest():
  """The inner choice is independent of the outer one: 1/4, 1/4, 1/2."""
  inner = players.mixture([take(1), take(2)], [0.5, 0.5])
  player = players.mixture([inner, take(3)], [0.5, 0.5])
  by_game = moves(player, 7, 2 * 6001, num_games=6001).reshape(2, 6001)
  assert (by_game[0] == by_game[1]).all()
  assert_frequencies(by_game[0], [1 / 4, 1 / 4, 1 / 2])


def test_epsilon_of_a_mixture_is_the_same_player_for_a_whole_game():
  mixed = players.mixture([take(1), take(3)], [0.5, 0.5])
  player = players.epsilon(NIM, mixed, 0.1)
  by_game = moves(player, 7, 301 * 5, num_games=5).reshape(301, 5)
  for actions in by_game.T:
    rates = np.bincount(actions, minlength=3) / len(actions)
    assert sorted(rates)[-1] > 0.85


def test_shares_can_be_inputs_of_a_program():
  @jax.jit
  def play(keys, shares):
    player = players.mixture([take(1), take(2), take(3)], shares)
    return jax.vmap(player, (0, None))(keys, state(7))

  keys = jax.random.split(jax.random.key(0), 50)
  for number in range(3):
    shares = jnp.zeros(3).at[number].set(2.0)
    assert set(play(players.Keys(keys, keys), shares).tolist()) == {number}


def test_draws_have_the_probabilities_of_their_weights():
  keys = jax.random.split(jax.random.key(1), 8001)
  weights = jnp.array([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
  drawn = np.asarray(jax.jit(jax.vmap(players.draw, (0, None)))(keys, weights))
  assert_frequencies(drawn, [0, 0.1, 0, 0.6, 0.3, 0])


def test_draws_do_not_depend_on_the_batch():
  keys = jax.random.split(jax.random.key(2), 37)
  weights = jax.random.uniform(jax.random.key(3), (37, 11)) ** 4
  drawn = jax.jit(jax.vmap(players.draw))(keys, weights)
  single = [players.draw(*each) for each in zip(keys, weights, strict=True)]
  assert drawn.tolist() == [int(each) for each in single]
  assert len(set(drawn.tolist())) > 5


def test_bad_settings():
  for epsilon in (-0.1, 1.5, float("nan")):
    with pytest.raises(errors.UserError, match="epsilon: must be between 0"):
      players.epsilon(NIM, take(1), epsilon)
  with pytest.raises(
    errors.UserError,
    match="^shares: expected one for each of 2 players, found 1$",
  ):
    players.mixture([take(1), take(2)], [1.0])
  for shares in ([0.5, -0.5], [0.0, 0.0], [float("nan"), 1.0]):
    with pytest.raises(errors.UserError, match="shares: must not be negative"):
      players.mixture([take(1), take(2)], shares)
  with pytest.raises(errors.UserError, match="shares: must not be negative"):
    players.mixture([], [])
