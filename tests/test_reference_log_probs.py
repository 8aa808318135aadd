"""Tests scorers of games and importance weights."""

import dataclasses
from typing import Any, cast

from flax import nnx
import jax
import numpy as np
import pytest

from tests import conftest
from tests import test_grpo
from tunix_ttt import config as config_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.train import game_batches
from tunix_ttt.train import reference_log_probs

VOCAB = 64


def test_importance_weights_by_hand():
  trainer = np.log(np.array([[0.5, 0.6, 0.2, 0.9]], np.float32))
  sampler = np.log(np.array([[0.5, 0.2, 0.4, 0.1]], np.float32))
  trained = np.array([[True, True, True, False]])
  weights, metrics = game_batches.importance_weights(
    trainer, sampler, trained, 2.0
  )
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
  weights, metrics = game_batches.importance_weights(
    np.full((1, 2), -np.inf), np.zeros((1, 2)), nothing, 2.0
  )
  assert not weights.any() and set(metrics.values()) == {0.0}


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_scores_do_not_depend_on_devices_or_parts(parts):
  training = dataclasses.replace(
    test_grpo.CONFIG.training, gradient_accumulation_steps=parts
  )
  config = dataclasses.replace(test_grpo.CONFIG, training=training)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, VOCAB, (48, 8))
  mask = np.arange(8) < rng.integers(4, 9, (48, 1))
  mask[30:] = False
  module = specs.initialize(conftest.small_spec("qwen2.5", VOCAB), 0)
  expected = reference_log_probs.of_policy(module, config)(tokens, mask, mask)
  assert expected.shape == tokens.shape
  assert (expected[..., 0] == 0).all() and (expected[mask][1:] <= 0).all()
  mesh = meshes.make(config_lib.MeshConfig(fsdp=2))
  assert mesh is not None
  score = reference_log_probs.of_policy(meshes.copy(module, mesh), config)
  np.testing.assert_allclose(score(tokens, mask, mask), expected, atol=1e-5)


def model_with_adapters():
  """Returns a small model whose adapters have been trained, and its base."""
  base = specs.initialize(conftest.small_spec("qwen2.5", VOCAB), 0)
  config = config_lib.LoraConfig(rank=2)
  module = specs.apply_lora(base, **config_lib.to_dict(config), seed=0)
  change(module, 0.1)
  spec, tokenizer = conftest.small_spec("qwen2.5", VOCAB), cast(Any, None)
  model = checkpoints.Model(
    module=module, spec=spec, tokenizer=tokenizer, lora=config, revision=""
  )
  return model, base


def change(module, by):
  """Changes the adapters of a model, or all of one without any."""
  kind = nnx.LoRAParam if nnx.state(module, nnx.LoRAParam) else nnx.Param
  nnx.update(module, jax.tree.map(lambda v: v + by, nnx.state(module, kind)))


@pytest.mark.parametrize("reference", ["start", "base"])
@pytest.mark.parametrize(
  "has_adapters", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_the_reference_stays_what_it_is(reference, has_adapters):
  algorithm = config_lib.AlgorithmConfig(beta=0.1, reference=reference)
  config = dataclasses.replace(test_grpo.CONFIG, grpo=algorithm)
  model, base = model_with_adapters()
  if not has_adapters:
    model = dataclasses.replace(model, module=base, lora=None)
  rng = np.random.default_rng(0)
  tokens, mask = rng.integers(1, VOCAB, (3, 7)), np.ones((3, 7), bool)
  start = reference_log_probs.of_policy(model.module, config)(
    tokens, mask, mask
  )
  expected = start
  if reference == "base":
    expected = reference_log_probs.of_policy(base, config)(tokens, mask, mask)
  is_start = reference == "start" or not has_adapters
  assert (expected == start).all() == is_start
  score = reference_log_probs.of_reference(model, config)
  change(model.module, 0.1)
  np.testing.assert_array_equal(score(tokens, mask, mask), expected)
  moved = reference_log_probs.of_policy(model.module, config)(
    tokens, mask, mask
  )
  assert np.abs(moved - expected).max() > 1e-3


def test_whether_adapters_change_the_model():
  model, base = model_with_adapters()
  assert reference_log_probs.starts_from_adapters(model)
  module = specs.apply_lora(base, **config_lib.to_dict(model.lora), seed=0)
  new = dataclasses.replace(model, module=module)
  assert not reference_log_probs.starts_from_adapters(new)
  whole = dataclasses.replace(model, module=base, lora=None)
  assert not reference_log_probs.starts_from_adapters(whole)
