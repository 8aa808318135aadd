"""Tunix's models as the policies of `rollout.sampler`."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt.models import meshes
from tunix_ttt.models.families import builders
from tunix_ttt.models.families import specs


class ModelPolicy:
  """A model with Tunix's key-value cache.

  Attributes:
    params: its values, the first argument of a call; those of another model
      of the same structure will do.
  """

  def __init__(self, module: nnx.Module, spec: specs.ModelSpec):
    """Takes the structure of a model, with its adapters if it has any."""
    # The same arrays in a module without rematerialisation, of which there is
    # none where nothing is differentiated, and which Flax refuses in loops.
    plain = nnx.merge(*nnx.split(module))
    builders.set_remat(plain, "none")
    self._mesh = meshes.of(module)
    # Modules with adapters are not hashable, so the structure is closed over.
    self._graphdef, self.params = nnx.split(plain)
    self._spec = spec

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    """Returns an empty cache: k and v [B, S, K, H] for each layer."""
    spec = self._spec
    shape = (batch_size, num_slots, spec.num_kv_heads, spec.head_dim)
    empty = jnp.zeros(shape, spec.dtype)
    cache = {
      f"layer_{i}": {"k": empty, "v": empty} for i in range(spec.num_layers)
    }
    return self._split(cache)

  def _split(self, cache: Any) -> Any:
    """Splits rows over `fsdp` and heads over `tp`."""
    return meshes.constrain(cache, self._mesh, meshes.FSDP, None, meshes.TP)

  def grow_cache(self, cache: Any, num_slots: int) -> Any:
    """Returns the cache with empty slots at its end, `num_slots` in all."""

    def grow(leaf: jax.Array) -> jax.Array:
      return jnp.pad(
        leaf, ((0, 0), (0, num_slots - leaf.shape[1]), (0, 0), (0, 0))
      )

    return self._split(jax.tree.map(grow, cache))

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
    """See `rollout.sampler.Policy`."""
    module: Any = nnx.merge(self._graphdef, params)
    tokens = meshes.constrain(tokens, self._mesh, meshes.FSDP)
    ends = jnp.full(tokens.shape[:1], end, jnp.int32)
    cache = {
      name: {**layer, "end_index": ends} for name, layer in cache.items()
    }
    # Traced in whatever thread; Tunix looks for the mesh in the present one.
    with meshes.use(self._mesh):
      _, cache = module(
        tokens, positions, cache, attention_mask, output_hidden_states=True
      )
    sown: Any = nnx.pop(module, nnx.Intermediate)
    hidden = sown["all_hidden_states"].get_value()[-1]
    # Of one token a row: logits of them all would be most of the memory.
    last = jnp.take_along_axis(hidden, read[:, None, None], axis=1)
    logits = specs.logits(module, last)[:, 0]
    cache = {
      name: {"k": layer["k"], "v": layer["v"]} for name, layer in cache.items()
    }
    return logits, cache
