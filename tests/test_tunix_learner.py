"""Tests that Tunix's `GRPOLearner` trains like `train.grpo`."""

import numpy as np
import pytest

from tests import test_grpo
from tunix_ttt import recipes
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.runs import run_directory
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import tunix_learner


@pytest.mark.slow
@pytest.mark.parametrize("parts, iterations", [(1, 1), (2, 2)])
def test_it_ends_with_the_same_weights(parts, iterations, tmp_path):
  config = test_grpo.changed(
    test_grpo.CONFIG, "training", gradient_accumulation_steps=parts, max_steps=2
  )
  config = test_grpo.changed(
    config, "grpo", num_iterations=iterations, beta=0.0
  )
  model = reference_log_probs.base_model(config)
  before = specs.parameters(model.module)
  before = {name: np.array(value) for name, value in before.items()}
  tunix_learner.GameLearner(model, config).fit()
  run = recipes.train_grpo(config, tmp_path / "run")
  ours = checkpoints.load(run / run_directory.FINAL_CHECKPOINT).module
  expected = specs.parameters(ours)
  moved = 0.0
  for name, value in specs.parameters(model.module).items():
    np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)
    moved = max(moved, float(np.abs(value - before[name]).max()))
  # Both have been trained, and not both been left alone.
  assert moved > 1e-3
