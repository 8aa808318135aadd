"""Tests optimizers and their float32 copies of bfloat16 parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tunix_ttt import config as config_lib
from tunix_ttt.train import optimizers


def run(params, learning_rate, steps=200):
  """Follows the same gradients; returns the parameters and the state."""
  config = config_lib.TrainingConfig(
    max_steps=1000, final_learning_rate=1.0, learning_rate=learning_rate
  )
  optimizer = optimizers.make(config)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  for number in range(steps):
    values = np.random.default_rng(number).normal(0.5, 1, (4, 8))
    gradients = {"w": jnp.asarray(values, params["w"].dtype)}
    params, state = step(params, state, gradients)
  return params, state


def test_small_updates_of_bfloat16_are_not_lost():
  exact = {"w": jnp.ones((4, 8), jnp.float32)}
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
  # Next to 1, bfloat16 has steps of 0.004; an update is 0.00002.
  exact, _ = run(exact, 2e-5)
  rounded, state = run(rounded, 2e-5)
  assert isinstance(state, optimizers.Float32State)
  assert rounded["w"].dtype == jnp.bfloat16
  assert float(jnp.abs(exact["w"] - 1).min()) > 1e-4
  np.testing.assert_allclose(state.params["w"], exact["w"], atol=2e-4)
  np.testing.assert_array_equal(
    rounded["w"], state.params["w"].astype(jnp.bfloat16)
  )


def test_float32_has_no_copy():
  state = optimizers.make(config_lib.TrainingConfig()).init(
    {"w": jnp.ones((4, 8))}
  )
  assert not isinstance(state, optimizers.Float32State)


def test_the_learning_rate_of_grpo_is_counted_in_updates():
  config = config_lib.GRPOConfig(
    training=config_lib.TrainingConfig(
      max_steps=5, warmup_steps=2, learning_rate=1e-3
    ),
    grpo=config_lib.AlgorithmConfig(num_iterations=3),
  )
  training = optimizers.in_updates(config)
  schedule = optimizers.learning_rate(training)
  rates = [float(np.asarray(schedule(number))) for number in range(16)]
  assert rates[0] == pytest.approx(1e-3 / 6)
  assert rates[6] == pytest.approx(1e-3)
  assert rates[15] == pytest.approx(1e-3 * training.final_learning_rate)
  # With a constant gradient each of Adam's updates is the learning rate.
  optimizer = optimizers.make(training)
  params: Any = {"w": jnp.float32(0.0)}
  state = optimizer.init(params)
  for number in range(15):
    updates: Any
    updates, state = optimizer.update({"w": jnp.float32(0.5)}, state, params)
    assert -float(updates["w"]) == pytest.approx(rates[number], rel=1e-3)
