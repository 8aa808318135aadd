"""Tests the start positions of GRPO games: `episodes.starts`."""

from collections import Counter
import dataclasses
import pathlib

from flax import nnx
import jax
import numpy as np
import pytest

from tests import test_grpo
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import game_rollout
from tunix_ttt.train import mistake_starts
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import optimizers
from tunix_ttt.train import reference_log_probs

MEMBERS = test_grpo.CONFIG.grpo.num_generations


@pytest.fixture(scope="module")
def model():
  return reference_log_probs.base_model(test_grpo.CONFIG)


def begin(model, first, last, **episodes):
  """Returns the starts of the games of some groups, on the host: [G, M]."""
  config = test_grpo.changed(test_grpo.CONFIG, "episodes", **episodes)
  pool = opponent_pool.OpponentPool(config, pathlib.Path("none"))
  rollout = game_rollout.GameRollout(model, config, pool)
  groups = np.repeat(np.arange(first, last), MEMBERS)
  keys, states, _ = rollout.start(groups, pool.opponent(0))
  states = jax.tree.map(np.asarray, (jax.random.key_data(keys), states))
  return jax.tree.map(
    lambda leaf: leaf.reshape(-1, MEMBERS, *leaf.shape[1:]), states
  )


def starts_at_random(states):
  """Returns which groups cannot have started on the empty board."""
  return rules.num_marks()[states.board[:, 0]] > 1


@pytest.mark.parametrize("opponent_seed", ["group", "game"])
def test_the_games_of_a_group_share_a_position_with_the_agent_to_move(
  model, opponent_seed
):
  _, states = begin(model, 0, 700, starts=1.0, opponent_seed=opponent_seed)
  board, last = states.board[:, :1], states.last_move[:, :1]
  assert (states.board == board).all() and (states.last_move == last).all()
  assert (
    states.agent == np.where(np.arange(700) % 2, rules.O, rules.X)[:, None]
  ).all()
  assert (states.outcome == env_lib.Outcome.ONGOING).all()
  for mark in (rules.X, rules.O):
    chosen = states.agent[:, 0] == mark
    own = board[chosen, 0]
    every = rules.positions(mark)
    assert np.isin(own, every).all()
    # 350 draws of some two thousand positions are rarely the same.
    assert len(np.unique(own)) > 280
    half = np.median(every)
    assert abs((own < half).mean() - 0.5) < 0.1
  is_opening = rules.num_marks()[board] == 0
  assert ((last == -1) == is_opening).all()
  marks = np.take_along_axis(rules.cells()[board[:, 0]], np.maximum(last, 0), 1)
  other = rules.X + rules.O - states.agent[:, :1]
  assert ((marks == other) | is_opening).all()


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_shares_are_exact_for_each_mark(model, share):
  _, states = begin(model, 0, 600, starts=share)
  config = test_grpo.changed(test_grpo.CONFIG, "episodes", starts=share)
  pool = opponent_pool.OpponentPool(config, pathlib.Path("none"))
  rollout = game_rollout.GameRollout(model, config, pool)
  chosen = rollout.start.has_random_start(np.arange(600))
  is_random = starts_at_random(states)
  assert not is_random[~chosen].any() and is_random[chosen].mean() > 0.95
  for mark in (0, 1):
    count = np.cumsum(chosen[mark::2])
    expected = np.floor(np.arange(1, 301) * share)
    np.testing.assert_array_equal(count, expected)
  # Batches of 4 groups and of 7, which is no multiple of the pairs.
  for size in (4, 7):
    batches = chosen[: 600 // size * size].reshape(-1, size).sum(axis=1)
    assert (np.abs(batches - size * share) < 2).all()


def test_games_of_the_other_groups_are_as_without(model):
  _, without = begin(model, 0, 20)
  keys, states = begin(model, 0, 20, starts=0.5)
  same = np.arange(20) // 2 % 2 == 0
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[same], b[same]),
    states,
    without,
  )
  assert (states.opponent_seed == without.opponent_seed).all()
  # A group's start depends on its number alone, so any step can be resumed.
  later_keys, later = begin(model, 7, 13, starts=0.5)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b[7:13]),
    (later_keys, later),
    (keys, states),
  )


@pytest.mark.parametrize("source", ["positions", "prompts"])
def test_only_games_have_starts(source):
  settings = {"episodes": {"source": source, "starts": 0.5}}
  with pytest.raises(
    errors.UserError, match=f"episodes: starts: 0.5: {source}"
  ):
    config_lib.load(config_lib.GRPOConfig, settings)


MISTAKES = test_grpo.changed(
  dataclasses.replace(test_grpo.CONFIG, exhaustive_eval=True),
  "episodes",
  starts=0.5,
  mistakes=0.5,
)


def evaluated(game, boards, lasts, moves):
  """Returns games of one turn on boards after last moves, as of an evaluation."""
  template = trajectory.dummy_trajectory(game, 1, 1)
  games = jax.tree.map(
    lambda leaf: np.repeat(leaf[:1], len(boards), axis=0), template
  )
  board = np.array(boards)[:, None]
  states = games.states.replace(
    board=board,
    agent=rules.side_to_move()[board].astype(np.int8),
    last_move=np.array(lasts, np.int8)[:, None],
  )
  return games.replace(states=states, moves=np.array(moves)[:, None])


def test_groups_start_on_the_mistakes_of_their_seat(model, tmp_path):
  game = catalog.of(MISTAKES)
  of_x, of_o = (
    [board_text.from_text(text) for text in texts]
    for texts in (
      ("X...O....", "XXO.O....", "........."),
      ("XX..O....", "XOX.OX..."),
    )
  )
  pool = mistake_starts.MistakePool(MISTAKES, tmp_path)
  assert not pool.draw(np.arange(50))[0].any()
  best = [solver.optimal_cells(board)[0] for board in of_x]
  worse = board_positions.rejected_cells(of_x[1], "worse")[0]
  wrong = board_positions.rejected_cells(of_o[1], "worse")[0]
  boards, lasts = [*of_x, of_x[1], of_x[1]], [4, 2, -1, 4, 2]
  right = [*best, best[1], best[1]]
  pool.add(
    7,
    [
      # One board was reached by two last moves, and by one of them twice.
      evaluated(game, boards, lasts, [best[0], worse, best[2], worse, worse]),
      # The first answer is unreadable.
      evaluated(game, of_o, [1, 0], [-1, wrong]),
    ],
  )
  groups = np.repeat(np.arange(400), MEMBERS)
  chosen, (boards_drawn, last_drawn) = pool.draw(groups)
  seats = groups % 2
  for seat, mistakes in (
    (0, {(of_x[1], 2), (of_x[1], 4)}),
    (1, {(of_o[0], 1), (of_o[1], 0)}),
  ):
    drawn = chosen & (seats == seat)
    pairs = zip(boards_drawn[drawn], last_drawn[drawn], strict=True)
    found = Counter((int(board), int(last)) for board, last in pairs)
    assert found.keys() == mistakes
    # Each is drawn as often as the other.
    assert max(found.values()) < 2 * min(found.values())
  assert abs(chosen.mean() - 0.5) < 0.1
  by_group = (chosen.reshape(400, -1), boards_drawn.reshape(400, -1))
  assert all((each == each[:, :1]).all() for each in by_group)
  # A resumed run has the positions of the evaluation before its checkpoint.
  again = mistake_starts.MistakePool(MISTAKES, tmp_path)
  again.restore(6)
  assert not again.draw(groups)[0].any()
  again.restore(8)
  jax.tree.map(
    np.testing.assert_array_equal, again.draw(groups), pool.draw(groups)
  )
  # Games start on them, unless their group starts on the empty board.
  rollout = game_rollout.GameRollout(
    model,
    MISTAKES,
    opponent_pool.OpponentPool(MISTAKES, tmp_path),
    mistakes=pool,
  )
  _, states, _ = rollout.start(groups, rollout._pool.opponent(0))
  is_random = rollout.start.has_random_start(groups)
  there = np.asarray(states.board) == boards_drawn
  assert there[chosen & is_random].all()
  assert (rules.num_marks()[states.board[~is_random]] < 2).all()
  # X makes no mistake any more.
  pool.add(
    9,
    [
      evaluated(game, boards, lasts, right),
      evaluated(game, of_o, [1, 0], [-1, wrong]),
    ],
  )
  now = pool.draw(groups)[0]
  assert not now[seats == 0].any()
  np.testing.assert_array_equal(now[seats == 1], chosen[seats == 1])
  (tmp_path / "mistakes" / "7.npz").write_bytes(b"PK no archive")
  with pytest.raises(errors.UserError, match=r"7\.npz: no positions"):
    again.restore(7)


def test_groups_start_on_sampled_mistakes(model, tmp_path):
  config = test_grpo.changed(
    MISTAKES, "episodes", mistakes=0.3, sampled_mistakes=0.5
  )
  game = catalog.of(config)
  pool = mistake_starts.MistakePool(config, tmp_path)
  sampled = mistake_starts.SampledPositions(model, config)
  params = nnx.state(model.module)
  answers = sampled(params, 3)
  seats = game.seat_numbers(answers.states)[:, 0]
  assert np.bincount(seats).tolist() == [512, 512]
  same, other = sampled(params, 3), sampled(params, 4)
  np.testing.assert_array_equal(same.states.board, answers.states.board)
  assert (other.states.board != answers.states.board).mean() > 0.9
  # O errs in a game.
  board = board_text.from_text("XX..O....")
  pool.add(3, [evaluated(game, [board], [1], [-1])], answers)
  wrong = ~trajectory.optimal_moves(game, answers)[:, 0]
  places = zip(
    seats[wrong].tolist(),
    answers.states.board[wrong, 0].tolist(),
    answers.states.last_move[wrong, 0].tolist(),
    strict=True,
  )
  mistakes = {*places}
  groups = np.repeat(np.arange(800), MEMBERS)
  chosen, (boards, lasts) = pool.draw(groups)
  pairs = [*zip(boards.tolist(), lasts.tolist(), strict=True)]
  is_reached = np.array([pair == (board, 1) for pair in pairs])
  elsewhere = np.flatnonzero(chosen & ~is_reached)
  assert all((groups[n] % 2, *pairs[n]) in mistakes for n in elsewhere)
  of_o = groups % 2 == 1
  assert abs(is_reached[of_o].mean() - 0.3) < 0.1
  # X, without a mistake in a game, has both shares of the others.
  for seat in (of_o, ~of_o):
    assert abs(chosen[seat].mean() - 0.8) < 0.1
  again = mistake_starts.MistakePool(config, tmp_path)
  again.restore(3)
  jax.tree.map(
    np.testing.assert_array_equal, again.draw(groups), pool.draw(groups)
  )


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"episodes": {"mistakes": 0.5}}, "episodes: mistakes: 0.5: they are"),
    (
      {"episodes": {"sampled_mistakes": 0.5}},
      "episodes: sampled_mistakes: 0.5: they are",
    ),
    (
      {"episodes": {"starts": 1, "mistakes": 0.6, "sampled_mistakes": 0.5}},
      "episodes: mistakes: 0.6 and sampled_mistakes: 0.5 are shares",
    ),
    (
      {"episodes": {"starts": 1.0, "mistakes": 1.0}, "exhaustive_eval": False},
      "episodes.mistakes: 1.0: needs exact evaluations of greedy play",
    ),
  ],
)
def test_what_mistakes_need(settings, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(config_lib.GRPOConfig, settings)


def test_mistakes_need_a_solved_game(tmp_path):
  config = dataclasses.replace(
    MISTAKES, game=config_lib.GameConfig(name="kuhn_poker")
  )
  with pytest.raises(errors.UserError, match="episodes.mistakes: needs an"):
    mistake_starts.MistakePool(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_with_everything_is_resumed_exactly(staleness, tmp_path):
  config = dataclasses.replace(
    test_grpo.CONFIG,
    episodes=config_lib.EpisodesConfig(
      starts=0.5, mistakes=0.4, sampled_mistakes=0.4, try_all=True
    ),
    exhaustive_eval=True,
    rollout=config_lib.RolloutConfig(constrained=True, max_staleness=staleness),
    opponents=config_lib.OpponentsConfig(
      random=(0.5, 0.2), optimal=(0.2, 0.3), past_selves=(0.3, 0.5),
      add_every_n_steps=1,
    ),
    rollouts_per_log=16,
  )  # fmt: skip
  config = test_grpo.changed(config, "grpo", num_iterations=2)
  # The checkpoint of step 2 is not that of an evaluation.
  config = test_grpo.changed(
    config, "training", warmup_steps=2, eval_every_n_steps=3
  )
  run = test_grpo.train(config, tmp_path / "run")
  found, weights = test_grpo.rows(run), test_grpo.final(run)
  trained = [row for row in found if row["split"] == "train"]
  rates = optimizers.learning_rate(optimizers.in_updates(config))
  assert [row["learning_rate"] for row in trained] == [
    float(np.asarray(rates(2 * step))) for step in range(4)
  ]
  # Most games from the empty board have more turns than the others.
  assert 1.5 < np.mean([row["turns"] for row in trained]) < 4
  recipes.resume(run, config, step=2)
  assert test_grpo.rows(run) == found and test_grpo.final(run) == weights
