"""Attention with heads before tokens, as batched products want them.

Tunix keeps keys and values as [B, S, K, H], which the products of each token lay out
anew.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

# Score of what is not attended to, as in Tunix.
_EXCLUDED = -2.3819763e38
# Of a cache with keys and values [B, K, S, H].
KEYS, VALUES = "keys", "values"
# Of Tunix's own samplers: [B, S, K, H].
_TUNIX = ("k", "v")
# Queries [B, T, K, G, H], keys and values [B, S, K, H].
_Heads = tuple[jax.Array, jax.Array, jax.Array]


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cache: Any,
  mask: jax.Array,
  *,
  scale: float = 1.0,
  softcap: float | None = None,
  dtype: Any = None,
) -> tuple[Any, jax.Array]:
  """Returns the cache with T more tokens, and what these read, [B, T, N, H].

  Args:
    query: Queries with positions, [B, T, N, H].
    key: Keys with positions, [B, T, K, H]; K divides N.
    value: Values, [B, T, K, H].
    cache: `keys` and `values` [B, K, S, H], or Tunix's `k` and `v` [B, S, K, H],
      with the first unused slot `end_index` int32 [B], the same in all rows. None
      for tokens that attend to one another only; S is then T.
    mask: Mask of the slots that a token attends to, bool [B, T, S].
    scale: Factor of the scores.
    softcap: Limit of the scores; None is no limit.
    dtype: Type of the softmax; None for that of the keys.
  """
  (batch, length, heads, _), groups = query.shape, key.shape[2]

  def share(scores: jax.Array) -> jax.Array:
    scores *= scale
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask[:, None, None], scores, _EXCLUDED)
    shares = jax.nn.softmax(scores.astype(dtype or key.dtype), axis=-1)
    return shares.astype(key.dtype)

  if cache is None:
    # Tunix's order: in training the other one is no faster and needs more memory.
    query = query.reshape(batch, length, groups, heads // groups, -1)
    if softcap is None:
      read: Any = _read((query, key, value), mask, scale, dtype or key.dtype)
    else:
      shares = share(jnp.einsum("BTKGH,BSKH->BKGTS", query, key))
      read = jnp.einsum("BKGTS,BSKH->BTKGH", shares, value)
    return None, read.reshape(batch, length, heads, -1)
  key, value = (jnp.swapaxes(each, 1, 2) for each in (key, value))
  cache, key, value = _append(cache, key, value)
  # The queries of a key's heads are rows of one product.
  query = query.reshape(batch, length, groups, heads // groups, -1)
  query = query.transpose(0, 2, 3, 1, 4)
  rows = query.reshape(batch, groups, -1, query.shape[-1])
  scores = jnp.einsum("BKRH,BKSH->BKRS", rows, key)
  shares = share(scores.reshape(*query.shape[:4], -1))
  shares = shares.reshape(*rows.shape[:3], -1)
  read = jnp.einsum("BKRS,BKSH->BKRH", shares, value).reshape(query.shape)
  read = read.transpose(0, 3, 1, 2, 4)
  return cache, read.reshape(batch, length, heads, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _read(
  heads: _Heads, mask: jax.Array, scale: float, dtype: Any
) -> jax.Array:
  """Returns what queries read of S tokens, [B, T, K, G, H], with a derivative.

  The T * S scores of a head are most of what long rows cost, so that they are gone
  over as few times as possible: divided by their sum is what was read, and the
  derivative of the softmax needs no sum over them (Dao et al., 2022, section B.2).
  """
  return _read_forward(heads, mask, scale, dtype)[0]


def _read_forward(
  heads: _Heads, mask: jax.Array, scale: float, dtype: Any
) -> tuple[jax.Array, Any]:
  query, key, value = heads
  scores = jnp.einsum("BTKGH,BSKH->BKGTS", query, key)
  scores = jnp.where(mask[:, None, None], scores * scale, _EXCLUDED)
  scores = scores.astype(dtype)
  weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
  # A sum of many bfloat16 numbers would be rounded at each.
  total = weights.sum(axis=-1, dtype=jnp.float32)
  total = jnp.moveaxis(total, 3, 1)[..., None]
  weights = weights.astype(key.dtype)
  read = jnp.einsum("BKGTS,BSKH->BTKGH", weights, value)
  read = (read / total).astype(key.dtype)
  return read, (heads, weights, total, read)


def _read_backward(
  scale: float, _: Any, residuals: Any, gradient: jax.Array
) -> tuple[_Heads, None]:
  (query, key, value), weights, total, read = residuals
  gradient = gradient / total
  mean = jnp.einsum("BTKGH,BTKGH->BKGT", gradient, read.astype(jnp.float32))
  gradient = gradient.astype(key.dtype)
  by_value = jnp.einsum("BKGTS,BTKGH->BSKH", weights, gradient)
  by_weight = jnp.einsum("BTKGH,BSKH->BKGTS", gradient, value)
  # Tokens that attend to nothing are padding, whose gradient is 0.
  by_score = weights * (by_weight - mean[..., None]) * scale
  by_score = by_score.astype(key.dtype)
  by_query = jnp.einsum("BKGTS,BSKH->BTKGH", by_score, key)
  by_key = jnp.einsum("BKGTS,BTKGH->BSKH", by_score, query)
  return (by_query, by_key, by_value), None


_read.defvjp(_read_forward, _read_backward)


def _append(
  cache: Any, key: jax.Array, value: jax.Array
) -> tuple[Any, jax.Array, jax.Array]:
  """Returns a cache with more tokens, and its keys and values [B, K, S, H]."""
  end, length = cache["end_index"], key.shape[2]
  is_tunix = KEYS not in cache
  names = _TUNIX if is_tunix else (KEYS, VALUES)
  stored = [cache[name] for name in names]
  if is_tunix:
    stored = [jnp.swapaxes(each, 1, 2) for each in stored]
  slot = end[0] % stored[0].shape[2]
  key, value = stored = [
    jax.lax.dynamic_update_slice(before, more, (0, 0, slot, 0))
    for before, more in zip(stored, (key, value), strict=True)
  ]
  if is_tunix:
    stored = [jnp.swapaxes(each, 1, 2) for each in stored]
  cache = dict(zip(names, stored, strict=True)) | {"end_index": end + length}
  return cache, key, value
