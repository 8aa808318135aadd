"""Small games with chance, hidden cards and hidden randomness, for tests."""

from collections.abc import Sequence
import re
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt import testing
from tunix_ttt.games import game as game_lib


@struct.dataclass
class ClimbState:
  height: jax.Array
  turns: jax.Array
  is_windy: jax.Array


class Climb:
  """A puzzle: climb 1 or 2 meters, then the wind blows 0, 1 or 2 meters down.

  At 5 meters the climb is won; after 4 turns it is lost. From 4 meters only 1
  meter is legal.
  """

  num_seats = 1
  num_actions = 2
  max_plies = 8

  def init(self, key):
    del key
    return ClimbState(jnp.int32(0), jnp.int32(0), jnp.bool_(False))

  def to_act(self, state):
    is_over = (state.height == 5) | ((state.turns == 4) & ~state.is_windy)
    turn = jnp.where(state.is_windy, game_lib.CHANCE, 0)
    return jnp.where(is_over, game_lib.OVER, turn).astype(jnp.int32)

  def legal(self, state):
    fits = state.height + jnp.arange(1, 3) <= 5
    return fits & (self.to_act(state) == 0)

  def chance(self, state):
    del state
    return jnp.array([0.5, 0.0, 0.3, 0.2], jnp.float32)

  def step(self, state, action):
    climbed = ClimbState(
      state.height + action + 1, state.turns + 1, state.height + action < 4
    )
    # Outcome 1 never occurs; the others blow 0, 1 and 2 meters.
    loss = jnp.array([0, 99, 1, 2], jnp.int32)[action]
    blown = ClimbState(
      jnp.maximum(state.height - loss, 0), state.turns, jnp.bool_(False)
    )
    is_over = self.to_act(state) == game_lib.OVER
    return jax.tree.map(
      lambda old, up, down: jnp.where(
        is_over, old, jnp.where(state.is_windy, down, up)
      ),
      state,
      climbed,
      blown,
    )

  def returns(self, state):
    return (state.height == 5).astype(jnp.float32)[None]


@struct.dataclass
class NimState:
  stones: jax.Array
  plies: jax.Array
  cards: jax.Array
  dealt: jax.Array


class Nim:
  """Seats take 1 to 3 of 7 stones in turn; who takes the last one wins 1.

  With `cards`, chance first deals each seat one of two cards, which only the
  seat sees, and the winner's card 1 doubles its win.
  """

  num_actions = 3

  def __init__(self, *, num_seats: int = 2, cards: bool = False):
    self.num_seats = num_seats
    self.cards = cards
    self.max_plies = 7 + (num_seats if cards else 0)

  def init(self, key) -> Any:
    del key
    return NimState(
      stones=jnp.int32(7),
      plies=jnp.int32(0),
      cards=jnp.zeros(self.num_seats, jnp.int32),
      dealt=jnp.int32(0 if self.cards else self.num_seats),
    )

  def to_act(self, state):
    turn = jnp.where(
      state.dealt < self.num_seats,
      game_lib.CHANCE,
      state.plies % self.num_seats,
    )
    return jnp.where(state.stones == 0, game_lib.OVER, turn).astype(jnp.int32)

  def legal(self, state):
    return (jnp.arange(1, 4) <= state.stones) & (self.to_act(state) >= 0)

  def chance(self, state):
    del state
    return jnp.array([0.25, 0.75] if self.cards else [], jnp.float32)

  def step(self, state, action) -> Any:
    turn = self.to_act(state)
    is_deal = turn == game_lib.CHANCE
    is_dealt = jnp.arange(self.num_seats) == state.dealt
    return NimState(
      stones=state.stones - jnp.where(turn >= 0, action + 1, 0),
      plies=state.plies + (turn >= 0),
      cards=jnp.where(is_deal & is_dealt, action, state.cards),
      dealt=state.dealt + is_deal,
    )

  def returns(self, state):
    winner = (state.plies - 1) % self.num_seats
    win = 1.0 + state.cards[winner]
    returns = jnp.where(jnp.arange(self.num_seats) == winner, win, -1.0)
    return jnp.where(state.stones == 0, returns, 0.0).astype(jnp.float32)

  def observe(self, state, seat):
    is_seen = state.dealt > seat
    return {
      "stones": state.stones,
      "turn": self.to_act(state),
      "card": jnp.where(is_seen, state.cards[seat], -1),
    }


class NimText:
  """Shows the stones and the seat's card, if it has one."""

  rules: str = "Take 1 to 3 stones. Answer with a number. The last stone wins."
  seats: Sequence[str] = ("first", "second")
  segments: Sequence[Sequence[str]] = (
    tuple(f"Stones: {n}.\n" for n in range(8)),
    ("Your card is low.\n", "Your card is high.\n"),
  )
  actions: Sequence[Sequence[str]] = (
    ("1", "one"),
    ("2", "two"),
    ("3", "three"),
  )

  def __init__(self, game):
    self.game = game

  def show(self, state, seat):
    seen = self.game.observe(state, seat)
    card = seen["card"] if self.game.cards else jnp.int32(-1)
    return jnp.stack([seen["stones"], card])


@struct.dataclass
class DiceState:
  key: jax.Array
  total: jax.Array
  plies: jax.Array


class Dice:
  """A race of two dice whose randomness hides in the state.

  Seats roll in turn (action 0) or end the game (action 1). The seat that rolls
  a total above 9 loses.
  """

  num_seats = 2
  num_actions = 2
  max_plies = 10

  def init(self, key):
    return DiceState(key, jnp.int32(0), jnp.int32(0))

  def to_act(self, state):
    is_over = (state.total > 9) | (state.plies == 10) | (state.total < 0)
    return jnp.where(is_over, game_lib.OVER, state.plies % 2).astype(jnp.int32)

  def legal(self, state):
    return jnp.full(2, self.to_act(state) >= 0)

  def chance(self, state):
    del state
    return jnp.zeros(0, jnp.float32)

  def step(self, state, action):
    key, roll_key = jax.random.split(state.key)
    roll = jax.random.randint(roll_key, (), 1, 7)
    rolled = DiceState(
      key, jnp.where(action == 0, state.total + roll, -1), state.plies + 1
    )
    is_over = self.to_act(state) == game_lib.OVER
    return jax.tree.map(
      lambda old, new: jnp.where(is_over, old, new), state, rolled
    )

  def returns(self, state):
    loser = (state.plies - 1) % 2
    returns = jnp.where(jnp.arange(2) == loser, -1.0, 1.0)
    return jnp.where(state.total > 9, returns, 0.0).astype(jnp.float32)


def to_numpy(tree):
  """Copies a pytree to NumPy arrays, random keys as their data."""

  def copy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)

  return jax.tree.map(copy, tree)


def assert_equal(actual, expected):
  """Asserts that two pytrees have equal structures, dtypes and values."""

  def assert_leaf(path, a, b):
    assert a.dtype == b.dtype, path
    np.testing.assert_array_equal(a, b, str(path))

  jax.tree_util.tree_map_with_path(
    assert_leaf, to_numpy(actual), to_numpy(expected)
  )


def refuse(message, game, text=None):
  """Asserts the whole message of a check; `…` stands for anything in it."""
  with pytest.raises(AssertionError) as caught:
    testing.check_game(game, text, num_games=13)
  expected = f"the game breaks a rule: {message}"
  pattern = ".*".join(map(re.escape, expected.split("…")))
  assert re.fullmatch(pattern, str(caught.value)), caught.value
