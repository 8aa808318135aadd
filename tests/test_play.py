"""Exact play of scripted players, against theory and a plain enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import players
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import rates
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import lines
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory

FIRST_LEGAL = rules.nth_cell()[rules.legal_masks(), 0].astype(np.int32)
PERFECT = solver.solve().preferred.astype(np.int32)
MARKS = [rules.X, rules.O]


@functools.cache
def judged(name, agent):
  table = {"perfect": PERFECT, "first": FIRST_LEGAL, "stuck": PERFECT * 0}[name]
  result = {m.seat: m.result for m in players.matches(table)}["-XO"[agent]]
  assert isinstance(result, rates.Exact)
  return result


def enumerate_game(table, agent, board=0, probability=1.0, best=False):
  """Yields (probability, winner's mark or 3) of every game, in plain Python."""
  cells = [board // 3**i % 3 for i in range(9)]
  for line in rules.LINES:
    marks = {cells[c] for c in line}
    if len(marks) == 1 and marks != {0}:
      yield probability, marks.pop()
      return
  free = [i for i in range(9) if not cells[i]]
  if not free:
    yield probability, 3
    return
  mark = 1 + (9 - len(free)) % 2
  if mark == agent:
    replies = [int(table[board])]
  elif best:
    mask = int(solver.solve().optimal[board])
    replies = [i for i in free if mask >> i & 1]
  else:
    replies = free
  for cell in replies:
    yield from enumerate_game(
      table, agent, board + mark * 3**cell, probability / len(replies), best
    )


@pytest.mark.parametrize("agent", MARKS)
def test_lines_are_every_reply_once(agent):
  # A player that always has a free cell left never cuts a line short.
  opponent_seed = jnp.asarray(opponents.enumerate_opponent_seeds(agent))
  total = len(opponent_seed)
  assert total == {rules.X: 384, rules.O: 945}[agent]
  env = env_lib.TicTacToe()
  states = jax.vmap(env.init)(opponent_seed, jnp.full(total, agent, jnp.int8))
  first = np.asarray(states.last_move)
  if agent == rules.O:
    assert np.bincount(first).tolist() == [105] * 9
  after = jax.vmap(env.step)(states, jnp.asarray(FIRST_LEGAL)[states.board])
  replies = set(
    zip(first.tolist(), np.asarray(after.last_move).tolist(), strict=True)
  )
  assert len(replies) == {rules.X: 8, rules.O: 9 * 7}[agent]


@pytest.mark.parametrize("agent", MARKS)
def test_a_perfect_player_never_loses(agent):
  found = judged("perfect", agent)
  assert found.lines_lost == 0
  assert found.worst == "draw"
  assert found.optimal and found.optimal["draw_rate"] == 1.0
  assert found.optimal_move_rate == 1.0


@pytest.mark.parametrize("agent", MARKS)
@pytest.mark.parametrize("name", ["perfect", "first"])
def test_rates_are_those_of_an_enumeration(name, agent):
  table = {"perfect": PERFECT, "first": FIRST_LEGAL}[name]
  found = judged(name, agent)
  for best, against in ((False, found.random), (True, found.optimal or {})):
    games = list(enumerate_game(table, agent, best=best))
    for rate, winners in (
      ("win_rate", {agent}),
      ("draw_rate", {3}),
      ("loss_rate", {3 - agent}),
    ):
      expected = sum(p for p, winner in games if winner in winners)
      assert against[rate] == pytest.approx(expected, abs=1e-12)
  games = list(enumerate_game(table, agent))
  assert found.lines == len(games)
  assert found.lines_lost == sum(winner == 3 - agent for _, winner in games)


@pytest.mark.parametrize("openings", [rules.ALL_CELLS, 1 << 4, 0b101])
def test_lines_are_weighted_with_the_openings_of_x(openings, monkeypatch):
  solved = solver.solve()
  # All openings are optimal, and would be weighted if they were not.
  assert solved.optimal[rules.EMPTY_BOARD] == rules.ALL_CELLS
  optimal = solved.optimal.copy()
  optimal[rules.EMPTY_BOARD] = openings
  games = players.matches(FIRST_LEGAL)[1].games
  changed = solved._replace(optimal=optimal)
  monkeypatch.setattr(solver, "solve", lambda: changed)
  weights = lines.optimal_weights(games)
  first = games.states.last_move[:, 0]
  sums = np.bincount(first, weights, minlength=9)
  cells = rules.mask_to_bool(openings)
  np.testing.assert_allclose(sums, cells * len(weights) / cells.sum())


def test_a_player_that_takes_taken_cells():
  found = judged("stuck", rules.X)
  assert found.random["illegal_rate"] == 1.0
  assert found.worst == "illegal"
  assert found.lines == found.lines_lost == 8


def test_sampled_games():
  env = env_lib.TicTacToe()
  keys = jax.random.split(jax.random.key(0), 2000)
  opponent_seed = jax.random.bits(jax.random.key(1), (2000,))
  states = jax.vmap(env.init)(opponent_seed, env_lib.starting_marks("x", 2000))
  games = jax.device_get(players.scripted_play(env, FIRST_LEGAL)(keys, states))
  found = rates.sampled(players.GAME, games)
  exact = judged("first", rules.X).random
  for name, (low, high) in found.intervals.items():
    # Far wider than the interval, so that chance does not fail the test.
    wide = 2 * (high - low)
    assert low - wide <= exact[name] <= high + wide
  assert sum(found.rates.values()) == pytest.approx(1.0)


def test_episodes_are_readable():
  scripted = players.scripted_play(env_lib.TicTacToe(), PERFECT)
  _, as_o = matches.exact_matches(scripted, players.GAME, 945)
  first = next(
    trajectory.describe(players.GAME, as_o.games, lambda ids: f"{ids}")
  )
  assert first["agent"] == "O" and first["ending"] in ("win", "draw")
  turn = first["turns"][0]
  assert turn["board"] == "X........" and turn["opponent_move"] == "A1"
  assert turn["move"] == "B2" and turn["optimal"]
