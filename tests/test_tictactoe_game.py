"""Tic-tac-toe as a `Game`, against the tables and texts of its own modules."""

import jax
import numpy as np
import pytest

from tests import game_checks
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import tictactoe_game
from tunix_ttt.games.tictactoe import tictactoe_text

GAME = tictactoe_game.TicTacToe()


@pytest.fixture(scope="module")
def solution():
  return jax.tree.map(np.asarray, solve.solve(GAME))


def test_states_are_all_reachable_boards_with_each_last_move(solution):
  expected = {(rules.EMPTY_BOARD, -1)}
  for board in rules.positions().tolist():
    cells = rules.mask_to_cells(int(rules.legal_masks()[board]))
    expected |= {(int(rules.successors()[board, c]), c) for c in cells}
  states = solution.states
  assert len({board for board, _ in expected}) == 5478
  pairs = [*zip(states.board.tolist(), states.last_move.tolist(), strict=True)]
  assert len(pairs) == len(expected) and set(pairs) == expected


def test_rules_equal_the_tables(solution):
  boards = solution.states.board
  side = rules.side_to_move()[boards] - rules.X
  is_over = rules.legal_masks()[boards] == 0
  expected = np.where(is_over, game_lib.OVER, side)
  np.testing.assert_array_equal(solution.graph.to_act, expected)
  winner = rules.winners()[boards]
  won = (winner == rules.X).astype(int) - (winner == rules.O)
  np.testing.assert_array_equal(
    solution.graph.returns, np.stack([won, -won], axis=1)
  )
  after = np.where(solution.children >= 0, boards[solution.children], -1)
  np.testing.assert_array_equal(after, rules.successors()[boards])
  cells = np.broadcast_to(np.arange(9), after.shape)
  last_moves = solution.states.last_move[solution.children]
  np.testing.assert_array_equal(last_moves[after >= 0], cells[after >= 0])


def test_solution_equals_the_tables(solution):
  boards = solution.states.board
  tables = solver.solve()
  sign = np.where(rules.side_to_move()[boards] == rules.X, 1, -1)
  values = sign * tables.value[boards]
  np.testing.assert_array_equal(
    solution.values, np.stack([values, -values], axis=1)
  )
  move_values = tables.move_values[boards].astype(np.float32)
  move_values[move_values < solver.LOSS] = -np.inf
  np.testing.assert_array_equal(solution.action_values, move_values)
  np.testing.assert_array_equal(
    solution.optimal, rules.mask_to_bool(tables.optimal[boards])
  )


def test_finished_games_stay():
  game_checks.assert_finished_games_stay(GAME, 9)


def test_text_equals_the_rendered_observations(solution):
  text = tictactoe_text.TicTacToeText()
  texts = game_checks.texts(text, solution.states, 2)
  states = solution.states
  for n, board in enumerate(states.board.tolist()):
    last = int(states.last_move[n])
    for seat, mark in enumerate((rules.X, rules.O)):
      is_next = rules.side_to_move()[board] == mark
      last_move = last if is_next and last >= 0 else None
      expected = text_formats.render_observation(board, mark, last_move)
      assert texts[seat][n] == expected


@pytest.mark.parametrize("thoughts", [True, False])
def test_rules_and_answers_are_those_of_the_text_format(thoughts):
  text = tictactoe_text.TicTacToeText(thoughts=thoughts)
  assert text.rules == text_formats.system_prompt(thoughts=thoughts)
  for cell, spellings in enumerate(text.actions):
    assert spellings[0] == text_formats.coordinate(cell)
    assert [text_formats.cell_from_coordinate(s) for s in spellings] == [
      cell
    ] * 2
