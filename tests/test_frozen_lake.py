"""Frozen Lake: its exact solution against plain Python, and its text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import game_checks
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.games.frozen_lake import lake_game
from tunix_ttt.games.frozen_lake import lake_text

HOLES, GOAL = {5, 7, 11, 12}, 15
# The cells to the left, below, to the right and above.
NEIGHBORS = [
  (0, 4, 1, 0), (0, 5, 2, 1), (1, 6, 3, 2), (2, 7, 3, 3),
  (4, 8, 5, 0), (4, 9, 6, 1), (5, 10, 7, 2), (6, 11, 7, 3),
  (8, 12, 9, 4), (8, 13, 10, 5), (9, 14, 11, 6), (10, 15, 11, 7),
  (12, 12, 13, 8), (12, 13, 14, 9), (13, 14, 15, 10), (14, 15, 15, 11),
]  # fmt: skip


@functools.cache
def value(cell: int, moves_left: int) -> float:
  if cell in HOLES or cell == GOAL or not moves_left:
    return float(cell == GOAL)
  return max(value_of(cell, move, moves_left - 1) for move in range(4))


def value_of(cell: int, move: int, moves_left: int) -> float:
  ends = [NEIGHBORS[cell][(move + turn) % 4] for turn in (-1, 0, 1)]
  return sum(value(end, moves_left) for end in ends) / 3


def test_solution_equals_plain_dynamic_programming():
  game = lake_game.FrozenLake(max_moves=37)
  solution = jax.tree.map(np.asarray, solve.solve(game))
  states = solution.states
  assert len(states.cell) > 1000
  for n, cell in enumerate(states.cell.tolist()):
    move, left = int(states.intended[n]), int(states.moves_left[n])
    if move >= 0:
      assert solution.graph.to_act[n] == game_lib.CHANCE
      expected = value_of(cell, move, left)
    else:
      expected = value(cell, left)
    np.testing.assert_allclose(solution.values[n], [expected], atol=1e-7)
    if solution.graph.to_act[n] == 0:
      values = [value_of(cell, move, left - 1) for move in range(4)]
      np.testing.assert_allclose(solution.action_values[n], values, atol=1e-7)
      best = np.isclose(values, max(values), rtol=0, atol=1e-9)
      assert (solution.optimal[n] == best).all()
    else:
      assert np.isneginf(solution.action_values[n]).all()
      assert not solution.optimal[n].any()
  np.testing.assert_allclose(solution.values[0], [value(0, 37)], atol=1e-7)


def test_finished_games_stay():
  game_checks.assert_finished_games_stay(lake_game.FrozenLake(max_moves=7), 4)


def test_text_shows_the_player_on_the_map():
  game = lake_game.FrozenLake()
  start = game.init(jax.random.key(0))
  intended = game.step(start, jnp.int32(lake_game.DOWN))
  slipped = game.step(intended, jnp.int32(2))
  states = game_checks.batch(start, intended, slipped)
  (texts,) = game_checks.texts(lake_text.FrozenLakeText(), states, 1)
  assert texts == [
    "Moves left: 100.\nPFFF\nFHFH\nFFFH\nHFFG\nYour move?",
    "Moves left: 99.\nPFFF\nFHFH\nFFFH\nHFFG",
    "Moves left: 99.\nSPFF\nFHFH\nFFFH\nHFFG\nYour move?",
  ]
