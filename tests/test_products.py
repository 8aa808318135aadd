"""Tests the derivatives of feed-forward products."""

from flax import nnx
import jax
import numpy as np

from tests import conftest
from tunix_ttt.models.families import specs
from tunix_ttt.train import products


def test_derivatives_are_those_of_jax():
  layer = nnx.Linear(5, 7, use_bias=False, rngs=nnx.Rngs(0))
  inputs = jax.random.normal(jax.random.key(1), (3, 4, 5))
  weights = jax.random.normal(jax.random.key(2), (3, 4, 7))

  def loss(layer, inputs):
    return (weights * layer(inputs) ** 2).sum()

  gradient = nnx.value_and_grad(loss, argnums=(0, 1))
  expected = gradient(layer, inputs)
  products.use(layer)
  assert layer.dot_general is products.dot_general
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    gradient(layer, inputs),
    expected,
  )


def test_all_families_have_such_layers():
  for name in specs.FAMILIES:
    window = {"sliding_window": 3} if name in ("gemma2", "gemma3") else {}
    module = specs.initialize(conftest.small_spec(name, 64, **window), 0)
    products.use(module)
    layers = [
      m for _, m in nnx.iter_modules(module) if isinstance(m, nnx.Linear)
    ]
    # Gate, up and down, in two layers.
    assert len(layers) == 6
    assert all(m.dot_general is products.dot_general for m in layers)
