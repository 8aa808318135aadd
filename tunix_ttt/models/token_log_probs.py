"""Computes log-probabilities of tokens with chunked logits.

The logits of B sequences of L tokens are B * L * V numbers; at vocabularies of
150,000 tokens they need most of the memory of a training step. Here the hidden
states go through the head in chunks, whose logits the backward pass recomputes, and
only those of tokens whose log-probabilities are asked for.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs

# Maximum number of logits per chunk (256 MiB), but at least one token of each
# sequence. A single chunk is not recomputed.
MAX_LOGITS = 2**26
# How many rows may be packed behind a prefix that they share, and how many more
# pairs of tokens attention may then compute.
_ROWS, _MORE_PAIRS = (8, 6, 4, 3, 2), 1.25


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
  prefix: Sequence[int] = (),
  places: jax.Array | None = None,
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
    prefix: Tokens with which all rows begin but those of padding. Where it pays,
      rows are packed behind it; the results for its tokens are then 0.
    places: Indices of the tokens to score in their rows, int [B, A], 0 for none.
      Results are then [B, A], 0 where there is none. None for all tokens.
  """
  (num_rows, length), first = tokens.shape, 1
  rows = rows_behind(num_rows, length, len(prefix))
  if rows > 1:
    first = len(prefix)
    before = _after_prefix(
      module, tokens, positions, attention_mask, prefix, rows
    )
  else:
    hidden = _hidden(module, tokens, positions, attention_mask)
    before = hidden[:, :-1]
  targets = tokens[:, first:]
  if places is None:
    scores = _of_hidden(module, before, targets, temperature)
    return jax.tree.map(
      lambda leaf: jnp.pad(leaf, ((0, 0), (first - 1, 0))), scores
    )
  index = (places - first).clip(0)
  scores = _of_hidden(
    module,
    jnp.take_along_axis(before, index[..., None], axis=1),
    jnp.take_along_axis(targets, index, axis=1),
    temperature,
  )
  return jax.tree.map(
    lambda leaf: jnp.where(places >= first, leaf, 0).astype(leaf.dtype), scores
  )


def rows_behind(num_rows: int, length: int, prefix: int) -> int:
  """Returns how many rows are best packed behind a prefix, 1 for none.

  Args:
    num_rows: Number of rows.
    length: Number of tokens of a row.
    prefix: Number of tokens with which all rows begin.
  """

  def is_better(rows: int) -> bool:
    pairs = (prefix + rows * (length - prefix)) ** 2
    is_even = num_rows % (rows * jax.device_count()) == 0
    return is_even and pairs <= _MORE_PAIRS * rows * length**2

  # A batch in which nothing is trained may be shorter than the prefix.
  return next(filter(is_better, _ROWS), 1) if 0 < prefix < length else 1


def _after_prefix(
  module: nnx.Module,
  tokens: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
  prefix: Sequence[int],
  rows: int,
) -> jax.Array:
  """Returns the hidden state [B, L - P, D] before each token after the prefix.

  The P tokens of the prefix are computed once for every `rows` rows. Of these one is
  made, in which each attends to the prefix and to its own tokens.
  """
  (batch, length), first = tokens.shape, len(prefix)
  packed, rest = batch // rows, length - first
  width = rows * rest

  def pack(values: jax.Array, before: Any) -> jax.Array:
    head = jnp.broadcast_to(jnp.asarray(before, values.dtype), (packed, first))
    return jnp.concatenate(
      [head, values[:, first:].reshape(packed, width)], axis=1
    )

  within = attention_mask[:, first:, first:]
  within = within.reshape(packed, rows, rest, 1, rest)
  same = jnp.eye(rows, dtype=bool)[:, None, :, None]
  mask = jnp.concatenate(
    [
      jnp.ones((packed, width, first), bool),
      (within & same).reshape(packed, width, width),
    ],
    axis=2,
  )
  top = jnp.tri(first, first + width, dtype=bool)
  top = jnp.broadcast_to(top, (packed, *top.shape))
  hidden = _hidden(
    module,
    pack(tokens, prefix),
    pack(positions, range(first)),
    jnp.concatenate([top, mask], axis=1),
  )
  # A token is predicted at the one before it, the first by the prefix.
  ends = hidden[:, first:].reshape(packed, rows, rest, -1)[:, :, :-1]
  start = hidden[:, None, first - 1 : first]
  start = jnp.broadcast_to(start, (packed, rows, *start.shape[2:]))
  return jnp.concatenate([start, ends], axis=2).reshape(batch, rest, -1)


def _hidden(
  module: nnx.Module,
  tokens: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
) -> jax.Array:
  """Returns the final hidden states [B, L, D]."""
  model: Any = module
  model(tokens, positions, None, attention_mask, output_hidden_states=True)
  sown: Any = nnx.pop(module, nnx.Intermediate)
  return sown["all_hidden_states"].get_value()[-1]


def _of_hidden(
  module: nnx.Module,
  hidden: jax.Array,
  targets: jax.Array,
  temperature: float,
) -> TokenLogProbs:
  """Returns the log-probabilities of targets [B, L] after `hidden` [B, L, D]."""

  def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> TokenLogProbs:
    hidden, targets = chunk
    # Otherwise devices may gather the logits' gradients in every chunk.
    hidden = meshes.shard(hidden, (meshes.FSDP,))
    logits = specs.logits(module, hidden)
    if temperature not in (0, 1):
      logits /= temperature
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    # What `argmax` says, which XLA for a CPU computes several times slower.
    # NaN is never a first choice.
    is_better = ~(logits <= target_logits) | (
      (logits == target_logits)
      & (jnp.arange(logits.shape[-1]) < targets[..., None])
    )
    log_probs = jax.lax.stop_gradient(logits - log_sum[..., None])
    return TokenLogProbs(
      log_probs=target_logits[..., 0] - log_sum,
      entropy=-(jnp.exp(log_probs) * log_probs).sum(axis=-1),
      is_first_choice=~is_better.any(axis=-1),
    )

  # Split along the length, so that sequences stay on their devices.
  length, head = targets.shape[1], functools.partial(specs.logits, module)
  vocab_size = jax.eval_shape(head, hidden).shape[-1]
  per_token = len(targets) * vocab_size
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
    return jnp.moveaxis(values, 0, 1).reshape(len(targets), -1)[:, :length]

  # A loop body needs no protection against common subexpression elimination.
  recomputed = jax.checkpoint(of_chunk, prevent_cse=False)
  chunks = jax.lax.map(recomputed, (cut(hidden), cut(targets)))
  return jax.tree.map(join, chunks)
