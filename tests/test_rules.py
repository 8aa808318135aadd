"""Tests the tables of the rules against their definitions."""

import numpy as np
import pytest

from tunix_ttt.games.tictactoe import rules


def test_board_index_round_trips():
  # X . O
  # . X .
  # . . .
  cells = [1, 0, 2, 0, 1, 0, 0, 0, 0]
  board = rules.board_from_cells(cells)
  assert board == 1 + 2 * 9 + 81
  assert rules.cells()[board].tolist() == cells


def test_counts_known_from_the_literature():
  # 5,478 positions, 958 of them ends; 765 and 138 up to symmetry.
  reachable = rules.reachable()
  over = reachable & (rules.legal_masks() == 0)
  assert reachable.sum() == 5478
  assert over.sum() == 958
  assert len(np.unique(rules.canonical()[reachable])) == 765
  assert len(np.unique(rules.canonical()[over])) == 138
  assert len(rules.positions()) == 5478 - 958


@pytest.mark.parametrize(
  "cells, winner",
  [
    ([1, 1, 1, 2, 2, 0, 0, 0, 0], rules.X),
    ([2, 1, 1, 1, 2, 0, 0, 0, 2], rules.O),
    ([1, 2, 0, 1, 2, 0, 1, 0, 0], rules.X),
    ([1, 2, 1, 1, 2, 2, 2, 1, 1], rules.DRAWN),
    ([1, 2, 1, 0, 0, 0, 0, 0, 0], rules.NO_WINNER),
  ],
)
def test_winners(cells, winner):
  board = rules.board_from_cells(cells)
  assert rules.winners()[board] == winner
  assert (rules.legal_masks()[board] == 0) == (winner != rules.NO_WINNER)


def test_successors_place_the_mark_of_the_side_to_move():
  board = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])
  assert rules.side_to_move()[board] == rules.O
  after = rules.successors()[board]
  assert after[0] == -1
  assert after[4] == rules.place(board, 4, rules.O)


def test_masks():
  assert rules.mask_to_cells(0b100000101) == (0, 2, 8)
  assert rules.mask_to_bool(0b101).tolist() == [True, False, True] + [False] * 6
  assert rules.nth_cell()[0b100000101].tolist()[:4] == [0, 2, 8, -1]
  assert rules.mask_sizes()[0b100000101] == 3


def test_symmetries_keep_what_matters():
  assert len({tuple(s) for s in rules.symmetries().tolist()}) == 8
  for permutation in rules.symmetries():
    turned = rules.cells()[:, permutation].astype(np.int64) @ rules.POWERS
    assert np.array_equal(rules.winners()[turned], rules.winners())
    assert np.array_equal(rules.canonical()[turned], rules.canonical())
