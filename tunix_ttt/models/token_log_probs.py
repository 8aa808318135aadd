"""Log-probabilities of tokens, never with the logits of them all at once.

Logits of B sequences of L tokens are B * L * V numbers, at vocabularies of
150,000 most of the memory of a training step. Here the hidden states go through
the head a few tokens at a time, and the backward pass computes the logits of
those tokens again instead of keeping them.
"""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs

# Logits held at a time, 256 MiB of them, but always those of one token of each
# sequence. Where there are no more, nothing is computed twice.
MAX_LOGITS = 2**26


class TokenLogProbs(NamedTuple):
  """Log-probability of each token after the first, given the tokens before it.

  Attributes:
    log_probs: float32 [B, L - 1], of the tokens.
    entropy: float32 [B, L - 1], of the distributions; without a gradient.
    is_first_choice: bool [B, L - 1], whether no token was more likely.
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
  """Returns log-probabilities of sequences under one of Tunix's models.

  To be called in a compiled program: Tunix's models compute all logits
  whatever is asked of them, and only the compiler leaves out what is not used.

  Args:
    module: the model, with its adapters if it has any.
    tokens: int [B, L].
    positions: int [B, L].
    attention_mask: bool [B, L, L].
    temperature: divides the logits; 0 leaves them as they are, as in Tunix.
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
    # Or else devices may gather the logits' gradients, in every chunk.
    hidden = meshes.split_rows(hidden)
    logits = specs.logits(module, hidden)
    if temperature not in (0, 1):
      logits /= temperature
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    of_targets = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    log_probs = jax.lax.stop_gradient(logits - log_sum[..., None])
    return TokenLogProbs(
      log_probs=of_targets[..., 0] - log_sum,
      entropy=-(jnp.exp(log_probs) * log_probs).sum(axis=-1),
      is_first_choice=logits.argmax(axis=-1) == targets,
    )

  # Cut along the length, so that sequences on several devices stay there.
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

  # Within a loop nothing is merged with the forward pass as it is.
  recomputed = jax.checkpoint(of_chunk, prevent_cse=False)
  found = jax.lax.map(recomputed, (cut(hidden), cut(targets)))
  return jax.tree.map(join, found)
