"""Interface between the sampler and a language model."""

from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp


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
    """Feeds tokens and returns each row's logits after one or R of them.

    Args:
      params: Parameters of the model.
      tokens: Token ids, int32 [B, L].
      positions: Positions of the tokens, int32 [B, L].
      cache: Cache with S slots. Tokens are written to slots `end` to
        `end + L - 1`.
      end: First unused slot, int32 [].
      attention_mask: Mask of the slots that each token attends to, bool
        [B, L, S].
      read: Index of the token to return logits after, int32 [B] or [B, R].

    Returns:
      Logits [B, V] or [B, R, V], and the cache.
    """
    ...


@struct.dataclass
class Memory:
  """State of a policy between turns.

  Attributes:
    cache: Key-value cache of the policy with S slots.
    valid: Mask of the slots that a row may read, bool [B, S].
    end: First unused slot, int32 [].
    positions: Position of a row's next token, int32 [B].
    pending: Last token of a row, to be fed next if `is_pending`, int32 [B].
    is_pending: Whether `pending` is missing from the cache, bool [B].
  """

  cache: Any
  valid: jax.Array
  end: jax.Array
  positions: jax.Array
  pending: jax.Array
  is_pending: jax.Array


def empty(policy: Policy, batch_size: int) -> Memory:
  """Returns a memory without slots."""
  return Memory(
    cache=policy.init_cache(batch_size, 0),
    valid=jnp.zeros((batch_size, 0), bool),
    end=jnp.int32(0),
    positions=jnp.zeros(batch_size, jnp.int32),
    pending=jnp.zeros(batch_size, jnp.int32),
    is_pending=jnp.zeros(batch_size, bool),
  )


def begin(policy: Policy, params: Any, prefix: Sequence[int]) -> Memory:
  """Returns the memory of one row that has read some tokens."""
  memory = empty(policy, 1)
  if prefix:
    memory = grow(policy, memory, len(prefix))
    tokens = jnp.asarray(prefix, jnp.int32)[None]
    mask = jnp.ones(tokens.shape, bool)
    memory, _ = feed(policy, params, memory, tokens, mask)
  return memory


def repeat(rows: Any, count: int) -> Any:
  """Repeats each row of a `Memory` or of other arrays a number of times."""
  return jax.tree.map(
    lambda leaf: jnp.repeat(leaf, count, axis=0) if leaf.ndim else leaf, rows
  )


def grow(policy: Policy, memory: Memory, num_slots: int) -> Memory:
  """Returns the memory with empty slots at its end, `num_slots` in total."""
  return dataclasses.replace(
    memory,
    cache=policy.grow_cache(memory.cache, num_slots),
    valid=widen(memory.valid, num_slots),
  )


def feed(
  policy: Policy,
  params: Any,
  memory: Memory,
  tokens: jax.Array,
  mask: jax.Array,
) -> tuple[Memory, jax.Array]:
  """Feeds the tokens [B, L] in `mask` to the policy.

  Returns the memory and the logits after each row's last token, [B, V].
  """
  length = tokens.shape[1]
  order = jnp.cumsum(mask, axis=1)
  positions = memory.positions[:, None] + jnp.maximum(order - 1, 0)
  valid = jax.lax.dynamic_update_slice(
    memory.valid, mask, (jnp.int32(0), memory.end)
  )
  slots = jnp.arange(valid.shape[1])
  causal = slots <= memory.end + jnp.arange(length)[:, None]
  # Index of the last token that exists; arbitrary in rows without one.
  read = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
  logits, cache = policy(
    params,
    tokens,
    positions,
    memory.cache,
    memory.end,
    valid[:, None, :] & causal,
    read,
  )
  memory = dataclasses.replace(
    memory,
    cache=cache,
    valid=valid,
    end=memory.end + length,
    positions=memory.positions + order[:, -1],
    is_pending=jnp.zeros_like(memory.is_pending),
  )
  return memory, logits


def widen(rows: jax.Array, width: int) -> jax.Array:
  """Pads [B, L] rows to [B, width]."""
  return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))
