"""Tests the solver against plain-Python minimax on every reachable board."""

import functools

import numpy as np
import pytest

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver

LINES = [
  (0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6),
  (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6),
]  # fmt: skip


def winner_of(board: str) -> str | None:
  for a, b, c in LINES:
    if board[a] != "." and board[a] == board[b] == board[c]:
      return board[a]
  return "draw" if "." not in board else None


def play(board: str, cell: int, mark: str) -> str:
  return board[:cell] + mark + board[cell + 1 :]


@functools.cache
def minimax(board: str, to_move: str, me: str) -> int:
  """Returns the value for the side `me`."""
  winner = winner_of(board)
  if winner is not None:
    return 0 if winner == "draw" else 1 if winner == me else -1
  other = "O" if to_move == "X" else "X"
  values = [
    minimax(play(board, cell, to_move), other, me)
    for cell in range(9)
    if board[cell] == "."
  ]
  return max(values) if to_move == me else min(values)


def boards():
  for board in np.flatnonzero(rules.reachable()):
    text = "".join(".XO"[mark] for mark in rules.cells()[board])
    mover = "X" if text.count("X") == text.count("O") else "O"
    yield int(board), text, mover


@pytest.mark.parametrize("me, mark", [("X", rules.X), ("O", rules.O)])
def test_values_of_every_board_for_both_sides(me, mark):
  for board, text, mover in boards():
    sign = 1 if rules.side_to_move()[board] == mark else -1
    value = sign * solver.solve().value[board]
    assert value == minimax(text, mover, me), text


def test_optimal_moves_of_every_board():
  for board, text, mover in boards():
    other = "O" if mover == "X" else "X"
    if winner_of(text) is not None:
      assert solver.optimal_cells(board) == ()
      assert solver.solve().preferred[board] == -1
      continue
    values = {
      cell: minimax(play(text, cell, mover), other, mover)
      for cell in range(9)
      if text[cell] == "."
    }
    best = max(values.values())
    optimal = tuple(c for c, value in values.items() if value == best)
    assert solver.optimal_cells(board) == optimal, text
    assert int(solver.solve().preferred[board]) in optimal, text
    for cell in range(9):
      expected = values.get(cell, solver.LOSS - 1)
      assert solver.solve().move_values[board, cell] == expected, text


def test_plies_count_the_fastest_win_and_the_slowest_loss():
  @functools.cache
  def plies(text: str, mover: str) -> int:
    if winner_of(text) is not None:
      return 0
    other = "O" if mover == "X" else "X"
    value = minimax(text, mover, mover)
    lengths = [
      1 + plies(play(text, cell, mover), other)
      for cell in range(9)
      if text[cell] == "."
      and minimax(play(text, cell, mover), other, mover) == value
    ]
    return min(lengths) if value == 1 else max(lengths)

  for board, text, mover in boards():
    assert solver.solve().plies[board] == plies(text, mover), text


def test_what_everyone_knows():
  # Perfect play from the empty board is a draw, and every opening keeps it.
  assert solver.solve().value[rules.EMPTY_BOARD] == solver.DRAW
  assert len(solver.optimal_cells(rules.EMPTY_BOARD)) == 9
  # The center is the only optimal reply to a corner opening.
  corner = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  assert solver.optimal_cells(corner) == (4,)


def test_unreachable_boards_have_no_answer():
  unreachable = ~rules.reachable()
  assert not solver.solve().optimal[unreachable].any()
  assert not solver.solve().value[unreachable].any()
