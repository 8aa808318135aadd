"""Compares games with OpenSpiel's, and reads the text of a game."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt.games import game as game_lib
from tunix_ttt.games import state_graph


def play(game: Any, *plies: int) -> Any:
  """Returns the state after these actions and outcomes of chance."""
  state = game.init(jax.random.key(0))
  for ply in plies:
    state = game.step(state, jnp.int32(ply))
  return state


def batch(*states: Any) -> Any:
  """Stacks states."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def texts(text: Any, states: Any, num_seats: int) -> list[list[str]]:
  """Returns what each seat reads in each of N states: [num_seats][N]."""
  show = jax.jit(jax.vmap(text.show, (0, None)))
  lengths = np.array([len(slot) for slot in text.segments])
  result = []
  for seat in range(num_seats):
    slots = show(states, jnp.int32(seat))
    assert slots.dtype == jnp.int32
    slots = np.asarray(slots)
    assert slots.shape[1:] == lengths.shape
    assert (slots >= -1).all() and (slots < lengths).all()
    result.append(
      [
        "".join(
          slot[n] for slot, n in zip(text.segments, row, strict=True) if n >= 0
        )
        for row in slots.tolist()
      ]
    )
  return result


def observations(game: Any, states: Any, seat: int) -> list[bytes]:
  """Returns the bytes of what a seat knows in each of N states."""
  rows = jax.jit(jax.vmap(game.observe, (0, None)))(states, jnp.int32(seat))
  leaves = jax.tree.map(np.asarray, jax.tree.leaves(rows))
  return [
    b"|".join(leaf[n].tobytes() for leaf in leaves)
    for n in range(len(leaves[0]))
  ]


def assert_finished_games_stay(game: Any, num_plies: int) -> None:
  """Asserts that no step changes any finished state."""
  graph = state_graph.enumerate_states(game)
  is_over = graph.to_act == game_lib.OVER
  states = jax.tree.map(lambda leaf: leaf[is_over], graph.states)
  assert len(jax.tree.leaves(states)[0]) > 1
  for ply in range(num_plies):
    after = jax.vmap(game.step, (0, None))(states, jnp.int32(ply))
    jax.tree.map(np.testing.assert_array_equal, after, states)
    jax.tree.map(
      lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), after, states
    )


def assert_text_shows_what_seats_know(game: Any, text: Any) -> None:
  """Asserts that texts are a function of what a seat knows and that it is to act.

  In states in which the seat is to act, different knowledge has different texts.
  """
  graph = state_graph.enumerate_states(game)
  to_act = np.asarray(graph.to_act)
  for seat, rows in enumerate(texts(text, graph.states, game.num_seats)):
    seen = observations(game, graph.states, seat)
    pairs = set(zip(seen, to_act == seat, rows, strict=True))
    assert len(pairs) == len(set(zip(seen, to_act == seat, strict=True)))
    turns = np.flatnonzero(to_act == seat)
    turn_pairs = {(seen[n], rows[n]) for n in turns}
    assert len(turn_pairs) == len({rows[n] for n in turns})


def assert_equals_open_spiel(game: Any) -> None:
  """Asserts equality with OpenSpiel's `game.open_spiel` in every history."""
  pyspiel = pytest.importorskip("pyspiel")
  graph = state_graph.enumerate_states(game)
  to_act, children, outcomes, probabilities, returns = map(
    np.asarray,
    (
      graph.to_act,
      graph.children,
      graph.outcomes,
      graph.probabilities,
      graph.returns,
    ),
  )
  seen = [
    observations(game, graph.states, seat) for seat in range(game.num_seats)
  ]
  visited: list[int] = []
  pairs: list[set[tuple[str, bytes]]] = [set() for _ in seen]

  def walk(history: Any, n: int, depth: int) -> int:
    """Returns the longest rest of a history."""
    visited.append(n)
    for seat, rows in enumerate(seen):
      pairs[seat].add((history.information_state_string(seat), rows[n]))
    if history.is_terminal():
      assert to_act[n] == game_lib.OVER
      assert returns[n].tolist() == history.returns()
    else:
      assert not returns[n].any()
    if history.is_chance_node():
      assert to_act[n] == game_lib.CHANCE
      outcome = dict(history.chance_outcomes())
      drawn = np.flatnonzero(probabilities[n])
      assert drawn.tolist() == sorted(outcome)
      for action in drawn:
        assert abs(probabilities[n, action] - outcome[action]) < 1e-7
      after = outcomes[n]
    else:
      after = children[n]
      assert not probabilities[n].any()
      assert (outcomes[n] < 0).all()
      if not history.is_terminal():
        assert to_act[n] == history.current_player()
    assert np.flatnonzero(after >= 0).tolist() == history.legal_actions()
    return max(
      (
        walk(history.child(action), after[action], depth + 1)
        for action in history.legal_actions()
      ),
      default=depth,
    )

  spiel_game = pyspiel.load_game(game.open_spiel)
  assert walk(spiel_game.new_initial_state(), 0, 0) == game.max_plies
  assert spiel_game.num_distinct_actions() == game.num_actions
  assert sorted(visited) == list(range(len(to_act)))
  for seat_pairs in pairs:
    strings, rows = zip(*seat_pairs, strict=True)
    assert len(set(strings)) == len(set(rows)) == len(seat_pairs)
