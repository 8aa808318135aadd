"""Sliding windows that count the tokens a layer may see.

Tunix's own count slots of the cache or positions, each under assumptions about
the chunk: that it begins the cache, or that no slot is empty. Games are fed in
chunks and leave slots empty, so the window is taken from the attention mask.
"""

from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3


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
