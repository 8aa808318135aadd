"""Tests the page on games of one's own, and the rows and verdicts it makes."""

import re
import types

import numpy as np
import pytest

from tests import conftest
from tests import test_sampler
from tunix_ttt.data import game_rows
from tunix_ttt.data import row_formats
from tunix_ttt.evaluate import judge
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory

PAGE = conftest.ROOT / "docs/your_own_game.md"
model = test_sampler.model


@pytest.fixture(scope="module")
def nim():
  """Runs the page, which checks and solves its game."""
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
  module = types.ModuleType("nim")
  exec("\n".join(blocks), vars(module))
  return module


@pytest.fixture(scope="module")
def view(nim):
  return view_lib.View(game=nim.game, opponents=players.random(nim.game))


def make(nim, view, count, **settings):
  rows = game_rows.rows(
    view, nim.text, nim.optimal, num_games=count, **settings
  )
  return list(rows)


def test_rows_are_the_moves_of_the_expert(nim, view):
  rows = make(nim, view, 40)
  seats = set()
  for row in rows:
    assert row_formats.name_of(row) == "messages"
    system, user, assistant = (turn["content"] for turn in row["messages"])
    assert system == nim.text.rules
    (stones,) = map(int, re.findall(r"^Stones: (\d)\nYour move\?$", user))
    (taken,) = map(int, re.findall(r"^<move>([123])</move>$", assistant))
    # Good play leaves a multiple of four, if that is possible.
    assert taken == stones % 4 or stones % 4 == 0
    seats.add(row["seat"])
  assert seats == {"first", "second"}
  # A game depends on its number and the seed alone.
  assert make(nim, view, 7) == rows[: len(make(nim, view, 7))]
  assert make(nim, view, 7, seed=1) != make(nim, view, 7)


def test_rows_of_lost_games_are_dropped(nim):
  perfect = view_lib.View(game=nim.game, opponents=nim.optimal)
  rows = make(nim, perfect, 40)
  won = make(nim, perfect, 40, min_return=1.0)
  assert {row["return"] for row in rows} == {-1.0, 1.0}
  assert won == [row for row in rows if row["return"] == 1]
  # The first player wins against anyone.
  assert {row["seat"] for row in won} == {"first"}


@pytest.fixture(scope="module")
def untrained(model, tokenizer):
  spec, module = model
  return checkpoints.Model(
    module=module, spec=spec, tokenizer=tokenizer, revision="untrained"
  )


def test_verdicts_do_not_depend_on_batches(nim, view, untrained):
  def judged(batch_size):
    play = test_sampler.play_config(
      num_games=9,
      batch_size=batch_size,
      max_turns=5,
      max_new_tokens=24,
      constrained=True,
    )
    return judge.judge(untrained, view, nim.text, play)

  verdicts = judged(4)
  assert list(verdicts) == ["first", "second"]
  assert verdicts == judged(9)
  for verdict in verdicts.values():
    assert verdict.games == 9 and sum(verdict.rates.values()) == 1
    assert set(verdict.rates) == set(trajectory.RATES)
    mean = verdict.rates["win_rate"] - verdict.rates["loss_rate"]
    assert verdict.mean_return == pytest.approx(mean)
    low, high = verdict.return_interval
    assert low <= verdict.mean_return <= high
    for name, rate in verdict.rates.items():
      low, high = verdict.intervals[name]
      assert 0 <= low <= rate <= high <= 1


def test_an_interval_of_the_mean_return():
  endings = np.array([trajectory.Ending.WIN, trajectory.Ending.LOSS] * 2)
  verdict = judge._verdict(endings, np.array([2.0, -1.0, 1.0, -1.0]))
  # Mean 0.25, standard deviation 1.5, t(3) = 3.182.
  low, high = verdict.return_interval
  assert verdict.mean_return == 0.25
  assert (low, high) == pytest.approx((0.25 - 2.387, 0.25 + 2.387), abs=1e-3)


@pytest.mark.slow
def test_a_taught_model_plays_perfectly(nim, tmp_path):
  run = nim.teach(tmp_path)
  first = {name: v["first"] for name, v in nim.judged(run).items()}
  assert first["random"].rates["win_rate"] == 1
  assert first["optimal"].rates["win_rate"] == 1
