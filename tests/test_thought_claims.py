"""Claims of thoughts, against a plain minimax on every move there is."""

import functools

import numpy as np
import pytest

from tests import players
from tests import test_rewards
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards
from tunix_ttt.evaluate import rates
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thought_claims


def put(marks, cell, mark):
  return (*marks[:cell], mark, *marks[cell + 1 :])


def wins(marks, mark):
  return any(all(marks[c] == mark for c in line) for line in rules.LINES)


def winning(marks, mark):
  """Returns the cells at which a mark completes a line."""
  free = [c for c in range(9) if not marks[c]]
  return [c for c in free if wins(put(marks, c, mark), mark)]


@functools.cache
def value(marks, mark):
  """Returns 1, 0 or -1 for the mark to move, by a plain minimax."""
  if wins(marks, 3 - mark):
    return -1
  free = [c for c in range(9) if not marks[c]]
  values = [-value(put(marks, c, mark), 3 - mark) for c in free]
  return max(values, default=0)


def truths(marks, mark, cell):
  """Returns the truth of each claim about a legal move, by its sentence."""
  name, other = text_formats.coordinate(cell), 3 - mark
  after = put(marks, cell, mark)
  before, later = value(marks, mark), -value(after, other)
  has_won = wins(after, mark)
  fork = not has_won and len(winning(after, mark)) > 1
  their_fork = len(winning(put(marks, cell, other), other)) > 1
  would_lose = wins(put(marks, cell, other), other)
  return {
    f"I win at {name}.": has_won,
    f"I complete a line at {name} and win.": has_won,
    f"I block {name}.": would_lose,
    f"I block at {name}.": would_lose,
    "I make two threats at once.": fork,
    f"I make two threats at once at {name}.": fork,
    f"I take {name}, where a fork threatens.": their_fork and not would_lose,
    "I force a win.": later == 1,
    "I keep the draw.": before == later == 0,
    "I am losing, so I hold out.": before == -1,
    f"I take the corner {name}.": None,
  }


def test_every_claim_about_every_legal_move():
  seen = set()
  # One of each set of symmetric boards.
  boards = rules.positions()
  for board in boards[rules.canonical()[boards] == boards].tolist():
    marks = tuple(rules.cells()[board].tolist())
    mark = int(rules.side_to_move()[board])
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
      expected = truths(marks, mark, cell)
      claimed = {
        text: thought_claims.is_true(
          board, cell, text_formats.render_answer(cell, text)
        )
        for text in expected
      }
      assert claimed == expected, (marks, cell)
      name = text_formats.coordinate(cell)
      seen |= {
        (k.replace(name, "#"), is_true) for k, is_true in claimed.items()
      }
      template = text_formats.explain_move(board, cell)
      if cell in solver.optimal_cells(board):
        assert expected[template]
      tactic = text_formats.name_tactic(board, cell)
      assert expected.get(tactic) is not False
  assert len(seen) == 21


# X . O
# . X .
# . . O
BOARD = board_text.from_text("X.O.X...O")


@pytest.mark.parametrize(
  ("cell", "thought", "is_true"),
  [
    ("B3", "I block B3.", True),
    ("B3", "i BLOCK  at\nb3", True),
    ("B3", "The edge is free. I block B3!", True),
    # The claim is true of another move.
    ("B1", "I block B3.", False),
    # The move is a win for nobody.
    ("B3", "I win at B3.", False),
    ("B3", "I block B3. I win at B3.", False),
    ("B3", "I block B3; I keep the draw.", True),
    ("B3", "I block B3; I force a win.", False),
    # A taken cell.
    ("C3", "I block C3.", False),
    ("C3", "I am losing.", False),
    ("B3", "I do not block B3.", None),
    ("B3", "If I block B3, they lose.", None),
    ("B3", "", None),
  ],
)
def test_claims(cell, thought, is_true):
  move = text_formats.cell_from_coordinate(cell)
  answer = text_formats.render_answer(move, thought)
  assert thought_claims.is_true(BOARD, move, answer) is is_true
  tokens = text_formats.TokenBoardFormat().render_answer(move, thought)
  assert thought_claims.is_true(BOARD, move, tokens) is is_true
  assert thought_claims.is_true(BOARD, -1, answer) is None


# X wins with its third move; one thought of four says nothing.
GAMES = test_rewards.games_of([0, 1, 2], [3, 4])
SAID = ["I keep the draw.", "A place.", "I win at A3.", "I win at A3."]


def say(ids):
  return SAID[ids[0]]


def saying(*numbers):
  actions = np.zeros((1, 5, 4), np.int32)
  actions[0, : len(numbers), 0] = numbers
  return test_rewards.replaced(GAMES, actions=actions)


def test_rates_of_thoughts():
  result = rates.sampled(players.GAME, saying(0, 2, 3), say)
  assert result.thought_true_rate == pytest.approx(2 / 3)
  assert result.thought_no_claim_rate == 0
  result = rates.sampled(players.GAME, saying(0, 1, 3), say)
  assert result.thought_true_rate == 1
  assert result.thought_no_claim_rate == pytest.approx(1 / 3)
  result = rates.sampled(players.GAME, saying(1, 1, 1), say)
  assert result.thought_true_rate is None
  assert result.thought_no_claim_rate == 1
  terse = catalog.load("tictactoe", thoughts=False)
  assert rates.sampled(terse, GAMES, say).thought_no_claim_rate is None
  assert rates.sampled(players.GAME, GAMES).thought_no_claim_rate is None


def test_a_true_thought_is_rewarded():
  config = config_lib.RewardsConfig(
    outcome=config_lib.OutcomeConfig(weight=0.0), thought_weight=0.5
  )
  rewards.check(players.GAME, config, {}, 3, 4)
  found = rewards.components(
    players.GAME, saying(0, 2, 3), config, 4, decode=say
  )
  assert found.keys() == {"thought"}
  np.testing.assert_array_equal(found["thought"], [[0.5, 0, 0.5, 0, 0]])
  for game in (
    catalog.load("tictactoe", thoughts=False),
    catalog.load("kuhn_poker"),
  ):
    with pytest.raises(errors.UserError, match=r"rewards\.thought_weight: "):
      rewards.check(game, config, {}, 3, 4)
