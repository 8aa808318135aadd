"""Tests one agent's view of a game against loops without JAX's control flow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests import conftest
from tests import toy_games
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib

Ending = view_lib.Ending
Stream = streams.Stream


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"):
    yield


def take(number):
  """A player that takes so many stones, or as many as there are."""
  return lambda keys, state: jnp.minimum(number, state.stones) - 1


def mixed(game):
  """A player with choices for a game and choices for a ply."""
  slips = players.epsilon(game, players.random(game), 0.5)
  return players.mixture([players.random(game), take(1), slips], [1, 2, 1])


def views():
  nim, cards = toy_games.Nim(), toy_games.Nim(cards=True)
  three = toy_games.Nim(num_seats=3, cards=True)
  dice = toy_games.Dice()
  each = [players.random(three), take(1), mixed(three)]
  return {
    "puzzle": view_lib.View(game=toy_games.Climb()),
    "race": view_lib.View(game=nim, opponents=players.random(nim)),
    "cards": view_lib.View(game=cards, opponents=mixed(cards)),
    "random cards": view_lib.View(game=cards, opponents=players.random(cards)),
    "three seats": view_lib.View(game=three, opponents=each),
    "one for two seats": view_lib.View(game=three, opponents=mixed(three)),
    "hidden dice": view_lib.View(
      game=dice, opponents=[players.random(dice)] * 2
    ),
  }


VIEWS = views()
each_view = pytest.mark.parametrize(
  "name",
  conftest.slow_but(["puzzle", "cards", "three seats", "hidden dice"], VIEWS),
)
NUM_GAMES = 7


class Programs:
  """The compiled functions of a view, of single games or of batches."""

  def __init__(self, view, batch=jax.vmap):
    self.init = jax.jit(batch(view.init))
    self.step = jax.jit(batch(view.step))
    self.legal = jax.jit(batch(view.legal))


# Tests of one view share its programs: most of their time is compilation.
@functools.cache
def batched(name):
  return Programs(VIEWS[name])


@functools.cache
def single(name):
  return Programs(VIEWS[name], batch=lambda function: function)


fold_in = jax.jit(streams.fold_in, static_argnums=1)
draw = jax.jit(players.draw)


class Reference:
  """A view in plain Python; only single calls of a game are compiled."""

  def __init__(self, view):
    self.view = view
    game = view.game
    self.to_act, self.legal, self.chance, self.step_game = map(
      jax.jit, (game.to_act, game.legal, game.chance, game.step)
    )
    seats = range(game.num_seats)
    opponents = view.opponents
    if callable(opponents):
      opponents = [opponents for _ in seats]
    self.players = [jax.jit(player) for player in opponents]

  def init(self, key, seat):
    first = self.view.game.init(streams.fold_in(key, Stream.GAME_STARTS))
    return (seat, key, *self.advance(first, seat, key, 0))

  def step(self, reference, action):
    seat, key, game_state, plies, ending = reference
    if ending != Ending.ONGOING:
      return reference
    legal = self.legal(game_state).tolist()
    if not (0 <= action < len(legal) and legal[action]):
      return seat, key, game_state, plies, Ending.ILLEGAL
    game_state = self.step_game(game_state, jnp.int32(action))
    return (seat, key, *self.advance(game_state, seat, key, plies + 1))

  def advance(self, game_state, seat, key, plies):
    """Plays chance and opponents: the state, the plies and the ending."""
    while True:
      turn = int(self.to_act(game_state))
      if turn == game_lib.OVER:
        return game_state, plies, Ending.OVER
      if turn == seat:
        return game_state, plies, Ending.ONGOING
      if turn == game_lib.CHANCE:
        chance_key = fold_in(key, Stream.CHANCE_OUTCOMES, plies)
        action = draw(chance_key, self.chance(game_state))
      else:
        keys = players.Keys(
          game=fold_in(key, Stream.PLAYER_GAMES, turn),
          ply=fold_in(key, Stream.PLAYER_MOVES, plies),
        )
        action = self.players[turn](keys, game_state)
        assert self.legal(game_state)[action]
      game_state, plies = self.step_game(game_state, action), plies + 1


def assert_state(state, expected):
  seat, key, game_state, plies, ending = expected
  expected = view_lib.ViewState(
    game=game_state,
    seat=jnp.int32(seat),
    key=jax.random.key_data(key),
    plies=jnp.int32(plies),
    ending=jnp.int8(ending),
  )
  toy_games.assert_equal(state, expected)


def rows(states):
  """Splits a batch of states into NumPy states."""
  states = toy_games.to_numpy(states)
  return [
    jax.tree.map(lambda leaf, n=n: leaf[n], states)
    for n in range(len(states.ending))
  ]


def starts(view):
  """Returns keys and alternating seats."""
  keys = jax.random.split(jax.random.key(0), NUM_GAMES)
  return keys, jnp.arange(NUM_GAMES, dtype=jnp.int32) % view.game.num_seats


def random_actions(legal, rng, illegal=0.0):
  """Draws legal actions, and any others at a rate of `illegal`."""
  legal = np.asarray(legal)
  actions = (legal * (1 - rng.random(legal.shape))).argmax(axis=1)
  others = rng.integers(-2, legal.shape[1] + 2, len(legal))
  is_other = rng.random(len(legal)) < illegal
  return np.where(is_other, others, actions).astype(np.int32)


@each_view
def test_a_batch_of_games_is_the_games_of_a_plain_loop(name):
  view, programs = VIEWS[name], batched(name)
  keys, seats = starts(view)
  states = programs.init(keys, seats)
  reference = Reference(view)
  references = [
    reference.init(*each) for each in zip(keys, seats.tolist(), strict=True)
  ]
  rng = np.random.default_rng(0)
  endings = set()
  for _ in range(view.game.max_plies + 1):
    for state, expected in zip(rows(states), references, strict=True):
      assert_state(state, expected)
    actions = random_actions(programs.legal(states), rng, illegal=0.25)
    references = [
      reference.step(*each)
      for each in zip(references, actions.tolist(), strict=True)
    ]
    states = programs.step(states, actions)
    endings |= set(states.ending.tolist())
  assert endings >= {Ending.OVER, Ending.ILLEGAL}
  assert Ending.ONGOING not in states.ending
  expected = [
    view.game.returns(game_state)[seat]
    for seat, _, game_state, *_ in references
  ]
  returns = jax.vmap(view.returns)(states)
  assert returns.dtype == jnp.float32
  np.testing.assert_array_equal(returns, expected)


@each_view
def test_a_row_depends_on_its_own_inputs(name):
  view, programs, alone = VIEWS[name], batched(name), single(name)
  keys, seats = starts(view)
  rng = np.random.default_rng(1)
  states = programs.init(keys, seats)
  singles = [alone.init(*each) for each in zip(keys, seats, strict=True)]
  # Other rows beside each row, and the same row twice.
  order = np.array([5, 2, 6, 5, 0, 0, 3])
  others = programs.init(keys[order], seats[order])
  while Ending.ONGOING in states.ending:
    actions = random_actions(programs.legal(states), rng)
    states = programs.step(states, actions)
    others = programs.step(others, actions[order])
    singles = [alone.step(*each) for each in zip(singles, actions, strict=True)]
    for state, same in zip(rows(states), singles, strict=True):
      toy_games.assert_equal(state, same)
    for n, state in zip(order, rows(others), strict=True):
      toy_games.assert_equal(state, rows(states)[n])


@each_view
def test_an_illegal_action_ends_the_game_and_changes_nothing_else(name):
  view, programs = VIEWS[name], single(name)
  num_actions = view.game.num_actions
  state = programs.init(jax.random.key(3), 0)
  cases = [(state, n) for n in (-1, num_actions, -(2**31), 2**31 - 1)]
  # From 4 meters or with 2 stones, the last action does not fit.
  for field, value in (("height", 4), ("stones", 2)):
    if hasattr(state.game, field):
      game_state = dataclasses.replace(state.game, **{field: jnp.int32(value)})
      cases.append(
        (dataclasses.replace(state, game=game_state), num_actions - 1)
      )
  for before, action in cases:
    after = programs.step(before, np.int32(action))
    expected = dataclasses.replace(before, ending=jnp.int8(Ending.ILLEGAL))
    toy_games.assert_equal(after, expected)
    assert view.returns(after) == 0
    for ignored in range(-1, num_actions + 1):
      toy_games.assert_equal(programs.step(after, np.int32(ignored)), after)


@each_view
def test_a_game_that_is_over_ignores_further_steps(name):
  view, programs = VIEWS[name], batched(name)
  states = programs.init(*starts(view))
  rng = np.random.default_rng(2)
  game_legal = jax.jit(jax.vmap(view.game.legal))
  while Ending.ONGOING in states.ending:
    legal = programs.legal(states)
    np.testing.assert_array_equal(legal, game_legal(states.game))
    np.testing.assert_array_equal(
      legal.any(axis=1), states.ending == Ending.ONGOING
    )
    states = programs.step(states, random_actions(legal, rng))
  assert states.ending.tolist() == [Ending.OVER] * NUM_GAMES
  for action in range(-1, view.game.num_actions + 1):
    after = programs.step(states, np.full(NUM_GAMES, action, np.int32))
    toy_games.assert_equal(after, states)
  assert not programs.legal(states).any()


def test_an_illegal_end_has_no_legal_actions():
  view = VIEWS["race"]
  state = view.step(view.init(jax.random.key(0), 0), 7)
  assert view.game.legal(state.game).all()
  assert view.legal(state).tolist() == [False] * 3


def test_a_game_by_hand():
  """7 stones: the agent takes 2, the opponent 3; the agent takes 1, then 1."""
  nim = toy_games.Nim()
  view = view_lib.View(game=nim, opponents=take(3))
  state = view.init(jax.random.key(0), 0)
  assert (int(state.game.stones), int(state.plies)) == (7, 0)
  state = view.step(state, 1)
  assert (int(state.game.stones), int(state.plies)) == (2, 2)
  assert view.legal(state).tolist() == [True, True, False]
  lost = view.step(state, 0)
  assert (int(lost.plies), int(lost.ending)) == (4, Ending.OVER)
  assert view.returns(lost) == -1
  won = view.step(state, 1)
  assert (int(won.plies), int(won.ending)) == (3, Ending.OVER)
  assert view.returns(won) == 1
  # As the second seat, the agent waits for the opponent's first move.
  second = view.init(jax.random.key(0), 1)
  assert (int(second.game.stones), int(second.plies)) == (4, 1)


def test_each_seat_has_its_own_opponent():
  nim = toy_games.Nim(num_seats=3)
  view = view_lib.View(game=nim, opponents=(take(1), take(2), take(3)))
  stones = [
    int(view.init(jax.random.key(0), seat).game.stones) for seat in range(3)
  ]
  assert stones == [7, 7 - 1, 7 - 1 - 2]
  state = view.step(view.init(jax.random.key(0), 0), 0)
  assert int(state.game.stones) == 7 - 1 - 2 - 3
  state = view.step(view.init(jax.random.key(0), 1), 0)
  assert int(state.game.stones) == 7 - 1 - 1 - 3 - 1


def test_games_with_equal_keys_meet_the_same_chance_and_opponents():
  programs = batched("random cards")
  keys = jax.random.split(jax.random.key(0), 40)
  first, second = jnp.zeros(40, jnp.int32), jnp.ones(40, jnp.int32)
  states = programs.init(keys, first)
  toy_games.assert_equal(states, programs.init(keys, first))
  after = programs.step(states, first)
  toy_games.assert_equal(after, programs.step(states, first))
  # The cards do not depend on the seat; cards and moves depend on the key.
  other = programs.init(keys, second)
  np.testing.assert_array_equal(states.game.cards, other.game.cards)
  assert len(np.unique(states.game.cards, axis=0)) == 4
  assert set(other.game.stones.tolist()) == {4, 5, 6}


def test_a_reply_is_the_same_whichever_seats_are_opponents():
  """Seat 1 plays at ply 1 after seat 0 took 1, as the agent or an opponent."""
  nim = toy_games.Nim(num_seats=3)
  each = (take(1), players.random(nim), take(1))
  programs = Programs(view_lib.View(game=nim, opponents=each))
  keys = jax.random.split(jax.random.key(0), 21)
  zeros = jnp.zeros(21, jnp.int32)
  after = programs.step(programs.init(keys, zeros), zeros)
  third = programs.init(keys, zeros + 2)
  # Seat 2 has taken 1 more in the former games.
  np.testing.assert_array_equal(after.game.stones, third.game.stones - 1)
  assert set(third.game.stones.tolist()) == {3, 4, 5}


def assert_independent(table):
  """Asserts that the rows of a table of counts differ only by chance."""
  expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
  degrees_lost = sum(table.shape) - 2
  result = stats.chisquare(table.ravel(), expected.ravel(), degrees_lost)
  assert result.pvalue > 1e-4


def test_outcomes_of_chance_have_their_probabilities():
  programs = batched("puzzle")
  keys = jax.random.split(jax.random.key(0), 6001)
  zeros = jnp.zeros(len(keys), jnp.int32)
  states = programs.step(programs.init(keys, zeros), zeros + 1)
  # From 2 meters the wind blows to 2, 1 or 0.
  counts = np.bincount(states.game.height)
  expected = np.array([0.2, 0.3, 0.5]) * len(keys)
  assert stats.chisquare(counts, expected).pvalue > 1e-4
  # Winds of two plies are independent: from 2 meters again, to 4, 3 or 2.
  level = dataclasses.replace(states.game, height=zeros + 2)
  again = programs.step(dataclasses.replace(states, game=level), zeros + 1)
  table = np.zeros((3, 3))
  np.add.at(table, (states.game.height, again.game.height - 2), 1)
  assert_independent(table)


def test_chance_and_opponents_are_independent():
  """An opponent's random first move tells nothing of the cards."""
  keys = jax.random.split(jax.random.key(5), 4001)
  seats = jnp.ones(len(keys), jnp.int32)
  game = batched("random cards").init(keys, seats).game
  table = np.zeros((4, 3))
  np.add.at(
    table, (game.cards[:, 0] * 2 + game.cards[:, 1], game.stones - 4), 1
  )
  assert (table > 0).all()
  assert_independent(table)


def test_a_mixture_draws_one_player_for_each_seat_of_a_game():
  nim = toy_games.Nim(num_seats=3)
  mixture = players.mixture([take(1), take(2)], [0.5, 0.5])
  programs = Programs(view_lib.View(game=nim, opponents=mixture))
  keys = jax.random.split(jax.random.key(0), 401)
  seats = jnp.zeros(len(keys), jnp.int32)
  states = programs.step(programs.init(keys, seats), seats)
  # After the agent took 1 of 7, the two opponents took 1 or 2 each.
  takes = 6 - states.game.stones
  counts = np.bincount(takes, minlength=5)[2:]
  expected = np.array([1, 2, 1]) / 4 * len(keys)
  assert stats.chisquare(counts, expected).pvalue > 1e-4
  # Where 2 stones or more are left, both are drawn as before.
  again = programs.step(states, seats)
  left = states.game.stones - 1 - takes
  enough = np.asarray(left >= 0)
  assert enough.sum() > 50
  np.testing.assert_array_equal(
    again.game.stones[enough], np.asarray(left)[enough]
  )


class Endless(toy_games.Nim):
  """Nobody can take the last stone."""

  def step(self, state, action):
    after = super().step(state, action)
    return dataclasses.replace(after, stones=jnp.maximum(after.stones, 1))


@pytest.mark.parametrize("seat", [0, 1])
def test_a_game_without_an_end_is_cut(seat):
  nim = Endless()
  view = view_lib.View(game=nim, opponents=players.random(nim))
  step = jax.jit(view.step)
  state = jax.jit(view.init)(jax.random.key(0), seat)
  for _ in range(nim.max_plies):
    state = step(state, 0)
  assert (int(state.plies), int(state.ending)) == (7, Ending.OVER)
  assert not view.legal(state).any()
  toy_games.assert_equal(step(state, 0), state)


class Solitary(toy_games.Climb):
  """A puzzle without chance."""

  def chance(self, state):
    del state
    return jnp.zeros(0, jnp.float32)

  def step(self, state, action):
    after = super().step(state, action)
    return dataclasses.replace(after, is_windy=jnp.bool_(False))


def test_a_puzzle_without_chance_needs_no_opponent():
  view = view_lib.View(game=Solitary())
  state = view.init(jax.random.key(0), 0)
  for action, height in ((1, 2), (1, 4), (0, 5)):
    assert int(state.ending) == Ending.ONGOING
    state = jax.jit(view.step)(state, action)
    assert int(state.game.height) == height
  assert (int(state.ending), float(view.returns(state))) == (Ending.OVER, 1.0)


def test_the_number_of_opponents_is_the_number_of_seats():
  for seats, number in ((2, 0), (2, 1), (2, 3), (3, 2), (1, 2)):
    game = toy_games.Nim(num_seats=seats)
    with pytest.raises(
      errors.UserError,
      match=f"^opponents: expected one player, or {seats}, one for each seat,"
      f" found {number}$",
    ):
      view_lib.View(game=game, opponents=[take(1)] * number)
  view_lib.View(game=toy_games.Climb(), opponents=[take(1)])


def test_seats_that_are_not_in_the_game():
  for seat in (-1, 2):
    with pytest.raises(
      errors.UserError, match=f"seat: .* 0 to 1, found {seat}"
    ):
      VIEWS["race"].init(jax.random.key(0), seat)
