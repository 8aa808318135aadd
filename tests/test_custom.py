"""Tests functions of users, from Python and by name."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from tests import custom_functions
from tests import players
from tests import test_grpo
from tests import test_own_rewards
from tests import test_rewards
from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.algorithms import advantages
from tunix_ttt.algorithms import rewards
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

HERE = "tests.custom_functions"


def test_references_lead_back_to_functions():
  name = custom.reference(custom_functions.sign, "key")
  assert name == f"{HERE}:sign"
  assert custom.resolve(name, "key") is custom_functions.sign


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
  (tmp_path / "mine_alone.py").write_text("def f(): return 3\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("sys.path", [path for path in sys.path if path])
  assert custom.resolve("mine_alone:f", "key")() == 3


@pytest.mark.parametrize(
  "name, message",
  [
    (
      "no_such_module_at_all:f",
      "key: no_such_module_at_all:f: No module named",
    ),
    (f"{HERE}:none", f"key: the module {HERE} has no function none"),
    ("os:sep", "key: the module os has no function sep"),
    ("os.path", "key: expected package.module:function, found 'os.path'"),
  ],
)
def test_mistakes_in_references(name, message):
  with pytest.raises(errors.UserError, match=message):
    custom.resolve(name, "key")


def test_a_function_within_another_has_no_reference():
  with pytest.raises(errors.UserError, match="define it with def at the top"):
    custom.reference(lambda values, peers: values, "key")


@pytest.mark.parametrize(
  "name, message",
  [
    ("not_traceable", "JAX cannot trace this function .TracerBool"),
    ("a_float", "must return one integer, a cell from 0 to 8, found"),
  ],
)
def test_opponents_that_cannot_be_compiled(name, message):
  with pytest.raises(errors.UserError, match=message):
    opponents.from_name(f"{HERE}:{name}")


@pytest.mark.parametrize("level", ["episode", "turn"])
def test_an_estimator_of_ones_own(level):
  config = dataclasses.replace(
    test_grpo.CONFIG.grpo,
    num_generations=3,
    advantage_level=level,
    advantage_estimator=f"{HERE}:sign",
  )
  earned = np.array([[3], [1], [2], [5], [5], [5]], np.float32)
  played, boards = np.ones((6, 1), bool), np.full((6, 1), rules.EMPTY_BOARD)
  values, is_trained = advantages.advantages(
    earned, played, boards, np.zeros((6, 1), int), config
  )
  assert values[:, 0].tolist() == [1, -1, 0, 0, 0, 0]
  assert is_trained[:, 0].tolist() == [True] * 3 + [False] * 3


@pytest.mark.slow
def test_a_run_with_functions_of_ones_own(tmp_path):
  config = test_grpo.changed(
    test_grpo.CONFIG, "training", max_steps=2, optimizer=f"{HERE}:sgd"
  )
  config = dataclasses.replace(config, rollouts_per_log=32)
  run = recipes.train_grpo(
    config,
    tmp_path / "run",
    rewards={"center": custom_functions.center},
    advantage=custom_functions.sign,
    opponent=custom_functions.first_cell,
    text=custom_functions.Terse,
  )
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.functions == {
    key: custom.digest(function)
    for key, function in (
      ("grpo.advantage_estimator", custom_functions.sign),
      ("opponents.custom", custom_functions.first_cell),
      ("play.format", custom_functions.Terse),
      ("training.optimizer", custom_functions.sgd),
    )
  }
  assert manifest.config["play"]["format"] == f"{HERE}:Terse"
  # The opponent moves first in games that it opens, always on the first cell.
  opened = 0
  for line in (run / run_directory.ROLLOUTS).read_text().splitlines():
    game = json.loads(line)
    if game["agent"] == "O":
      assert game["turns"][0]["opponent_move"] == "A1"
      opened += 1
  assert opened
  assert "reward/center" in test_grpo.rows(run)[1]
  # The manifest's names are enough to resume it.
  resumed = recipes.resume(
    run, step=2, rewards={"center": custom_functions.center}
  )
  assert run_manifest.RunManifest.read(resumed).functions == manifest.functions


def test_a_run_goes_on_with_the_same_functions_alone(tmp_path):
  run = tmp_path / "run"
  config = test_grpo.changed(test_grpo.CONFIG, "training", max_steps=1)
  recipes.train_grpo(config, run, advantage=custom_functions.sign)
  manifest = run_manifest.RunManifest.read(run)
  other = {"grpo.advantage_estimator": "0" * 64}
  manifest.model_copy(update={"functions": other}).write(run)
  with pytest.raises(errors.UserError, match="of these functions has changed"):
    recipes.resume(run, step=1)


def test_rewards_by_name():
  config = config_lib.RewardsConfig(custom={"center": f"{HERE}:center"})
  checked = rewards.custom_rewards(None, config)
  assert checked == {"center": (custom_functions.center, 1.0)}
  with pytest.raises(errors.UserError, match="'center' already exists"):
    rewards.custom_rewards({"center": custom_functions.center}, config)
  config = config_lib.RewardsConfig(custom={"center": f"{HERE}:none"})
  message = "rewards.custom.center: the module .* has no function none"
  with pytest.raises(errors.UserError, match=message):
    rewards.custom_rewards(None, config)


def test_a_reward_on_what_the_model_wrote():
  games = test_rewards.games_of([4, 0, 0], [1, 2])
  written = trajectory.answer_texts(games, lambda ids: f"{len(ids)} B2")
  played = np.asarray(games.turn_mask)[0]
  assert [text != "" for text in written[0]] == played.tolist()
  values = rewards.evaluate_custom(
    "polite", custom_functions.polite, games, lambda ids: f"{len(ids)} B2"
  )
  np.testing.assert_array_equal(values, np.asarray(games.turn_mask))
  rewards.check(
    players.GAME,
    test_own_rewards.NONE,
    {"r": rewards.CustomReward(custom_functions.polite, 1.0)},
    3,
    4,
  )
