"""Corrections to Tunix's modules that published checkpoints need.

Each is a subclass that takes the place of a module's class, so that parameters
keep Tunix's names, shapes and shardings. Nothing is folded into the values:
they are the checkpoint's own, and an export has nothing to undo.
"""

import functools
import types
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.qwen3 import model as qwen3

_TUNIX_BLOCK = cast(types.FunctionType, qwen3.Attention.block)


class _ThetaQwen3(qwen3.Attention):
  """Tunix's Qwen 3 turns by angles of base 1,000,000, whatever its config."""

  def block(self, *args: Any, **kwargs: Any) -> Any:
    # The function is Tunix's; the one name in it that ignores the config is
    # bound anew.
    rope = functools.partial(
      qwen3.apply_rope, rope_theta=self.config.rope_theta
    )
    names = {**_TUNIX_BLOCK.__globals__, "apply_rope": rope}
    block = types.FunctionType(
      _TUNIX_BLOCK.__code__, names, argdefs=_TUNIX_BLOCK.__defaults__
    )
    return block(self, *args, **kwargs)


class _ScaledEinsum(gemma.Einsum):
  """Gemma 2's projection of queries, or of queries, keys and values."""

  query_scale: float

  def __call__(self, x: Any) -> jax.Array:
    projected = super().__call__(x)
    if len(self.shape) == 4:
      return projected.at[0].multiply(self.query_scale)
    return projected * self.query_scale


class _ScaledNorm(gemma3.RMSNorm):
  """Gemma 3's norm of queries."""

  query_scale: float

  def __call__(self, x: Any) -> jax.Array:
    return super().__call__(x) * self.query_scale


def use_rope_theta(module: nnx.Module) -> None:
  """Makes a Qwen 3 heed its config's `rope_theta`, in place."""
  for layer in cast(Any, module).layers:
    layer.attn.__class__ = _ThetaQwen3


def scale_queries(module: nnx.Module, scale: float) -> None:
  """Multiplies a Gemma 2's or 3's queries by `scale`, in place.

  Tunix divides them by the square root of the heads' width, so `scale` is what
  is missing to the square root of another `query_pre_attn_scalar`.
  """
  for layer in cast(Any, module).layers:
    attention = layer.attn
    if isinstance(attention, gemma3.Attention):
      part: Any = attention._query_norm
      part.__class__ = _ScaledNorm
    else:
      fused = attention.use_qkv_einsum
      part = attention.qkv_einsum if fused else attention.q_einsum
      part.__class__ = _ScaledEinsum
    part.query_scale = scale


def last_tokens(attention_mask: jax.Array, window: int | None) -> jax.Array:
  """Returns a mask of the last `window` tokens of an attention mask.

  Args:
    attention_mask: bool [B, L, S].
    window: how many tokens a token sees, itself among them; None for all.
  """
  if window is None:
    return attention_mask
  later = jnp.cumsum(attention_mask[..., ::-1], axis=-1)[..., ::-1]
  return attention_mask & (later <= window)


class _WindowedGemma2(gemma.Attention):
  def block(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
    mask = last_tokens(attn_mask, self.sliding_window_size)
    return super().block(x, segment_pos, cache, mask)


class _WindowedGemma3(gemma3.Attention):
  def block(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
    mask = last_tokens(attn_mask, self.sliding_window_size)
    return super().block(x, segment_pos, cache, mask)


def replace(module: nnx.Module) -> None:
  """Gives a Gemma 2 or 3 these windows in place of Tunix's, in place."""
  for layer in cast(Any, module).layers:
    attention = layer.attn
    if attention.attn_type == gemma.AttentionType.LOCAL_SLIDING:
      attention.__class__ = _WindowedGemma2
    elif attention.attn_type == gemma3.AttentionType.LOCAL_SLIDING:
      attention.__class__ = _WindowedGemma3
    else:
      continue
    # Tunix adds a window of its own to layers of the other type.
    attention.attn_type = type(attention.attn_type).GLOBAL
