"""Computes log-probabilities of tokens with chunked logits.

The logits of B sequences of L tokens are B * L * V numbers; at vocabularies of
150,000 tokens they need most of the memory of a training step. Here the hidden
states go through the head in chunks, whose logits the backward pass recomputes.
"""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs

# Maximum number of logits per chunk (256 MiB), but at least one token of each
# sequence. A single chunk is not recomputed.
MAX_LOGITS = 2**26


class TokenLogProbs(NamedTuple):
  """Log-probability of each token after the first, given the tokens before it.

  Attributes:
    log_probs: Log-probabilities of the tokens, float32 [B, L - 1].
    entropy: Entropy of the distributions without a gradient, float32
      [B, L - 1].
    is_first_choice: Whether the token was the most likely one, bool [B, L - 1].
  """

  log_probs: jax.Array
  entropy: jax.Array
  is_first_choice: jax.Array


def token_log_probs(
  module: nnx.Module,
  tokens: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
  *,
  temperature: float = 1.0,
) -> TokenLogProbs:
  """Returns the log-probabilities of sequences.

  Call it under `jax.jit`: Tunix's models always compute all logits, and the
  compiler removes them as unused.

  Args:
    module: Tunix model, with or without adapters.
    tokens: Token ids, int [B, L].
    positions: Positions of the tokens, int [B, L].
    attention_mask: Attention mask, bool [B, L, L].
    temperature: Divisor of the logits; 0 leaves them unchanged, as in Tunix.
  """
  model: Any = module
  logits, _ = model(
    tokens, positions, None, attention_mask, output_hidden_states=True
  )
  sown: Any = nnx.pop(module, nnx.Intermediate)
  hidden = sown["all_hidden_states"].get_value()[-1][:, :-1]
  targets = tokens[:, 1:]

  def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> TokenLogProbs:
    hidden, targets = chunk
    # Otherwise devices may gather the logits' gradients in every chunk.
    hidden = meshes.shard(hidden, (meshes.FSDP,))
    logits = specs.logits(module, hidden)
    if temperature not in (0, 1):
      logits /= temperature
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    log_probs = jax.lax.stop_gradient(logits - log_sum[..., None])
    return TokenLogProbs(
      log_probs=target_logits[..., 0] - log_sum,
      entropy=-(jnp.exp(log_probs) * log_probs).sum(axis=-1),
      is_first_choice=logits.argmax(axis=-1) == targets,
    )

  # Split along the length, so that sequences stay on their devices.
  length, per_token = targets.shape[1], logits.shape[0] * logits.shape[2]
  num_chunks = -(-length // max(MAX_LOGITS // per_token, 1))
  if num_chunks <= 1:
    return of_chunk((hidden, targets))
  size = -(-length // num_chunks)

  def cut(values: jax.Array) -> jax.Array:
    padding = [(0, 0)] * values.ndim
    padding[1] = (0, num_chunks * size - length)
    padded = jnp.pad(values, padding)
    shape = (len(values), num_chunks, size, *values.shape[2:])
    return jnp.moveaxis(padded.reshape(shape), 1, 0)

  def join(values: jax.Array) -> jax.Array:
    return jnp.moveaxis(values, 0, 1).reshape(len(tokens), -1)[:, :length]

  # A loop body needs no protection against common subexpression elimination.
  recomputed = jax.checkpoint(of_chunk, prevent_cse=False)
  chunks = jax.lax.map(recomputed, (cut(hidden), cut(targets)))
  return jax.tree.map(join, chunks)
