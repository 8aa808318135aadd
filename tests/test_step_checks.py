"""Checks of training steps: what they name, and that clean runs have no warning."""

import contextlib
from typing import Any

import numpy as np
import pytest

from tests import conftest
from tests import lessons
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import row_checks
from tunix_ttt.train import step_checks

lesson = lessons.load("silent_failures")

# Settings that change what is played, trained or compared.
CLEAN: dict[str, list[str]] = {
  "board": [],
  "full": ["play.context=full"],
  "truncated": ["play.context=truncated"],
  "retry": ["play.on_parse_error=retry"],
  "as O": ["episodes.agent=o"],
  "self-play": ["episodes.agent=both"],
  "own luck": ["episodes.opponent_seed=game"],
  "optimal": ["opponents.random=[0, 0]", "opponents.optimal=[1, 1]"],
  "search": ["opponents.custom=mcts:4"],
  "past selves": [
    "opponents.past_selves=[0.5, 0.5]",
    "opponents.add_every_n_steps=1",
  ],
  "past weights": [
    "opponents.past_selves=[0.5, 0.5]",
    "opponents.pool=weights",
    "opponents.add_every_n_steps=1",
  ],
  "exploiter": [
    "opponents.exploiter=[0.5, 0.5]",
    "opponents.add_every_n_steps=1",
  ],
  "positions": ["episodes.source=positions"],
  "mistakes": [
    "episodes.starts=0.5",
    "episodes.mistakes=0.5",
    "episodes.try_all=true",
  ],
  "regret": [
    "rewards.outcome.weight=0",
    "rewards.regret_weight=1",
    "grpo.advantage_level=turn",
    "grpo.turn_baseline=state",
    "grpo.discount=0",
  ],
  "iterations": ["grpo.num_iterations=2"],
  "stale": ["rollout.max_staleness=1"],
  "penalty": ["grpo.beta=0.1"],
  "sequences": ["grpo.loss_algo=gspo-token"],
  "legal moves": ["rollout.constrained=legal"],
  "cold": ["rollout.temperature=0.8"],
  "adapters": ["lora.rank=4", "training.optimizer=adamw"],
  "a policy's evaluation": ["play.temperature=1"],
  "sampled evaluation": ["exhaustive_eval=false"],
}
# Untrained players that can but answer in the format.
GAMES = [
  "connect_four",
  "frozen_lake",
  "kuhn_poker",
  "leduc_poker",
]


@pytest.fixture(scope="module")
def player(tmp_path_factory):
  """A poor player that knows the format."""
  run = conftest.make_once(
    tmp_path_factory,
    "poor_player",
    lambda path: lesson.make_player(path, 60),
  )
  return run / "checkpoint-final"


@pytest.fixture(scope="module")
def step(player, tmp_path_factory) -> step_checks.Step:
  """A clean step."""
  steps, faults_of = [], step_checks.faults_of
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      step_checks,
      "faults_of",
      lambda each: steps.append(each) or faults_of(each),
    )
    config = lesson.load(player, ["training.max_steps=1"])
    take_step(config, tmp_path_factory.mktemp("step"))
  return steps[0]


def take_step(config, path) -> None:
  run = grpo.GRPORun(grpo_plan.plan(config), path)
  with contextlib.closing(run.trainer), contextlib.closing(run.recorder):
    run.step(0)


def changed(step: step_checks.Step, **fields: Any) -> dict[str, str]:
  """Returns what is wrong with a step with other games."""
  games: Any = step.games
  games = games.replace(**fields)
  return step_checks.faults_of(step._replace(games=games))


class TestFindings:
  def test_a_clean_step(self, step):
    assert step_checks.faults_of(step) == {}

  @pytest.mark.parametrize(
    ("change", "name"),
    [
      (lesson.all_tokens, "mask"),
      (lesson.shift, "log_probs"),
      (
        lambda batch: batch.replace(completion_ids=batch.completion_ids + 1),
        "tokens",
      ),
    ],
  )
  def test_of_a_batch(self, step, change, name):
    assert {
      *step_checks.faults_of(step._replace(batch=change(step.batch)))
    } == {name}

  def test_a_sampler_that_differs(self, step):
    metrics = {**step.metrics, "log_ratio": 0.01}
    assert {*step_checks.faults_of(step._replace(metrics=metrics))} == {
      "sampler"
    }

  def test_a_move_without_an_end(self, step):
    actions = np.zeros_like(step.games.actions)
    faults = changed(step, actions=actions)
    assert "truncation" in faults

  def test_games_that_are_cut(self, step):
    cut = np.full_like(step.games.ending, step_checks.Ending.LENGTH)
    assert "100% of the games" in changed(step, ending=cut)["truncation"]

  def test_a_collapse(self, step):
    metrics = {**step.metrics, "entropy": step.metrics["entropy"] / 100}
    faults = step_checks.faults_of(step._replace(metrics=metrics))
    assert "entropy fell from" in faults["collapse"]
    metrics["reward"] += 0.1
    assert not step_checks.faults_of(step._replace(metrics=metrics))

  def test_weights_that_are_too_old(self, step):
    metrics = {**step.metrics, "sampler_is/weight_mean": 0.4}
    assert {*step_checks.faults_of(step._replace(metrics=metrics))} == {
      "staleness"
    }

  def test_each_check_has_a_section(self):
    page = (conftest.ROOT / step_checks.PAGE).read_text()
    sections = [line[3:] for line in page.splitlines() if line[:3] == "## "]
    assert set(sections) == {*step_checks.NAMES, *row_checks.NAMES}

  def test_twelve_mistakes_have_a_check_each(self):
    assert len(lesson.MISTAKES) == 12
    assert lesson.MISTAKES.keys() < {*step_checks.NAMES}

  def test_each_warning_is_told_once(self):
    lines = []
    report = step_checks.Reporter(lines.append)
    report(1, {"mask": "a"})
    report(2, {"mask": "b", "luck": "c"})
    assert lines == [
      "WARNING: step 1: mask: a; see docs/silent_failures.md#mask",
      "WARNING: step 2: luck: c; see docs/silent_failures.md#luck",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", lesson.MISTAKES)
def test_a_mistake_is_named_within_a_step(player, tmp_path, name):
  mistake = lesson.MISTAKES[name]
  config = lesson.load(player, mistake.settings)
  assert name in lesson.train(config, tmp_path, mistake)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_run_has_no_warning(player, tmp_path, name):
  config = lesson.load(player, CLEAN[name])
  assert lesson.train(config, tmp_path, lesson.Mistake()) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_a_clean_run_of_another_game_has_no_warning(tmp_path, name):
  config = lesson.load(
    "tiny-qwen2.5",
    [
      f"game.name={name}",
      "tokenizer.split_by_whitespace=true",
      "data.games.num_games=200",
      "data.games.expert=random",
      "data.games.thoughts=none",
      "exhaustive_eval=false",
      "play.num_games=16",
      "play.max_turns=50",
      "play.max_new_tokens=24",
      "rollout.constrained=legal",
      "play.constrained=legal",
      "rewards.outcome.weight=0",
      "rewards.return_weight=1",
    ],
  )
  assert lesson.train(config, tmp_path, lesson.Mistake()) == {}


@pytest.mark.slow
def test_no_checks(player, tmp_path):
  config = lesson.load(player, ["checks=false", "training.max_steps=1"])
  take_step(config, tmp_path)
  assert "seconds_checks" not in (tmp_path / "metrics.jsonl").read_text()
