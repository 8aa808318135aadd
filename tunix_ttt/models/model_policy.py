"""Runs Tunix's models as policies of games and as generators of text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as sampler_lib

from tunix_ttt import streams
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs

if TYPE_CHECKING:
  from tunix_ttt.models import checkpoints


class ModelPolicy:
  """A `rollout.sampler.Policy` with Tunix's key-value cache.

  Attributes:
    params: Parameters of the model. A call also accepts the parameters of
      another model of the same structure.
  """

  def __init__(self, module: nnx.Module, spec: specs.ModelSpec):
    """Takes a model, with or without adapters."""
    # The same arrays without rematerialization, which sampling does not need
    # and Flax refuses in loops.
    plain = nnx.merge(*nnx.split(module))
    specs.set_remat(plain, "none")
    self._mesh = meshes.of(module)
    # Modules with adapters are not hashable, so calls close over the structure.
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
    # Rows over `fsdp` and heads over `tp`.
    return meshes.constrain(cache, self._mesh, meshes.FSDP, None, meshes.TP)

  def grow_cache(self, cache: Any, num_slots: int) -> Any:
    """Returns the cache padded with empty slots to `num_slots` slots."""

    def grow(leaf: jax.Array) -> jax.Array:
      more = num_slots - leaf.shape[1]
      return jnp.pad(leaf, ((0, 0), (0, more), (0, 0), (0, 0)))

    cache = jax.tree.map(grow, cache)
    return meshes.constrain(cache, self._mesh, meshes.FSDP, None, meshes.TP)

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
    ends = {"end_index": jnp.full(tokens.shape[:1], end, jnp.int32)}
    cache = {name: layer | ends for name, layer in cache.items()}
    # Tunix looks up the mesh in the thread that traces the call.
    with meshes.use(self._mesh):
      _, cache = module(
        tokens, positions, cache, attention_mask, output_hidden_states=True
      )
    sown: Any = nnx.pop(module, nnx.Intermediate)
    hidden = sown["all_hidden_states"].get_value()[-1]
    # One token per row: the logits of all tokens would need most of the memory.
    last = jnp.take_along_axis(hidden, read[:, None, None], axis=1)
    logits = specs.logits(module, last)[:, 0]
    cache = {
      name: {"k": layer["k"], "v": layer["v"]} for name, layer in cache.items()
    }
    return logits, cache


class _TokenSampler(sampler_lib.Sampler):
  """Tunix's sampler for prompts of token ids, which need not be valid text."""

  def tokenize(self, input_string: Any) -> np.ndarray:
    return np.asarray(input_string, np.int32)


class Generator:
  """Generates text with Tunix's sampler, compiled once per batch size."""

  def __init__(
    self,
    model: "checkpoints.Model",
    *,
    max_prompt_length: int,
    max_new_tokens: int,
  ):
    """Takes a model and the limits of its tokens."""
    self._tokenizer, spec = model.tokenizer, model.spec
    self._max_prompt_length = max_prompt_length
    self._max_new_tokens = max_new_tokens
    self._sampler = _TokenSampler(
      model.module,
      model.tokenizer,
      sampler_lib.CacheConfig(
        cache_size=max_prompt_length + max_new_tokens,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
      ),
    )

  def __call__(
    self,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> Iterator[str]:
    """Yields the completion of each prompt, up to the end of the turn.

    Args:
      prompts: Token ids of each prompt, starting with the bos token.
      batch_size: Number of prompts sampled together.
      temperature: Sampling temperature; 0 for greedy decoding.
      top_p: Nucleus sampling threshold; ignored by greedy decoding.
      seed: Random seed for sampling.
    """
    tokenizer = self._tokenizer
    ends = {*tokenizer.end_ids, tokenizer.eos_id()}
    for number, start in enumerate(range(0, len(prompts), batch_size)):
      batch = list(prompts[start : start + batch_size])
      # One shape for all batches, so that the sampler compiles once.
      padded = batch + batch[:1] * (batch_size - len(batch))
      key = streams.key(seed, streams.Stream.COMPLETIONS, number)
      output = self._sampler(
        cast(Any, padded),
        max_generation_steps=self._max_new_tokens,
        max_prompt_length=self._max_prompt_length,
        eos_tokens=[*ends],
        # The sampler takes a sampled pad token for padding.
        forbidden_tokens=[*({tokenizer.pad_id()} - ends)] or None,
        temperature=temperature,
        # Tunix decodes greedily if top_p is None, whatever the temperature.
        top_p=top_p if temperature > 0 else None,
        # Tunix declares an int but accepts a key.
        seed=cast(Any, key),
      )
      yield from output.text[: len(batch)]
