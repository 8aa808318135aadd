"""Tests reward functions from Python: validation, runs and resuming."""

import dataclasses
import functools
import hashlib
import inspect
from typing import Any

import jax
import numpy as np
import pytest

from tests import conftest
from tests import players
from tests import test_grpo
from tests import test_rewards
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.algorithms import rewards
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_manifest

NONE = config_lib.RewardsConfig(outcome=config_lib.OutcomeConfig(weight=0.0))
# Nothing but what is given.
CONFIG = dataclasses.replace(test_grpo.WITH_KL, rewards=NONE)


def centre(games):
  return games.moves == 4


def short(games):
  return -games.turn_mask.sum(axis=1)


def test_turns_and_whole_games_are_credited():
  games = test_rewards.games_of([4, 0, 0], [1, 2])
  given = rewards.custom_rewards(
    {"centre": centre, "short": (short, 0.5)}, NONE
  )
  found = rewards.components(players.GAME, games, NONE, 4, given)
  assert found["centre"].tolist() == [[1, 0, 0, 0, 0]]
  # Three turns, told at the last of them.
  assert found["short"].tolist() == [[0, 0, -1.5, 0, 0]]
  assert found["short"].dtype == np.float32


def test_turns_that_were_not_played_do_not_count():
  games = test_rewards.games_of([4], [0])
  found = rewards.evaluate_custom(
    "r", lambda g: np.full(g.moves.shape, np.nan), NO_TURN
  )
  assert not found.any()
  found = rewards.evaluate_custom("r", lambda g: np.ones(g.moves.shape), games)
  assert found.tolist() == [[1, 0, 0, 0, 0]]


NO_TURN = test_rewards.games_of([], [0])


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"outcome": centre}, "reward 'outcome' already exists in the config"),
    ({"my reward": centre}, "reward 'my reward': invalid name"),
    ({"r": 1.0}, "reward 'r': expected a function of games"),
    ({"r": (centre, "1")}, "weight must be a finite number, found '1'"),
    (
      {"r": (centre, float("nan"))},
      "weight must be a finite number, found nan",
    ),
    ({}, "the weights of all rewards are 0"),
  ],
)
def test_mistakes_in_what_is_given(given, message):
  with pytest.raises(errors.UserError, match=message):
    rewards.custom_rewards(given, NONE)


@pytest.mark.parametrize(
  ("function", "message"),
  [
    (
      lambda games: 1.0,
      r"shape \(2, 3\), or \(2,\) for whole games; found \(\)",
    ),
    (lambda games: games.moves[:, :2], r"'r'.*found \(2, 2\)"),
    (
      lambda games: None,
      "'r': must return an array of numbers, found NoneType",
    ),
    (lambda games: [[1], [1, 2]], "return an array of numbers, found list"),
  ],
)
def test_mistakes_are_told_before_anything_is_written(
  function, message, tmp_path
):
  with pytest.raises(errors.UserError, match=message):
    test_grpo.train(CONFIG, tmp_path / "run", {"r": function})
  assert not (tmp_path / "run").exists()


def test_what_is_no_number_is_told_with_its_place():
  games = test_rewards.games_of([4, 0, 8], [1, 2])

  def root(games):
    return np.where(games.moves == 0, np.inf, games.moves)

  message = "'root': must be a finite number, found inf for game 0, turn 1"
  with pytest.raises(errors.UserError, match=message):
    rewards.evaluate_custom("root", root, games)


def test_dummy_games_have_the_shapes_of_real_ones():
  games = trajectory_lib.dummy_trajectory(players.GAME, 5, 4)
  real = test_rewards.games_of([4], [0])
  assert jax.tree.map(lambda leaf: leaf.shape[1:], games) == jax.tree.map(
    lambda leaf: leaf.shape[1:], real
  )
  assert {len(leaf) for leaf in jax.tree.leaves(games)} == {2}
  # The model's move and the reply.
  assert rules.num_marks()[games.state.board].tolist() == [2, 0]


def test_records_name_the_source():
  mine: Any = {"a": centre, "b": (functools.partial(centre), 2), "c": np.sign}
  given = rewards.custom_rewards(mine, NONE)
  a, b, c = rewards.records(given).values()
  digest = hashlib.sha256(inspect.getsource(centre).encode()).hexdigest()
  assert a == run_manifest.RewardRecord(
    function="centre", weight=1.0, source=digest
  )
  assert (b.function, b.weight) == ("partial", 2.0)
  assert (c.function, c.source) == ("sign", None)


@pytest.mark.slow
def test_a_run_with_a_reward_of_its_own(tmp_path):
  given = {"centre": centre, "short": (short, 0.1)}
  run = test_grpo.train(CONFIG, tmp_path / "run", given)
  records = rewards.records(rewards.custom_rewards(given, NONE))
  assert run_manifest.RunManifest.read(run).rewards == records
  found = test_grpo.rows(run)
  for row in found:
    if row["split"] == "train":
      assert row["reward"] == pytest.approx(
        row["reward/centre"] + row["reward/short"], abs=1e-5
      )
      assert row["reward/short"] == pytest.approx(-0.1 * row["turns"])
      assert "reward/outcome" not in row

  resume = functools.partial(recipes.resume, run, CONFIG)
  with pytest.raises(
    errors.UserError, match="Python are centre, but the run has"
  ):
    resume(rewards={"centre": centre})
  with pytest.raises(errors.UserError, match="has changed since .*: short"):
    resume(rewards={"centre": centre, "short": (short, 0.2)})
  with pytest.raises(errors.UserError, match="has changed since .*: centre"):
    resume(rewards={**given, "centre": short})
  resume(step=2, rewards=given)
  assert test_grpo.rows(run) == found


def test_a_script_does_not_go_on_without_them(run, tmp_path):
  config = tmp_path / "config.yaml"
  config.write_text("rewards: {outcome: {weight: 0.0}}\n")
  script = conftest.ROOT / "training" / "train_grpo_tunix.py"
  result = run(script, "--config", config, "--output", tmp_path / "run")
  conftest.refused(result, "the weights of all rewards are 0")
  result = run(script, "--config", config, "--dry-run")
  conftest.refused(result, "the weights of all rewards are 0")
