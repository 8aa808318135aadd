"""Tests of the environment: conformance and scripted games."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import environments
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules

OPPONENTS = {
  "random": opponents.uniform_random,
  "optimal": opponents.optimal,
  "preferred": opponents.preferred,
  "epsilon": opponents.epsilon_optimal(0.5),
  "scripted": opponents.scripted([4, 0, 8]),
}


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"):
    yield


@pytest.mark.parametrize("name", OPPONENTS)
def test_conformance(name):
  environments.check_environment(env_lib.TicTacToe(opponent=OPPONENTS[name]))


def test_conformance_finds_a_broken_environment():
  class Forgetful(env_lib.TicTacToe):
    def step(self, state, action):
      stepped = super().step(state, action)
      return dataclasses.replace(stepped, board=state.board)

  with pytest.raises(AssertionError, match="a legal move takes its cell"):
    environments.check_environment(Forgetful())


def play(moves, script, agent=rules.X):
  env = env_lib.TicTacToe(opponent=opponents.scripted(script))
  state = env.init(0, agent)
  for move in moves:
    state = env.step(state, move)
  return state


def test_win():
  # X X X
  # O O .
  # . . .
  state = play([0, 1, 2], [3, 4])
  assert state.outcome == env_lib.Outcome.WIN
  assert rules.cells()[int(state.board)].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0]
  assert state.last_move == 4


def test_loss():
  # O O O
  # X X .
  # . . X
  state = play([3, 4, 8], [0, 1, 2])
  assert state.outcome == env_lib.Outcome.LOSS


def test_draw():
  # X O X
  # X O O
  # O X X
  state = play([0, 2, 3, 7, 8], [1, 4, 6, 5])
  assert state.outcome == env_lib.Outcome.DRAW


def test_the_agent_as_o_finds_an_opening_move():
  state = play([], [6], agent=rules.O)
  assert rules.cells()[int(state.board)].tolist() == [0] * 6 + [1, 0, 0]
  assert state.last_move == 6
  assert env_lib.TicTacToe().legal(state).tolist() == [True] * 6 + [
    False,
    True,
    True,
  ]


def test_a_win_as_o_is_a_win():
  # X X .
  # O O O
  # X . .
  state = play([3, 4, 5], [0, 1, 6], agent=rules.O)
  assert state.outcome == env_lib.Outcome.WIN


def test_no_reply_after_the_agent_has_ended_the_game():
  state = play([0, 1, 2], [3, 4, 8])
  assert rules.num_marks()[int(state.board)] == 5


def test_starting_from_a_position():
  # X O .
  # . . .
  # . . .   X to move; as O the agent waits for the opponent's move.
  board = rules.board_from_cells([1, 2, 0, 0, 0, 0, 0, 0, 0])
  env = env_lib.TicTacToe(opponent=opponents.scripted([0, 4]))
  mine = env.init(0, rules.X, board, 1)
  assert (int(mine.board), int(mine.last_move)) == (board, 1)
  waited = env.init(0, rules.O, board)
  assert int(waited.board) == rules.place(board, 4, rules.X)
  assert int(waited.last_move) == 4


def test_games_of_one_luck_meet_the_same_opponent():
  env = env_lib.TicTacToe()
  init = jax.jit(jax.vmap(env.init))
  agents = jnp.full(64, rules.O, jnp.int8)
  states = init(jnp.full(64, 7, jnp.uint32), agents)
  assert len(np.unique(states.board)) == 1
  actions = jnp.arange(64, dtype=jnp.int32) % 9
  after = jax.jit(jax.vmap(env.step))(states, actions)
  for action in range(9):
    assert len(np.unique(after.board[action::9])) == 1
  others = init(jax.random.bits(jax.random.key(7), (64,)), agents)
  assert len(np.unique(others.board)) == 9


def test_starting_marks():
  assert env_lib.starting_marks("mixed", 5).tolist() == [1, 2, 1, 2, 1]
  assert env_lib.starting_marks("o", 2).tolist() == [2, 2]
  with pytest.raises(ValueError, match="x, o or mixed"):
    env_lib.starting_marks("both", 2)
