"""First moves of a model."""

import dataclasses

import numpy as np
import pytest

from tests import test_grpo
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import partner as partner_lib
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.train import reference_log_probs

# Two batches, the second of them cut.
PLAY = dataclasses.replace(test_grpo.CONFIG.play, batch_size=32)
CONFIG = dataclasses.replace(test_grpo.CONFIG, play=PLAY)
NUM_GAMES = 40


@pytest.fixture(scope="module")
def model():
  return reference_log_probs.base_model(CONFIG)


@pytest.mark.slow
def test_greedily_each_opening_has_one_answer(model, monkeypatch):
  monkeypatch.setattr(matches, "OPENINGS_TEMPERATURE", 0.0)
  found = matches.sample_openings(model, CONFIG, 0, NUM_GAMES)
  assert found is not None
  partner = partner_lib.Partner(model, CONFIG, num_games=9)
  (first, *_) = partner.answer(0, [[]] * 9)
  assert found["x"] == [
    NUM_GAMES * (cell == first.action) for cell in range(10)
  ]
  replies = partner.answer(1, [[cell] for cell in range(9)])
  for cell, reply in enumerate(replies):
    # 40 games are four of each opening, and one more of the first four.
    count = 4 + (cell < 4)
    named = reply.action if reply.is_legal else 9
    wanted = [count * (cell == named) for cell in range(10)]
    assert found["o"][text_formats.coordinate(cell)] == wanted


def test_samples_are_of_the_seed(model):
  found = [
    matches.sample_openings(model, CONFIG, n, NUM_GAMES) for n in (0, 0, 1)
  ]
  assert found[0] == found[1] != found[2]
  for each in found:
    assert each is not None
    assert sum(each["x"]) == NUM_GAMES == sum(map(sum, each["o"].values()))
    # A taken cell is no answer.
    assert np.trace([row[:9] for row in each["o"].values()]) == 0
