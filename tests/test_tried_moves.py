"""Tests of groups that try all legal moves, and of stopping without a loss."""

import dataclasses
import itertools
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import players
from tests import test_grpo
from tests import test_self_play
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.algorithms import advantages
from tunix_ttt.models import checkpoints
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import self_play
from tunix_ttt.runs import run_directory
from tunix_ttt.text import answers
from tunix_ttt.train import game_rollout
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import opponent_pool

GAME = players.GAME
TRY_ALL = test_grpo.changed(
  dataclasses.replace(test_grpo.CONFIG, rollout=config_lib.RolloutConfig()),
  "episodes",
  starts=0.5,
  try_all=True,
)


@pytest.fixture(scope="module")
def model(sft_run):
  return checkpoints.load(sft_run / run_directory.FINAL_CHECKPOINT)


@pytest.mark.parametrize(
  ("context", "constrained"),
  [("board", False), pytest.param("full", "legal", marks=pytest.mark.slow)],
)
def test_tried_moves_are_played(context, constrained, model):
  play = config_lib.PlayConfig(
    context=context, max_turns=2, temperature=1.0, constrained=constrained
  )
  config = config_lib.SFTConfig(play=play)
  policy = model_policy.ModelPolicy(model.module, model.spec)
  env, tables = (
    GAME.environment(),
    sampler_lib.make_tables(config, model.tokenizer),
  )
  sample = sampler_lib.Sampler(policy, env, tables, play)
  # O after each first move of X.
  lines = GAME.lines
  assert lines is not None
  states = lines.opening_states(1, jnp.arange(18))
  keys = jax.random.split(jax.random.key(0), 18)
  legal = np.asarray(jax.vmap(env.legal)(states))
  tried = np.where(np.arange(18) < 12, legal.argmax(axis=1), -1)
  free = jax.device_get(sample(policy.params, keys, states))
  played = jax.device_get(
    sample(policy.params, keys, states, None, jnp.asarray(tried, jnp.int32))
  )
  assert free.tried is None
  np.testing.assert_array_equal(played.tried[:, 0], tried >= 0)
  assert not played.tried[:, 1].any() and played.turn_mask[:, 1].any()
  np.testing.assert_array_equal(played.moves[:12, 0], tried[:12])
  # Others are as if none had been tried.
  for name in ("moves", "actions", "log_probs", "ending"):
    np.testing.assert_array_equal(
      getattr(played, name)[12:], getattr(free, name)[12:]
    )
  # Thoughts name no other move, as far as one token does.
  named = np.asarray(tables.answers.names)[played.actions[:12, 0]]
  named = np.where(played.action_mask[:12, 0], named, -1)
  assert ((named == -1) | (named == tried[:12, None])).all()
  assert {*np.asarray(tables.answers.names).tolist()} == {*range(-1, 9)}


def test_a_tried_move_has_the_probability_of_all_names(model):
  table = sampler_lib.make_tables(
    config_lib.SFTConfig(), model.tokenizer
  ).answers
  ids = model.tokenizer.encode("<think>I block")
  state, rank = conftest.read_tokens(table, ids)
  state, rank = jnp.full(3, state), jnp.full(3, rank)
  size = len(table.token_class)
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, size)))
  tried = jnp.array([4, -1, 0])
  drawn = answers.try_action(table, state, rank, logits, tried, room=20)
  np.testing.assert_array_equal(drawn[1], logits[1])
  names = np.asarray(table.names)
  fits = np.asarray(answers.allowed(table, state, rank, room=20))
  for row in (0, 2):
    expected = np.where(fits[row], np.exp(logits[row]), 0)
    total = expected[names >= 0].sum()
    expected[names >= 0] = 0
    expected[names == tried[row]] = total
    actual = jax.nn.softmax(drawn[row])
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["board", "full"])
def test_self_play_tries_the_first_move_alone(context):
  config = test_self_play.load("tictactoe")
  config = test_grpo.changed(config, "play", context=context)
  config = test_grpo.changed(config, "rollout", constrained=False)
  config = test_grpo.changed(config, "episodes", starts=1.0, try_all=True)
  _, model, games, rollout = test_self_play.play(config)
  assert games.tried is None
  keys, states, tried = rollout.start(np.repeat(np.arange(4), 3), None)
  params = nnx.state(model.module)
  games = jax.device_get(rollout._sample(params, keys, states, None, tried))
  np.testing.assert_array_equal(games.moves[:, 0], tried)
  np.testing.assert_array_equal(games.tried.sum(axis=1), 1)
  both = self_play.by_seat(rollout._game.mirror(), games, 3)
  assert np.asarray(both.tried).sum() == len(keys)


def test_a_group_tries_each_legal_move_in_turn(model, tmp_path):
  config = test_grpo.changed(TRY_ALL, "training", batch_size=36)
  config = test_grpo.changed(config, "grpo", num_generations=9)
  pool = opponent_pool.OpponentPool(config, tmp_path)
  rollout = game_rollout.GameRollout(model, config, pool)
  groups = np.repeat(np.arange(40), 9)
  _, states, tried = rollout.start(groups, pool.opponent(0))
  is_random = rollout.start.has_random_start(groups)
  assert tried is not None
  tried = np.asarray(tried)
  assert (tried[~is_random] == -1).all() and is_random.any()
  legal = np.asarray(jax.vmap(GAME.environment().legal)(states))
  first = []
  for group in np.unique(groups[is_random]):
    rows = np.flatnonzero(groups == group)
    moves, counts = np.unique(tried[rows], return_counts=True)
    np.testing.assert_array_equal(moves, np.flatnonzero(legal[rows[0]]))
    assert np.ptp(counts) <= 1
    first.append(int(tried[rows[0]]))
  # Where there are fewer games than moves, each has its turn.
  assert len({*first}) > 4


def test_worse_moves_that_were_tried_are_not_trained():
  cases = [*itertools.product([True, False], [True, False], [-1.0, 0.5])]
  is_trained, tried, values = (
    np.array(each)[:, None] for each in zip(*cases, strict=True)
  )
  mask = advantages.without_worse(is_trained, values, tried)
  expected = [a and not (b and c < 0) for a, b, c in cases]
  assert mask[:, 0].tolist() == expected
  assert advantages.without_worse(is_trained, values, None) is is_trained


@pytest.mark.slow
def test_a_run_that_tries_moves_is_resumed_exactly(tmp_path):
  run = test_grpo.train(TRY_ALL, tmp_path / "run")
  rows, weights = test_grpo.rows(run), test_grpo.final(run)
  for row in rows:
    if row["split"] == "train":
      # The sampler's log-probabilities are those of the trainer.
      assert abs(row["log_ratio"]) < 1e-4
  recipes.resume(run, TRY_ALL, step=2)
  assert test_grpo.rows(run) == rows and test_grpo.final(run) == weights


def test_a_run_stops_where_no_line_is_lost(tmp_path):
  config = dataclasses.replace(
    test_grpo.CONFIG, exhaustive_eval=True, stop_at_no_loss=True
  )
  config = test_grpo.changed(
    config, "training", max_steps=9, eval_every_n_steps=1
  )
  lost = iter([(3, 1), (0, 2), (1, 0), (0, 0)])

  def evaluate(params, visit):
    del params, visit
    x, o = next(lost)
    return {"X/lines_lost": x, "O/lines_lost": o, "score": 0.5}

  plan = dataclasses.replace(grpo_plan.plan(config), evaluate=evaluate)
  (tmp_path / run_directory.METRICS).touch()
  grpo.GRPORun(plan, tmp_path).fit()
  lines = (tmp_path / run_directory.METRICS).read_text().splitlines()
  steps = [(r["split"], r["step"]) for r in map(json.loads, lines)]
  assert steps[-2:] == [("train", 3), ("eval", 3)]


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      {"episodes": {"try_all": True}},
      "episodes: try_all: moves are tried where",
    ),
    (
      {"stop_at_no_loss": True, "exhaustive_eval": False},
      "stop_at_no_loss: true: needs exact evaluations of greedy play",
    ),
  ],
)
def test_what_the_settings_need(settings, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(config_lib.GRPOConfig, settings)
