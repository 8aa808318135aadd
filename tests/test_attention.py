"""Tests the derivative of attention against JAX's, of its plain definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt.models.families import attention

ROWS, HEADS, GROUPS, SIZE = 3, 4, 2, 8


def inputs(dtype, length):
  rng = np.random.default_rng(0)
  heads = [
    jnp.asarray(3 * rng.normal(size=(ROWS, length, n, SIZE)), dtype)
    for n in (HEADS, GROUPS, GROUPS)
  ]
  mask = np.tri(length, dtype=bool) & (rng.random((ROWS, 1, length)) < 0.8)
  mask[..., 0] = True
  # A row of padding attends to nothing, and nothing depends on what it reads.
  mask[1, 4] = False
  weights = rng.normal(size=(ROWS, length, HEADS, SIZE))
  weights[1, 4] = 0
  return heads, jnp.asarray(mask), jnp.asarray(weights, jnp.float32)


def plain(query, key, value, mask, scale):
  key, value = (jnp.repeat(x, HEADS // GROUPS, axis=2) for x in (key, value))
  scores = jnp.einsum("bthd,bshd->bhts", query, key) * scale
  scores = jnp.where(mask[:, None], scores, -1e30)
  return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), value)


@pytest.mark.parametrize(
  ("dtype", "softmax", "scale", "length", "tolerance"),
  [
    ("float32", None, 1.0, 7, 1e-5),
    ("float32", "float32", 0.3, 7, 1e-5),
    ("bfloat16", "float32", 0.3, 7, 0.05),
    # More tokens than numbers near 1 that bfloat16 could add up.
    ("bfloat16", None, 0.01, 700, 0.05),
  ],
)
def test_values_and_derivatives(dtype, softmax, scale, length, tolerance):
  heads, mask, weights = inputs(dtype, length)

  def loss(function: Any, heads: Any):
    read = function(*heads)
    return (read.astype(jnp.float32) * weights).sum(), read

  def run(function: Any, heads: Any):
    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (_, read), gradients = jax.jit(gradient, static_argnums=0)(function, heads)
    return [read, *gradients]

  def ours(query, key, value):
    _, read = attention.attend(
      query, key, value, None, mask, scale=scale, dtype=softmax
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
