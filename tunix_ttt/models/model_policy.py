"""Runs Tunix's models as policies of games and as generators of text."""

from collections.abc import Iterator, Sequence
import functools
from typing import TYPE_CHECKING, Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.models import meshes
from tunix_ttt.models.families import attention
from tunix_ttt.models.families import remat
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers

if TYPE_CHECKING:
  from tunix_ttt.models import checkpoints


class ModelPolicy:
  """A `rollout.sampler.Policy` with a key-value cache.

  Attributes:
    params: Parameters of the model. A call also accepts the parameters of
      another model of the same structure.
  """

  def __init__(self, module: nnx.Module, spec: specs.ModelSpec):
    """Takes a model, with or without adapters."""
    # The same arrays without rematerialization, which sampling does not need
    # and Flax refuses in loops.
    plain = nnx.merge(*nnx.split(module))
    remat.use(plain, "none")
    self._mesh = meshes.of(module)
    # Modules with adapters are not hashable, so calls close over the structure.
    self._graphdef, self.params = nnx.split(plain)
    self._spec = spec

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    """Returns an empty cache: keys and values [B, K, S, H] of each layer."""
    spec = self._spec
    shape = (batch_size, spec.num_kv_heads, num_slots, spec.head_dim)
    empty = jnp.zeros(shape, spec.dtype)
    layer = {attention.KEYS: empty, attention.VALUES: empty}
    return self._split({f"layer_{i}": layer for i in range(spec.num_layers)})

  def grow_cache(self, cache: Any, num_slots: int) -> Any:
    """Returns the cache padded with empty slots to `num_slots` slots."""

    def grow(leaf: jax.Array) -> jax.Array:
      more = num_slots - leaf.shape[2]
      return jnp.pad(leaf, ((0, 0), (0, 0), (0, more), (0, 0)))

    return self._split(jax.tree.map(grow, cache))

  def _split(self, cache: Any) -> Any:
    """Splits rows over `fsdp` and heads over `tp`."""
    return meshes.constrain(cache, self._mesh, meshes.FSDP, meshes.TP)

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
    # Few tokens per row: the logits of all would need most of the memory.
    index = read.reshape(len(read), -1, 1)
    logits = specs.logits(module, jnp.take_along_axis(hidden, index, axis=1))
    logits = logits.reshape(*read.shape, -1)
    for layer in cache.values():
      layer.pop("end_index")
    return logits, cache


class Generator:
  """Generates text, compiled once per batch size."""

  def __init__(
    self,
    model: "checkpoints.Model",
    *,
    max_prompt_length: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
  ):
    """Takes a model, the limits of its tokens and settings of sampling."""
    self._tokenizer, self._length = model.tokenizer, max_prompt_length
    policy = ModelPolicy(model.module, model.spec)
    table = _free_text(model.tokenizer, model.spec.vocab_size)
    sampling = sampling_lib.Sampling(temperature=temperature, top_p=top_p)

    @jax.jit
    def generate(
      params: Any, keys: jax.Array, tokens: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      memory = policy_lib.empty(policy, len(tokens))
      memory = policy_lib.grow(policy, memory, max_prompt_length)
      memory, logits = policy_lib.feed(policy, params, memory, tokens, mask)
      _, answers = sampling_lib.decode(
        policy,
        params,
        table,
        keys,
        memory,
        logits,
        mask.any(axis=1),
        sampling=sampling,
        num_slots=max_prompt_length,
        max_new_tokens=max_new_tokens,
        max_game_tokens=None,
      )
      return answers.actions, answers.action_mask

    self._generate = functools.partial(generate, policy.params)

  def __call__(
    self, prompts: Sequence[Sequence[int]], *, batch_size: int, seed: int = 0
  ) -> Iterator[str]:
    """Yields the completion of each prompt, up to the end of the turn.

    A completion depends on its prompt, the prompt's number and the seed only.

    Args:
      prompts: Token ids of each prompt, starting with the bos token.
      batch_size: Number of prompts sampled together.
      seed: Random seed for sampling.
    """
    for first in range(0, len(prompts), batch_size):
      batch = prompts[first : first + batch_size]
      tokens = np.zeros((batch_size, self._length), np.int32)
      mask = np.zeros(tokens.shape, bool)
      for row, prompt in enumerate(batch):
        tokens[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
      numbers = jnp.arange(first, first + batch_size)
      keys = streams.keys(seed, streams.Stream.COMPLETIONS, last=numbers)
      completions = meshes.fetch(self._generate(keys, tokens, mask))
      for ids, is_sampled, _ in zip(*completions, batch, strict=False):
        yield self._tokenizer.decode(ids[is_sampled].tolist())


def _free_text(
  tokenizer: tokenizers.Tokenizer, vocab_size: int
) -> answers_lib.AnswerTable:
  """Returns the grammar of any text up to an end token."""
  token_class = np.zeros(vocab_size, np.uint8)
  token_class[[*tokenizer.end_ids, tokenizer.eos_id()]] = 1
  start, ended = answers_lib.START, answers_lib.ENDED
  # States DEAD, START and ENDED; classes of text and of end tokens.
  next_state = np.array([[0, 0], [start, ended], [0, 0]], np.uint8)
  return answers_lib.AnswerTable(
    token_class=jnp.asarray(token_class),
    next_state=jnp.asarray(next_state),
    offset=jnp.zeros_like(next_state),
    num_spellings=jnp.array([0, 1, 1]),
    tokens_left=jnp.array([answers_lib.NEVER, 1, 0]),
    tokens_needed=jnp.array([answers_lib.NEVER, 1, 0]),
    actions=jnp.zeros(1, jnp.int32),
    names=jnp.full(vocab_size, -1, jnp.int8),
  )
