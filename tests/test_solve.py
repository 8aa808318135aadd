"""Enumeration and exact solution of small games drawn as tables."""

import dataclasses
import functools
import itertools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.games import state_graph

CHANCE, OVER = game_lib.CHANCE, game_lib.OVER
ints = functools.partial(np.array, dtype=np.int32)
floats = functools.partial(np.array, dtype=np.float32)


@struct.dataclass
class Node:
  """A node's number, and bytes that no state tells apart by one hash."""

  number: jax.Array
  label: jax.Array


class Table:
  """A game whose nodes are numbers; a row is (to_act, steps or returns)."""

  def __init__(self, *rows, seats=2, odds=(), max_plies=9):
    self.num_seats, self.max_plies = seats, max_plies
    steps = [r for to_act, *r in rows if to_act >= 0]
    self.num_actions = max(map(len, steps))
    self.nodes = [to_act for to_act, *_ in rows]
    width = max(self.num_actions, len(odds))
    self.steps = np.full((len(rows), width), -1)
    self.paid = np.zeros((len(rows), seats), np.float32)
    for n, (to_act, *values) in enumerate(rows):
      if to_act == OVER:
        self.paid[n] = values
      else:
        self.steps[n, : len(values)] = values
    self.odds = np.array(odds, np.float32)

  def init(self, key):
    del key
    return self.state(0)

  def state(self, number):
    number = jnp.asarray(number, jnp.int16)
    return Node(number=number, label=jnp.stack([number % 3 == 0, number > 3]))

  def to_act(self, state):
    return jnp.array(self.nodes)[state.number]

  def legal(self, state):
    steps = jnp.array(self.steps)[state.number, : self.num_actions]
    return (steps >= 0) & (self.to_act(state) >= 0)

  def chance(self, state):
    return jnp.asarray(self.odds)

  def step(self, state, action):
    return self.state(jnp.array(self.steps)[state.number, action])

  def returns(self, state):
    return jnp.array(self.paid)[state.number]


#          0: seat 0
#    1: seat 1        2: chance
#  3 over  4 over   4 (1/4)  5 (3/4)  6 (never)
MIXED = Table(
  (0, 1, 2),
  (1, 3, 4),
  (CHANCE, 4, 5, 6),
  (OVER, 3, 1),
  (OVER, 0, 2),
  (OVER, -1, 6),
  (OVER, 9, 9),
  odds=(0.25, 0.75, 0),
)


def host(tree: Any) -> Any:
  return jax.tree.map(np.asarray, tree)


def assert_trees_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_states_are_numbered_breadth_first():
  graph = host(solve.enumerate_states(MIXED))
  assert_trees_equal(
    graph,
    dataclasses.replace(
      graph,
      states=host(jax.vmap(MIXED.state)(jnp.arange(6))),
      to_act=ints([0, 1, CHANCE, OVER, OVER, OVER]),
      children=ints([[1, 2], [3, 4]] + [[-1, -1]] * 4),
      outcomes=ints([[-1] * 3] * 2 + [[4, 5, -1]] + [[-1] * 3] * 3),
      probabilities=floats([[0] * 3] * 2 + [[0.25, 0.75, 0]] + [[0] * 3] * 3),
      returns=MIXED.paid[:6],
      levels=ints([0, 1, 3, 6]),
    ),
  )
  assert graph.states.number.dtype == np.int16


def test_each_seat_maximizes_its_own_return():
  solution = host(solve.solve(MIXED))
  ended = [[3, 1], [0, 2], [-1, 6]]
  inf = np.inf
  expected = dataclasses.replace(
    solution,
    graph=host(solve.enumerate_states(MIXED)),
    # Seat 1 prefers 4; chance pays seat 0 3/4 of -1.
    values=floats([[0, 2], [0, 2], [-0.75, 5], *ended]),
    action_values=floats([[0, -0.75], [1, 2]] + [[-inf, -inf]] * 4),
    optimal=np.array([[True, False], [False, True]] + [[False, False]] * 4),
  )
  assert_trees_equal(solution, expected)


def test_near_ties_are_optimal_and_the_first_action_is_played():
  game = Table(
    (1, 1, 2, 3, 4),
    (OVER, 7, 1 - 9e-7),
    (OVER, 5, 1),
    (OVER, 6, 1),
    (OVER, 8, 1 - 2e-6),
  )
  solution = solve.solve(game)
  assert solution.optimal[0].tolist() == [True, True, True, False]
  assert solution.values[0].tolist() == [5, 1]


def test_lookups_run_on_the_device():
  solution = solve.solve(MIXED)
  numbers = jnp.arange(7)
  lookup = jax.jit(jax.vmap(lambda s, n: s.index(MIXED.state(n)), (None, 0)))
  # Chance never draws state 6.
  assert lookup(solution, numbers).tolist() == [0, 1, 2, 3, 4, 5, -1]
  best = jax.jit(jax.vmap(lambda n: solution.best(MIXED.state(n))))(numbers)
  assert best.tolist() == [[True, False], [False, True]] + [[False, False]] * 5
  regret = jax.vmap(jax.vmap(solution.regret, (None, 0)), (0, None))
  np.testing.assert_array_equal(
    regret(jax.vmap(MIXED.state)(numbers), jnp.arange(2)),
    [[0, 0.75], [1, 0]] + [[np.nan] * 2] * 5,
  )
  other = dataclasses.replace(MIXED.state(1), label=jnp.array([True, False]))
  assert int(solution.index(other)) == -1


def test_illegal_actions_have_infinite_regret():
  game = Table((0, 1, -1, 2), (OVER, 1, -1), (OVER, 0.5, -0.5))
  solution = solve.solve(game)
  state = game.state(0)
  regrets = [float(solution.regret(state, action)) for action in range(3)]
  assert regrets == [0, np.inf, 0.5]


def test_states_out_of_reach_have_no_best_action():
  # A seat acts in the last state, 2; no step leads to 3.
  game = Table((0, 1, 2), (OVER, 1, -1), (1, 0), (OVER, 0, 0))
  solution = solve.solve(game)
  assert solution.best(game.state(2)).tolist() == [True, False]
  assert float(solution.regret(game.state(2), 0)) == 0
  assert int(solution.index(game.state(3))) == -1
  assert not solution.best(game.state(3)).any()
  assert np.isnan(solution.regret(game.state(3), 0))


class Counter:
  """One seat adds 1 or 2 to a number until it is `last` or more."""

  num_seats, num_actions = 1, 2

  def __init__(self, last: int):
    self.last = self.max_plies = last

  def init(self, key) -> Any:
    del key
    return (jnp.int32(0), jnp.float32(0))

  def to_act(self, state):
    return jnp.where(state[0] >= self.last, OVER, 0)

  def legal(self, state):
    return jnp.full(2, state[0] < self.last)

  def chance(self, state):
    return jnp.zeros(0)

  def step(self, state, action):
    number = state[0] + action + 1
    return (number, -number.astype(jnp.float32))

  def returns(self, state):
    return jnp.where(state[0] >= self.last, state[0] / 8, 0)[None]


def test_a_state_at_several_depths_is_one_state(monkeypatch):
  # More than two chunks a level, the last of them partial.
  monkeypatch.setattr(state_graph, "_CHUNK", 3)
  game = Counter(41)
  solution = host(solve.solve(game))
  numbers, negatives = solution.states
  assert sorted(numbers) == [*range(43)]
  np.testing.assert_array_equal(negatives, -numbers.astype(np.float32))
  index = jax.vmap(solve.solve(game).index)((numbers, negatives))
  assert index.tolist() == [*range(43)]
  # From 39 the choice is between 40, which can reach 42, and 41.
  expected = np.where(numbers == 41, 41 / 8, 42 / 8)
  np.testing.assert_array_equal(solution.values[:, 0], expected)


def test_levels_of_many_chunks(monkeypatch):
  monkeypatch.setattr(state_graph, "_CHUNK", 5)

  class Words(Counter):
    """One seat writes words of `last` letters, of three."""

    num_actions = 3

    def init(self, key):
      del key
      return jnp.full(self.last, -1, jnp.int8)

    def to_act(self, state):
      return jnp.where(state[-1] >= 0, OVER, 0)

    def legal(self, state):
      return jnp.full(3, state[-1] < 0)

    def step(self, state, action):
      return state.at[(state >= 0).sum()].set(action.astype(jnp.int8))

    def returns(self, state):
      return jnp.where(state[-1] >= 0, state[::2].sum(), 0.0)[None]

  solution = host(solve.solve(Words(4)))
  assert solution.graph.levels.tolist() == [0, 1, 4, 13, 40, 121]
  words = [
    [*word, *[-1] * (4 - n)]
    for n in range(5)
    for word in itertools.product(range(3), repeat=n)
  ]
  np.testing.assert_array_equal(solution.states, words)
  expected = [
    sum(letter if letter >= 0 else 2 for letter in word[::2]) for word in words
  ]
  np.testing.assert_array_equal(solution.values[:, 0], expected)


def test_states_with_equal_hashes_are_told_apart(monkeypatch):
  strong = state_graph._fingerprint

  def weak(state, salt):
    # The first hash has two bits; the first two salts also spoil the second.
    first, second = strong(state, salt)
    return jnp.stack([first % 4, jnp.where(salt < 2, second % 4, second)])

  monkeypatch.setattr(state_graph, "_fingerprint", weak)
  jax.clear_caches()
  graph = solve.enumerate_states(Counter(23))
  assert int(graph.salt) == 2 and graph.num_candidates >= 25 / 4
  assert jax.vmap(graph.index)(graph.states).tolist() == [*range(25)]
  assert int(graph.index((jnp.int32(5), jnp.float32(-6)))) == -1
  monkeypatch.undo()
  jax.clear_caches()


def test_play_without_end_returns_0():
  # Seat 0 may go on or lose; seat 1 may go on or win 1.
  game = Table((0, 1, 2), (1, 0, 3), (OVER, -2, 2), (OVER, 1, -1))
  assert host(solve.solve(game).values).tolist() == [
    [0, 0],
    [0, 0],
    [-2, 2],
    [1, -1],
  ]
  # Now seat 1 can win in a cycle.
  game = Table((0, 1, 1), (1, 0, 2), (OVER, -1, 1))
  assert host(solve.solve(game).values).tolist() == [[-1, 1]] * 3


def test_values_of_a_chance_cycle_converge():
  # A third of the tries lead back to the start, half to the end.
  game = Table(
    (0, 1), (CHANCE, 0, 2, 3), (OVER, 1), (OVER, 0),
    seats=1, odds=(1 / 3, 1 / 2, 1 / 6),
  )  # fmt: skip
  solution = solve.solve(game)
  np.testing.assert_allclose(solution.values[:2, 0], [0.75, 0.75], rtol=1e-6)


def test_cycles_without_a_fixed_point_are_refused():
  # Each of three seats stops only if the next one does not.
  game = Table(
    (0, 3, 1), (1, 4, 2), (2, 5, 0),
    (OVER, 1, 0, 2), (OVER, 2, 1, 0), (OVER, 0, 2, 1), seats=3,
  )  # fmt: skip
  with pytest.raises(errors.UserError, match="Table: its states form cycles"):
    solve.solve(game)


def test_too_many_states_are_refused():
  assert len(solve.enumerate_states(Counter(41), max_states=43).order) == 43
  with pytest.raises(errors.UserError, match="Counter has more than 42 states"):
    solve.enumerate_states(Counter(41), max_states=42)


def test_memory_is_checked_before_the_first_step(monkeypatch):
  monkeypatch.setattr(requirements, "device_memory", lambda: 10**8)
  solve.solve(MIXED, max_states=10**5)

  def step(state, action):
    raise AssertionError

  game = Table((0, 1), (OVER, 0, 0))
  monkeypatch.setattr(game, "step", step)
  with pytest.raises(
    errors.UserError, match="10,000,000 states of Table needs .* lower max_st"
  ):
    solve.solve(game, max_states=10**7)


@pytest.mark.parametrize("hide", ["bits", "key", "rare"])
def test_chance_hidden_in_the_key_is_refused(hide):
  class Hidden(Counter):
    def init(self, key):
      if hide == "key":
        return key
      bits = jax.random.bits(key)
      return bits if hide == "bits" else (bits % 8 == 0).astype(jnp.int32)

  with pytest.raises(
    errors.UserError, match="first state of Hidden depends on the key"
  ):
    solve.enumerate_states(Hidden(3))


def test_states_that_look_alike_to_their_seat_are_refused():
  class Blind(Table):
    blind = -1

    def observe(self, state, seat):
      return jnp.where(seat == self.blind, 0, state.number)

  rows = (0, 1, 2), (1, 3), (1, 4), (OVER, 0, 0), (OVER, 0, 1)
  game = Blind(*rows)
  # Seat 0 acts in one state only.
  for game.blind in (-1, 0):
    solve.solve(game)
  game.blind = 1
  with pytest.raises(
    errors.UserError,
    match="Blind hides information: its 3 states .* look like 2 to the seats,"
    " and exact minimax needs visible states",
  ):
    solve.solve(game)
  assert len(solve.enumerate_states(game).order) == 5


def test_a_seat_without_actions_is_refused():
  with pytest.raises(errors.UserError, match="is not over but has no legal"):
    solve.solve(Table((0, 1, 2), (1,), (OVER, 0, 0)))
