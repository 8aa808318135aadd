"""Tests the moves of each opponent and their frequencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver


def moves(opponent, boards, seed=0):
  boards = jnp.asarray(boards, jnp.int32)
  opponent_seed = jax.random.bits(jax.random.key(seed), (len(boards),))
  return np.asarray(jax.jit(jax.vmap(opponent))(opponent_seed, boards))


def allowed(mask, cells):
  return (np.asarray(mask) >> cells & 1).astype(bool)


def test_random_moves_are_legal_on_every_position():
  boards = rules.positions()
  cells = moves(opponents.uniform_random, boards)
  assert allowed(rules.legal_masks()[boards], cells).all()


@pytest.mark.parametrize("opponent", [opponents.optimal, opponents.preferred])
def test_optimal_moves_are_optimal_on_every_position(opponent):
  boards = rules.positions()
  cells = moves(opponent, boards)
  assert allowed(solver.solve().optimal[boards], cells).all()


def test_random_moves_are_uniform():
  # X . .
  # . O .
  # . . X   six cells left
  board = rules.board_from_cells([1, 0, 0, 0, 2, 0, 0, 0, 1])
  cells = moves(opponents.uniform_random, [board] * 6000)
  counts = np.bincount(cells, minlength=9)
  assert counts[[0, 4, 8]].sum() == 0
  assert stats.chisquare(counts[[1, 2, 3, 5, 6, 7]]).pvalue > 1e-3


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_how_often_the_move_is_random(epsilon):
  # After a corner opening only one of eight moves keeps the draw.
  board = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  n = 8000
  cells = moves(opponents.epsilon_optimal(epsilon), [board] * n)
  slips = int((cells != 4).sum())
  assert stats.binomtest(slips, n, epsilon * 7 / 8).pvalue > 1e-3


def test_scripted_plays_its_line_and_then_the_first_free_cell():
  opponent = opponents.scripted([4, 0])
  # First move of X and first move of O.
  assert moves(opponent, [rules.EMPTY_BOARD])[0] == 4
  assert moves(opponent, [rules.board_from_cells([1] + [0] * 8)])[0] == 4
  # Cell 0 is taken and the line has ended.
  taken = rules.board_from_cells([1, 0, 0, 0, 2, 0, 0, 0, 1])
  assert moves(opponent, [taken])[0] == 1
  over = rules.board_from_cells([1, 1, 0, 0, 2, 0, 0, 0, 2])
  assert moves(opponent, [over])[0] == 2


def mixed(shares, tables, boards):
  opponent = jax.tree_util.Partial(
    functools.partial(
      opponents.mixture, [opponents.uniform_random, opponents.optimal]
    ),
    jnp.asarray(shares, jnp.float32),
    jnp.asarray(tables, jnp.int8),
  )
  opponent_seed = jax.random.bits(jax.random.key(0), (len(boards),))
  play = jax.jit(jax.vmap(opponent))
  return np.asarray(play(opponent_seed, jnp.asarray(boards, jnp.int32)))


def test_a_mixture_plays_as_often_as_each_share_says():
  # After a corner opening the optimal move is 4; the table plays 7.
  board = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  table = np.full((1, rules.NUM_BOARDS), -1)
  table[0, board] = 7
  n = 8000
  cells = mixed([2.0, 1.0, 1.0], table, [board] * n)
  for cell, rate in ((4, 0.5 / 8 + 0.25), (7, 0.5 / 8 + 0.25), (1, 0.5 / 8)):
    count = int((cells == cell).sum())
    assert stats.binomtest(count, n, rate).pvalue > 1e-3


def test_a_table_without_a_legal_move_gives_way_to_chance():
  board = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  for cell in (-1, 0):
    table = np.full((1, rules.NUM_BOARDS), cell)
    cells = mixed([0.0, 0.0, 1.0], table, [board] * 200)
    assert set(cells) == set(range(1, 9))


def test_bad_settings():
  with pytest.raises(ValueError, match="between 0 and 1"):
    opponents.epsilon_optimal(1.5)
  with pytest.raises(ValueError, match="cells 0 to 8"):
    opponents.scripted([4, 9])
  with pytest.raises(ValueError, match="cells 0 to 8"):
    opponents.scripted([])


def test_opponents_by_name():
  board = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  for name in ("optimal", "epsilon-optimal:0", "scripted:4,0"):
    assert set(moves(opponents.from_name(name), [board] * 20)) == {4}
  assert opponents.from_name("random") is opponents.uniform_random
  for name in ("", "perfect", "random:1", "epsilon-optimal:x", "scripted:"):
    with pytest.raises(ValueError, match="opponent"):
      opponents.from_name(name)
