"""Tests of `testing.check_game`: good games pass, each bad one has a message."""

import dataclasses

from flax import struct
import jax
from jax import core
import jax.numpy as jnp
import numpy as np
import pytest

from tests import toy_games
from tunix_ttt import testing
from tunix_ttt.games import game as game_lib

CARDS = toy_games.Nim(cards=True)


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"):
    yield


@pytest.mark.parametrize(
  ("game", "text"),
  [
    (toy_games.Climb(), None),
    (toy_games.Nim(), toy_games.NimText(toy_games.Nim())),
    (CARDS, toy_games.NimText(CARDS)),
    (toy_games.Nim(num_seats=3), None),
    (toy_games.Dice(), None),
  ],
  ids=["puzzle", "race", "cards", "three seats", "hidden dice"],
)
def test_conformance(game, text):
  testing.check_game(game, text)


# States.


class Board:
  def __init__(self, stones):
    self.stones = stones


def test_a_state_that_is_not_a_pytree():
  class Plain(toy_games.Nim):
    def init(self, key):
      return Board(jnp.int32(7))

  toy_games.refuse(
    "init: a state must be a frozen pytree of arrays, such as a"
    " flax.struct.dataclass; one of its leaves has the type Board",
    Plain(),
  )


def test_a_leaf_that_is_not_an_array():
  class Numbers(toy_games.Nim):
    def init(self, key):
      return dataclasses.replace(super().init(key), stones=7)

  toy_games.refuse("init: …; one of its leaves has the type int", Numbers())


def test_shapes_that_change():
  class Growing(toy_games.Nim):
    def step(self, state, action):
      after = super().step(state, action)
      return dataclasses.replace(after, stones=after.stones[None])

  toy_games.refuse(
    "step: states must keep their structure, shapes and dtypes; state.stones was"
    " int32[], then int32[1]",
    Growing(),
  )


def test_dtypes_that_change():
  class Floating(toy_games.Nim):
    def step(self, state, action):
      after = super().step(state, action)
      return dataclasses.replace(after, plies=after.plies * 1.0)

  toy_games.refuse(
    "step: states must keep…; state.plies was int32[], then float32[]",
    Floating(),
  )


def test_a_structure_that_changes():
  class Forgetful(toy_games.Nim):
    def step(self, state, action):
      return dataclasses.replace(super().step(state, action), cards=None)

  toy_games.refuse(
    "step: states must keep…; state.cards was int32[2], then None", Forgetful()
  )


@struct.dataclass
class Labeled:
  nim: toy_games.NimState
  label: str = struct.field(pytree_node=False)


def test_a_static_field_that_changes():
  class Labels(toy_games.Nim):
    def init(self, key):
      return Labeled(super().init(key), "first")

    def step(self, state, action):
      return Labeled(super().step(state.nim, action), "later")

    def to_act(self, state):
      return super().to_act(state.nim if isinstance(state, Labeled) else state)

  toy_games.refuse(
    "step: states must keep…; the structure was …first…, then …later…", Labels()
  )


# Types and compilation.


@pytest.mark.parametrize(
  ("method", "result", "expected"),
  [
    ("to_act", jnp.float32(0), "expected int32[], found float32[]"),
    ("legal", jnp.ones(3), "expected bool[3], found float32[3]"),
    ("legal", jnp.ones(4, bool), "expected bool[3], found bool[4]"),
    ("chance", jnp.float32(1), "expected float32[C], found float32[]"),
    ("chance", jnp.ones(2, int), "expected float32[2], found int32[2]"),
    ("returns", jnp.float32(1), "expected float32[2], found float32[]"),
  ],
)
def test_results_of_other_types(method, result, expected):
  bad = type("Bad", (toy_games.Nim,), {method: lambda self, state: result})
  toy_games.refuse(f"{method}: {expected}", bad())


def test_a_method_that_does_not_compile():
  class Branching(toy_games.Nim):
    def returns(self, state):
      if state.stones == 0:
        return super().returns(state)
      return jnp.zeros(2)

  toy_games.refuse(
    "returns: JAX cannot compile it (TracerBoolConversionError: …); write it with"
    " jax.numpy, without if and for on its arguments",
    Branching(),
  )


# Rules.


@pytest.mark.parametrize("turn", [2, -3])
def test_a_seat_that_is_not_in_the_game(turn):
  class Stranger(toy_games.Nim):
    def to_act(self, state):
      usual = super().to_act(state)
      return jnp.where(state.stones < 4, turn, usual).astype(jnp.int32)

  toy_games.refuse(
    f"to_act: must be a seat below 2, CHANCE (-1) or OVER (-2), found {turn}",
    Stranger(),
  )


def test_a_seat_without_a_legal_action():
  class Stuck(toy_games.Nim):
    def legal(self, state):
      return super().legal(state) & (state.stones != 1)

  toy_games.refuse(
    "legal: an action must be legal while a seat is to act, found [False, False,"
    " False]",
    Stuck(),
  )


def test_actions_that_are_legal_at_chance_nodes():
  class Eager(toy_games.Nim):
    def legal(self, state):
      return jnp.arange(1, 4) <= state.stones

  toy_games.refuse(
    "legal: no action may be legal at a chance node or after the end, found"
    " [True, True, True]",
    Eager(cards=True),
  )


def test_actions_that_are_legal_after_the_end():
  class Late(toy_games.Nim):
    def legal(self, state):
      return super().legal(state) | (state.stones == 0)

  toy_games.refuse("legal: no action may be legal at a chance node or…", Late())


@pytest.mark.parametrize("chance", [[0.5, 0.25], [-0.5, 1.5], [np.nan, 1.0]])
def test_probabilities_that_are_none(chance):
  class Unfair(toy_games.Nim):
    def chance(self, state):
      return jnp.array(chance, jnp.float32)

  testing.check_game(Unfair())  # It has no chance nodes.
  toy_games.refuse(
    "chance: probabilities must not be negative and must add up to 1, found"
    f" {chance}",
    Unfair(cards=True),
  )


def test_chance_nodes_without_outcomes():
  class Nothing(toy_games.Nim):
    def chance(self, state):
      return jnp.zeros(0, jnp.float32)

  toy_games.refuse("chance: probabilities must…, found []", Nothing(cards=True))


def test_returns_before_the_end():
  class Shaped(toy_games.Nim):
    def returns(self, state):
      few = jnp.array([0.5, -0.5])
      return jnp.where(state.stones == 2, few, super().returns(state))

  toy_games.refuse(
    "returns: must be 0 before the end, found [0.5, -0.5]", Shaped()
  )


def test_returns_that_are_not_finite():
  class Infinite(toy_games.Nim):
    def returns(self, state):
      is_quick = (state.stones == 0) & (state.plies == 3)
      return jnp.where(is_quick, jnp.inf, super().returns(state))

  toy_games.refuse("returns: must be finite, found [inf, inf]", Infinite())


def test_an_endless_game():
  class Endless(toy_games.Nim):
    def step(self, state, action):
      after = super().step(state, action)
      return dataclasses.replace(after, stones=jnp.maximum(after.stones, 1))

  toy_games.refuse(
    "max_plies: 13 of 13 games did not end within 7 steps", Endless()
  )


def test_a_bound_that_some_games_exceed():
  class Short(toy_games.Nim):
    def __init__(self):
      super().__init__()
      self.max_plies = 4

  toy_games.refuse(
    "max_plies: … of 13 games did not end within 4 steps", Short()
  )


def test_a_finished_game_that_counts_on():
  class Counting(toy_games.Nim):
    def step(self, state, action):
      return dataclasses.replace(
        super().step(state, action), plies=state.plies + 1
      )

  toy_games.refuse(
    "step: must leave a finished game as it is for every action, found …",
    Counting(),
  )


def test_a_finished_game_that_one_action_changes():
  class Reopened(toy_games.Nim):
    def step(self, state, action):
      after = super().step(state, action)
      is_changed = (state.stones == 0) & (state.plies == 7) & (action == 2)
      return dataclasses.replace(after, stones=after.stones + is_changed)

    def legal(self, state):
      return super().legal(state) & (jnp.arange(3) == 0)

  toy_games.refuse(
    "step: must leave a finished game as it is for every action, found 2",
    Reopened(),
  )


def test_minus_zero_is_not_zero():
  @struct.dataclass
  class Scored:
    nim: toy_games.NimState
    score: jax.Array

  class Flipping:
    num_seats, num_actions, max_plies = 2, 3, 7
    nim = toy_games.Nim()

    def init(self, key):
      return Scored(self.nim.init(key), jnp.float32(0))

    def step(self, state, action):
      over = self.nim.to_act(state.nim) == game_lib.OVER
      score = jnp.where(over, -state.score, state.score)
      return Scored(self.nim.step(state.nim, action), score)

    def __getattr__(self, name):
      return lambda state: getattr(self.nim, name)(state.nim)

    observe = None

  toy_games.refuse("step: must leave a finished game as it is…", Flipping())


# Purity.


def test_a_step_that_remembers_its_calls():
  calls = []

  class Impure(toy_games.Nim):
    def step(self, state, action):
      calls.append(action)
      after = super().step(state, action)
      is_odd = len(calls) % 2
      return dataclasses.replace(
        after, cards=after.cards + is_odd * (state.stones > 0)
      )

  toy_games.refuse("step: equal inputs must give equal outputs", Impure())


def test_a_step_that_changes_its_input():
  class InPlace(toy_games.Nim):
    def init(self, key):
      state = super().init(key)
      return dataclasses.asdict(state)

    def step(self, state, action):
      after = super().step(toy_games.NimState(**state), action)
      state.update(dataclasses.asdict(after))
      return state

    def __getattribute__(self, name):
      method = super().__getattribute__(name)
      if name in ("to_act", "legal", "returns", "chance", "observe"):
        return lambda state, *seat: method(
          toy_games.NimState(**state) if isinstance(state, dict) else state,
          *seat,
        )
      return method

  toy_games.refuse("step: must not change its input", InPlace())


def test_a_step_that_depends_on_compilation():
  class Tracing(toy_games.Nim):
    def step(self, state, action):
      after = super().step(state, action)
      is_traced = isinstance(action, core.Tracer)
      return dataclasses.replace(after, cards=after.cards + (not is_traced))

  toy_games.refuse(
    "step: its result depends on batching or compilation", Tracing()
  )
