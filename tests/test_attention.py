"""Tests the derivative of attention against JAX's, of its plain definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt.models.families import attention

ROWS, LENGTH, HEADS, GROUPS, SIZE = 3, 7, 4, 2, 8


def inputs(dtype):
  rng = np.random.default_rng(0)
  heads = [
    jnp.asarray(3 * rng.normal(size=(ROWS, LENGTH, n, SIZE)), dtype)
    for n in (HEADS, GROUPS, GROUPS)
  ]
  mask = np.tri(LENGTH, dtype=bool) & (rng.random((ROWS, 1, LENGTH)) < 0.8)
  mask[..., 0] = True
  # A row of padding attends to nothing, and nothing depends on what it reads.
  mask[1, 4] = False
  weights = rng.normal(size=(ROWS, LENGTH, HEADS, SIZE))
  weights[1, 4] = 0
  return heads, jnp.asarray(mask), jnp.asarray(weights, jnp.float32)


def plain(query, key, value, mask, scale):
  key, value = (jnp.repeat(x, HEADS // GROUPS, axis=2) for x in (key, value))
  scores = jnp.einsum("bthd,bshd->bhts", query, key) * scale
  scores = jnp.where(mask[:, None], scores, -1e30)
  return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), value)


@pytest.mark.parametrize(
  ("dtype", "scale", "tolerance"),
  [("float32", 1.0, 1e-5), ("float32", 0.3, 1e-5), ("bfloat16", 0.3, 0.05)],
)
def test_values_and_derivatives(dtype, scale, tolerance):
  heads, mask, weights = inputs(dtype)

  def loss(function: Any, heads: Any):
    read = function(*heads)
    return (read.astype(jnp.float32) * weights).sum(), read

  def run(function: Any, heads: Any):
    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (_, read), gradients = jax.jit(gradient, static_argnums=0)(function, heads)
    return [read, *gradients]

  def ours(query, key, value):
    _, read = attention.attend(
      query, key, value, None, mask, scale=scale, dtype=jnp.float32
    )
    return read

  found = run(ours, heads)
  expected = run(
    lambda query, key, value: plain(query, key, value, mask, scale),
    [head.astype(jnp.float32) for head in heads],
  )
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == dtype
    size = float(jnp.abs(other).max())
    np.testing.assert_allclose(
      np.asarray(one[mask.any(axis=-1)], np.float32),
      np.asarray(other[mask.any(axis=-1)]),
      atol=tolerance * size,
    )
