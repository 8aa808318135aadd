"""Interface between the sampler and a language model."""

from typing import Any, Protocol

import jax


class Policy(Protocol):
  """A language model with a key-value cache."""

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    """Returns an empty cache."""
    ...

  def grow_cache(self, cache: Any, num_slots: int) -> Any:
    """Returns the cache with empty slots at its end, `num_slots` in total."""
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
    """Feeds tokens and returns each row's logits after one of them.

    Args:
      params: Parameters of the model.
      tokens: Token ids, int32 [B, L].
      positions: Positions of the tokens, int32 [B, L].
      cache: Cache with S slots. Tokens are written to slots `end` to
        `end + L - 1`.
      end: First unused slot, int32 [].
      attention_mask: Mask of the slots that each token attends to, bool
        [B, L, S].
      read: Index of the token to return logits after, int32 [B].

    Returns:
      Logits [B, V] and the cache.
    """
    ...
