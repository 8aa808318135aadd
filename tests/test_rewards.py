"""Tests rewards and advantages against hand arithmetic."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from tests import players
from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import advantages
from tunix_ttt.algorithms import rewards
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import tictactoe_definition
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
FIRST_LEGAL = rules.nth_cell()[rules.legal_masks(), 0].astype(np.int32)


def replaced(games, **changes):
  changed: Any = dataclasses.replace(games, **changes)
  return changed


def at_board(games, board, move):
  """Replaces the only turn of a game."""
  states = replaced(games.states, board=np.array([[board]]))
  return replaced(games, states=states, moves=np.array([[move]], np.int8))


def games_of(moves, script, agent=rules.X, turns=5):
  """Plays listed moves against a scripted opponent."""
  env = env_lib.TicTacToe(opponent=opponents.scripted(script))
  state = env.init(0, agent)
  states, played, actions = [], [], []
  for n in range(turns):
    on = bool(state.outcome == env_lib.Outcome.ONGOING) and n < len(moves)
    states.append(state)
    played.append(on)
    actions.append(moves[n] if on else -1)
    if on:
      state = env.step(state, moves[n])
  cut = Ending.UNFINISHED if turns == 1 else Ending.LENGTH
  ending = int(state.outcome) or cut
  mask = np.zeros((1, turns, 4), bool)
  mask[0, :, 0] = played
  fields: dict[str, Any] = {
    "ending": np.array([ending], np.int8),
    "state": jax.tree.map(lambda leaf: np.asarray(leaf)[None], state),
    "states": jax.tree.map(lambda *each: np.stack(each)[None], *states),
    "retried": np.zeros((1, turns), bool),
    "turn_mask": np.array([played]),
    "moves": np.array([actions], np.int8),
    "actions": np.zeros((1, turns, 4), np.int32),
    "action_mask": mask,
    "log_probs": np.zeros((1, turns, 4), np.float32),
  }
  return trajectory_lib.Trajectory(**fields)


@pytest.mark.parametrize(
  ("moves", "script", "agent", "worth"),
  [
    ([0, 1, 2], [3, 4], rules.X, [0, 0, 1, 0, 0]),
    ([3, 4, 8], [0, 1, 2], rules.X, [0, 0, 0, 0, 0]),
    # The opponent left a won position at the second turn.
    ([0, 2, 3, 7, 8], [1, 4, 6, 5], rules.X, [0, 0, 0, 0, 0.5]),
    # Nobody ever left the draw.
    ([4, 1, 6, 5, 8], [0, 7, 2, 3], rules.X, [0, 0, 0, 0, 1]),
    ([0, 0], [3], rules.X, [0, -1, 0, 0, 0]),
  ],
)
def test_outcomes(moves, script, agent, worth):
  games = games_of(moves, script, agent)
  found = rewards.outcome(players.GAME, games, config_lib.OutcomeConfig())
  assert found.tolist() == [pytest.approx(worth)]


def test_unreadable_and_cut_games():
  config = config_lib.OutcomeConfig()
  games = games_of([0], [3])
  for ending, worth in ((Ending.PARSE_ERROR, -1), (Ending.LENGTH, -0.1)):
    ended = replaced(games, ending=np.array([ending]))
    assert rewards.outcome(players.GAME, ended, config)[0, 0] == pytest.approx(
      worth
    )
  single = games_of([0], [3], turns=1)
  assert single.ending == Ending.UNFINISHED
  assert rewards.outcome(players.GAME, single, config).tolist() == [[0.0]]
  # An answer that cannot be read, retried until no turn is left.
  cut = replaced(single, ending=np.array([Ending.LENGTH]))
  assert rewards.outcome(players.GAME, cut, config)[0, 0] == pytest.approx(-0.1)


def test_move_quality():
  # X X .
  # O O .
  # . . .   X to move
  board = rules.board_from_cells([1, 1, 0, 2, 2, 0, 0, 0, 0])
  games = games_of([0], [3], turns=1)
  expected = {2: 1.0, 5: 0.8, 6: 0.4, 7: 0.2, 0: -1.0, -1: -1.0}
  for move, worth in expected.items():
    changed = at_board(games, board, move)
    found = rewards.move_quality(
      players.GAME, changed, config_lib.MoveQualityConfig()
    )
    assert found[0, 0] == pytest.approx(worth), move
  empty = replaced(games, moves=np.array([[4]], np.int8))
  found = rewards.move_quality(
    players.GAME, empty, config_lib.MoveQualityConfig()
  )
  assert found[0, 0] == pytest.approx(0.6)


def test_move_quality_of_every_position_against_plain_python():
  def wins(cells, cell, mark):
    cells = [*cells[:cell], mark, *cells[cell + 1 :]]
    return any(all(cells[c] == mark for c in line) for line in rules.LINES)

  for board in rules.positions()[::7].tolist():
    cells = rules.cells()[board].tolist()
    me = int(rules.side_to_move()[board])
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
      place = 3 if cell == 4 else 2 if cell in (0, 2, 6, 8) else 1
      blocks = wins(cells, cell, 3 - me)
      kind = 5 if wins(cells, cell, me) else 4 if blocks else place
      assert tictactoe_definition._move_kinds()[board, cell] == kind


def test_regret_is_what_a_move_gives_away():
  boards = rules.positions()
  solved, games = solver.solve(), games_of([0], [3], turns=1)
  for board in boards[::11].tolist():
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
      games = at_board(games, board, cell)
      found = float(rewards.regret(players.GAME, games)[0, 0])
      assert 0 <= found <= 2
      assert (found == 0) == bool(solved.optimal[board] >> cell & 1)
  unreadable = replaced(games, moves=np.array([[-1]], np.int8))
  assert rewards.regret(players.GAME, unreadable)[0, 0] == 2


def test_components_are_weighted_and_only_where_turns_were_played():
  env = env_lib.TicTacToe()
  keys = jax.random.split(jax.random.key(0), 64)
  opponent_seed = jax.random.bits(jax.random.key(1), (64,))
  states = jax.vmap(env.init)(
    opponent_seed, env_lib.starting_marks("mixed", 64)
  )
  games = jax.device_get(players.scripted_play(env, FIRST_LEGAL)(keys, states))
  config = config_lib.RewardsConfig(
    outcome=config_lib.OutcomeConfig(weight=2.0),
    move_quality=config_lib.MoveQualityConfig(weight=0.5),
    optimal_move_weight=1.0,
    regret_weight=1.0,
    format_weight=0.1,
  )
  found = rewards.components(players.GAME, games, config, 8)
  assert set(found) == {
    "outcome",
    "move_quality",
    "optimal_move",
    "regret",
    "format",
  }
  played = np.asarray(games.turn_mask)
  for name, values in found.items():
    assert values.shape == played.shape, name
    assert not values[~played].any(), name
  np.testing.assert_allclose(found["format"][played], 0.1)
  won = np.asarray(games.ending) == Ending.WIN
  np.testing.assert_allclose(found["outcome"].sum(axis=1)[won], 2.0)
  is_optimal = found["optimal_move"] == 1
  assert (is_optimal == (found["regret"] == 0))[played].all()


def test_length_is_the_share_of_the_limit():
  games = games_of([0, 1, 2], [3, 4])
  config = config_lib.RewardsConfig(length_weight=1.0)
  found = rewards.components(players.GAME, games, config, 8)["length"]
  assert found.tolist() == [[-0.125, -0.125, -0.125, 0, 0]]


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_returns_are_discounted_sums(discount):
  given = np.random.default_rng(1).normal(size=(5, 4))
  found = advantages.returns(given, discount)
  for t in range(4):
    expected = sum(discount ** (s - t) * given[:, s] for s in range(t, 4))
    np.testing.assert_allclose(found[:, t], expected, rtol=1e-5)


# Of X at its second turn, and of O at its first.
FIRST, SECOND = (
  rules.board_from_cells([1, 2, 0, 0, 0, 0, 0, 0, 0]),
  rules.board_from_cells([1, 0, 2, 0, 0, 0, 0, 0, 0]),
)
OF_O = rules.board_from_cells([1, 0, 0, 0, 0, 0, 0, 0, 0])


def seats(boards):
  return (rules.side_to_move()[boards] == rules.O).astype(int)


def estimate(worth, values, estimator):
  """Returns an advantage by plain arithmetic."""
  mean = sum(values) / len(values)
  squares = sum((value - mean) ** 2 for value in values)
  deviation = (squares / (len(values) - 1)) ** 0.5
  return {
    "grpo": (worth - mean) / (deviation + 1e-6),
    "drgrpo": worth - mean,
    "rloo": worth - (sum(values) - worth) / (len(values) - 1),
  }[estimator]


@pytest.mark.parametrize("estimator", ["grpo", "drgrpo", "rloo"])
@pytest.mark.parametrize("baseline", ["board", "turn"])
def test_advantages_of_turns_on_one_board(estimator, baseline):
  rng = np.random.default_rng(0)
  group, turns = 5, 3
  worth = rng.normal(size=(3 * group, turns))
  lengths = rng.integers(1, turns + 1, (3 * group, 1))
  lengths[::group] = lengths[1::group] = turns
  played = np.arange(turns) < lengths
  boards = np.full(worth.shape, rules.EMPTY_BOARD)
  found, trained = advantages.turn_advantages(
    worth,
    played,
    boards,
    seats(boards),
    group,
    advantages.ESTIMATORS[estimator],
    baseline,
  )
  np.testing.assert_array_equal(trained, played)
  expected = np.zeros_like(worth)
  for n, t in np.argwhere(played):
    first = n // group * group
    members = slice(first, first + group)
    values = worth[members, t][played[members, t]].tolist()
    expected[n, t] = estimate(worth[n, t], values, estimator)
  np.testing.assert_allclose(found, expected, atol=1e-5)


# Two groups of three games as X, one as O. On the first board there are two of
# the first group, on the second one; of the second group one game is left.
WORTH = [[4], [1], [-2], [3], [9], [9], [5], [5], [5]]
PLAYED = np.array([[1], [1], [1], [1], [0], [0], [1], [1], [1]], bool)
BOARDS = np.array([FIRST, FIRST, SECOND, FIRST, 0, 0, OF_O, OF_O, OF_O])[
  :, None
]


@pytest.mark.parametrize("estimator", ["grpo", "drgrpo", "rloo"])
def test_a_turn_is_compared_with_others_like_it(estimator):
  worth = np.array(WORTH, np.float32)
  on_board, in_group, in_batch = [4, 1], [4, 1, -2], [4, 1, -2, 3]
  last = estimate(3, in_batch, estimator)
  for baseline, compared in (
    ("board", [on_board, on_board, in_group]),
    ("turn", [in_group, in_group, in_group]),
  ):
    found, trained = advantages.turn_advantages(
      worth,
      PLAYED,
      BOARDS,
      seats(BOARDS),
      3,
      advantages.ESTIMATORS[estimator],
      baseline,
    )
    first = [
      estimate(value, values, estimator)
      for value, values in zip((4, 1, -2), compared, strict=True)
    ]
    expected = [*first, last, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    # All of O earned the same.
    assert trained[:, 0].tolist() == [True] * 4 + [False] * 5


@pytest.mark.parametrize("estimator", ["grpo", "drgrpo", "rloo"])
def test_a_turn_is_compared_with_all_on_its_board(estimator):
  rng = np.random.default_rng(1)
  shape = 3 * 5, 4
  worth = rng.integers(0, 3, shape).astype(np.float32)
  played = np.arange(4) < rng.integers(1, 5, (15, 1))
  boards = rng.choice(rules.positions(rules.X)[:13], shape)
  # A board that no other turn has, one of good moves and one of bad ones.
  boards[7, 0] = rules.EMPTY_BOARD
  good, bad = boards[0, 0], boards[1, 0]
  assert good != bad
  worth[boards == good], worth[boards == bad] = 2, 0
  settings = (worth, played, boards, seats(boards), 5)
  function = advantages.ESTIMATORS[estimator]
  found, trained = advantages.turn_advantages(*settings, function, "state")
  others, others_trained = advantages.turn_advantages(
    *settings, function, "turn"
  )
  for b, t in np.ndindex(*shape):
    values = worth[played & (boards == boards[b, t])].tolist()
    if not played[b, t]:
      assert found[b, t] == 0 and not trained[b, t]
    elif len(values) > 1:
      every = worth[played].tolist()
      if max(values) == min(values) < np.mean(every):
        values = every
      expected = estimate(worth[b, t], values, estimator)
      np.testing.assert_allclose(found[b, t], expected, atol=1e-5)
      assert trained[b, t] == (max(values) > min(values))
    else:
      assert found[b, t] == others[b, t] and trained[b, t]
      assert others_trained[b, t]


def test_a_turn_that_is_the_only_one_of_its_batch():
  worth, played = np.ones((2, 2), np.float32), np.array([[1, 1], [1, 0]], bool)
  boards = np.full((2, 2), rules.EMPTY_BOARD)
  found, trained = advantages.turn_advantages(
    worth, played, boards, seats(boards), 2, advantages.ESTIMATORS["grpo"]
  )
  assert not found.any() and not trained.any()


def test_where_the_members_of_a_group_differ():
  worth = np.array([[1, 2], [1, 0], [1, 5], [0, 5]], np.float32)
  found = advantages.differs_in_group(worth, 2)
  assert found.tolist() == [[False, True]] * 2 + [[True, False]] * 2
