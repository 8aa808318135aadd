"""Log-probabilities by other weights than the sampler's, and what they weigh."""

import dataclasses

import numpy as np
import pytest

from tests import conftest
from tests import test_grpo
from tunix_ttt import config as config_lib
from tunix_ttt.models import meshes
from tunix_ttt.models import specs
from tunix_ttt.train import scorers

VOCAB = 64


def test_importance_weights_by_hand():
  trainer = np.log(np.array([[0.5, 0.6, 0.2, 0.9]], np.float32))
  sampler = np.log(np.array([[0.5, 0.2, 0.4, 0.1]], np.float32))
  trained = np.array([[True, True, True, False]])
  weights, metrics = scorers.importance_weights(trainer, sampler, trained, 2.0)
  # 3 is cut at 2; the last token is not trained.
  np.testing.assert_allclose(weights, [[1, 2, 0.5, 0]], rtol=1e-6)
  assert metrics == pytest.approx(
    {
      "log_ratio": (0 + np.log(3) + np.log(2)) / 3,
      "sampler_is/weight_mean": 3.5 / 3,
      "sampler_is/share_cut": 1 / 3,
    }
  )


def test_nothing_trained_weighs_nothing():
  nothing = np.zeros((1, 2), bool)
  weights, metrics = scorers.importance_weights(
    np.full((1, 2), -np.inf), np.zeros((1, 2)), nothing, 2.0
  )
  assert not weights.any() and set(metrics.values()) == {0.0}


@pytest.mark.parametrize("parts", [1, 2])
def test_scores_do_not_depend_on_devices_or_parts(parts):
  training = dataclasses.replace(
    test_grpo.CONFIG.training, gradient_accumulation_steps=parts
  )
  config = dataclasses.replace(test_grpo.CONFIG, training=training)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, VOCAB, (4, 2, 8))
  mask = np.arange(8) < rng.integers(4, 9, (4, 2, 1))
  module = specs.initialize(conftest.small_spec("qwen2.5", VOCAB), 0)
  expected = scorers.of_policy(module, config)(tokens, mask)
  assert expected.shape == tokens.shape
  assert (expected[..., 0] == 0).all() and (expected[mask][1:] <= 0).all()
  mesh = meshes.make(config_lib.MeshConfig(fsdp=2))
  assert mesh is not None
  score = scorers.of_policy(meshes.copy(module, mesh), config)
  np.testing.assert_allclose(score(tokens, mask), expected, atol=1e-5)
