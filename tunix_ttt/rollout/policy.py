"""The interface between the sampler and a language model."""

from typing import Any, Protocol

import jax


class Policy(Protocol):
  """A language model with a key-value cache, as the sampler needs it."""

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    """Returns an empty cache."""
    ...

  def grow_cache(self, cache: Any, num_slots: int) -> Any:
    """Returns the cache with empty slots at its end, `num_slots` in all."""
    ...

  def __call__(
    self,
    params: Any,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Any,
    end: jax.Array,
    attention_mask: jax.Array,
    read: jax.Array,
  ) -> tuple[jax.Array, Any]:
    """Feeds tokens and returns the logits after one of them in each row.

    Args:
      params: the model's values.
      tokens: int32 [B, L].
      positions: int32 [B, L].
      cache: with S slots; the tokens go to those from `end` on.
      end: int32 [].
      attention_mask: bool [B, L, S].
      read: int32 [B], which of the tokens.

    Returns:
      Logits [B, V] and the cache.
    """
    ...
