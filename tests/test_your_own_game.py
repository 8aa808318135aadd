"""Tests the page on games of one's own: rows, checkpoints, training, verdicts."""

import collections
import dataclasses
import json
import re
import sys
import types
from typing import Any

import numpy as np
import pytest

from tests import conftest
from tests import test_sampler
import tunix_ttt as ttt
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import row_formats
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import rates
from tunix_ttt.games import catalog
from tunix_ttt.games import expert_rows
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory

PAGE = conftest.ROOT / "docs/your_own_game.md"
model = test_sampler.model


@pytest.fixture(scope="module")
def nim():
  """Runs the page, which checks and solves its game, as the module `nim`."""
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
  module = types.ModuleType("nim")
  sys.modules["nim"] = module
  exec("\n".join(blocks), vars(module))
  yield module
  del sys.modules["nim"]
  catalog._load.cache_clear()


@pytest.fixture(scope="module")
def game(nim):
  return catalog.load("nim:define")


def make(game, count, opponent=None, **settings):
  expert = game.player("optimal", "expert")
  games = expert_rows.games(game, expert, opponent, num_games=count, **settings)
  return [row for _, rows in games for row in rows]


def test_rows_are_the_moves_of_the_expert(game):
  rows = make(game, 40)
  seats = set()
  for row in rows:
    assert row_formats.name_of(row) == "messages"
    system, user, assistant = (turn["content"] for turn in row["messages"])
    assert system == game.text.rules and row["game"] == "nim"
    (stones,) = map(int, re.findall(r"^Stones: (\d)\nYour move\?$", user))
    (taken,) = map(int, re.findall(r"^<move>([123])</move>$", assistant))
    # Good play leaves a multiple of four, if that is possible.
    assert taken == stones % 4 or stones % 4 == 0
    seats.add(row["seat"])
  assert seats == {"first", "second"}
  # A game depends on its number and the seed alone.
  assert make(game, 7) == rows[: len(make(game, 7))]
  assert make(game, 7, seed=1) != make(game, 7)


def test_rows_do_not_depend_on_how_many_games_are_active(game, monkeypatch):
  rows = make(game, 23)
  monkeypatch.setattr(expert_rows, "_WIDTH", 5)
  assert make(game, 23) == rows


def test_slips_change_positions_but_not_answers(game):
  def first_seat(**settings):
    for row in make(game, 40, **settings):
      if row["seat"] == "first":
        _, user, assistant = (turn["content"] for turn in row["messages"])
        yield tuple(int(re.findall(r"\d", x)[0]) for x in (user, assistant))

  # The first player always leaves a multiple of four.
  assert all(stones % 4 for stones, _ in first_seat())
  slipped = [*first_seat(slips=0.5)]
  assert any(stones % 4 == 0 for stones, _ in slipped)
  assert all(stones % 4 in (0, taken) for stones, taken in slipped)


def test_rows_of_lost_games_are_dropped(game):
  rows = make(game, 40, game.player("optimal", "opponent"))
  kind = game.rows.kinds["games"](game=game, opponent="optimal", keep="won")
  counts = collections.Counter()
  won = list(kind.rows(40, 0, counts))
  assert counts == {
    "kept win": 20,
    "dropped loss": 20,
    "dropped draw": 0,
  }
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


def settings(**play):
  return config_lib.load(
    config_lib.SFTConfig,
    {
      "game": {"name": "nim:define"},
      "data": {"games": {"thoughts": "none"}},
      "play": {"max_turns": 5, "max_new_tokens": 24, **play},
    },
  )


@pytest.mark.slow
def test_results_do_not_depend_on_batches(game, untrained):
  def judged(batch_size):
    config = settings(num_games=9, batch_size=batch_size, constrained=True)
    played = matches.play_games(untrained, config)
    return {match.seat: match.result for match in played}

  results: dict[str, Any] = judged(4)
  assert list(results) == ["first", "second"]
  assert results == judged(9)
  for result in results.values():
    assert result.games == 9 and sum(result.rates.values()) == 1
    assert set(result.rates) == set(trajectory.RATES)
    mean = 2 * result.rates["win_rate"] - 1
    assert result.mean_return == pytest.approx(mean)
    low, high = result.return_interval
    assert low <= result.mean_return <= high
    for name, rate in result.rates.items():
      low, high = result.intervals[name]
      assert 0 <= low <= rate <= high <= 1


def test_an_interval_of_the_mean_return(game, untrained):
  (match, _) = matches.play_games(untrained, settings(num_games=4))
  games = dataclasses.replace(
    match.games,
    ending=np.array([trajectory.Ending.WIN] * 3 + [trajectory.Ending.LENGTH]),
  )
  paid: Any = types.SimpleNamespace(
    unsolved="yes",
    returns=lambda state, endings: np.array([2.0, -1.0, 1.0, -1.0]),
  )
  result = rates.sampled(paid, games)
  # Mean 0.25, standard deviation 1.5, t(3) = 3.182.
  assert result.mean_return == 0.25
  assert result.return_interval == pytest.approx(
    (0.25 - 2.387, 0.25 + 2.387), abs=1e-3
  )


def test_records_of_games(game, untrained):
  (match, _) = matches.play_games(untrained, settings(num_games=3))
  decode = untrained.tokenizer.decode
  first, *others = trajectory.describe(game, match.games, decode)
  assert len(others) == 2
  assert list(first) == [
    "game",
    "seat",
    "ending",
    "return",
    "final",
    "turns",
  ]
  assert (first["game"], first["seat"]) == ("nim", "first")
  turn = first["turns"][0]
  assert turn["observation"] == "Stones: 9\nYour move?"
  assert turn["move"] is None and not turn["optimal"]
  assert json.dumps(first)


@pytest.mark.slow
def test_a_taught_model_plays_perfectly(nim, tmp_path):
  run = nim.teach(tmp_path)
  taught = ttt.load_model(run)
  first: Any
  first, second = ttt.play_all_lines(taught, nim.GRPO)
  assert first.result.returns["worst"] == 1
  assert first.result.lines_lost == 0
  assert second.result.optimal_move_rate == 1
  with pytest.raises(errors.UserError, match="trained on nim:define, but"):
    ttt.load_model(run, {**nim.GRPO, "game": {"name": "kuhn_poker"}})
