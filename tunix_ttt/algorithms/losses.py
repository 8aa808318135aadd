"""Losses: pure functions of a model and a batch."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.sft import utils as sft_utils

from tunix_ttt.models import token_log_probs


def model_inputs(batch: dict[str, jax.Array]) -> dict[str, Any]:
  """Adds positions and a causal attention mask to a batch.

  Args:
    batch: as `make_batch` of `data.datasets` or `data.packing` returns it.

  Returns:
    The arguments of `supervised_loss` besides the model.
  """
  positions, attention_mask = attention_inputs(batch)
  return {
    "input_tokens": batch["input_tokens"],
    "loss_mask": batch["loss_mask"],
    "denominator": batch["denominator"],
    "positions": positions,
    "attention_mask": attention_mask,
  }


def attention_inputs(
  batch: dict[str, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Returns positions int [B, L] and a causal attention mask bool [B, L, L].

  Args:
    batch: as `make_batch` of `data.datasets` or `data.packing` returns it.
  """
  if "segment_ids" in batch:
    return segment_inputs(batch["segment_ids"])
  mask = batch["input_mask"]
  return (
    sft_utils.build_positions_from_mask(mask),
    sft_utils.make_causal_attn_mask(mask),
  )


def segment_inputs(segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns positions and attention of several sequences in each row.

  Args:
    segment_ids: int [B, L], the same at all tokens of a sequence.

  Returns:
    int [B, L], which start anew with each sequence, and bool [B, L, L]: what
    comes no later in the same sequence. Padding is a sequence like others.
  """
  index = jnp.arange(segment_ids.shape[1])
  before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  starts = jnp.where(segment_ids != before, index, 0)
  positions = index - jax.lax.cummax(starts, axis=1)
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return positions, same & (index[:, None] >= index)


def sequence_log_probs(
  model: nnx.Module, batch: dict[str, jax.Array], num_sequences: int
) -> jax.Array:
  """Returns log-probabilities of the supervised tokens of whole sequences.

  Args:
    model: one of Tunix's.
    batch: as `make_batch` of `data.datasets` or `data.packing` returns it.
    num_sequences: how many are in it, N.

  Returns:
    float32 [N], their sums.
  """
  found = token_log_probs.token_log_probs(
    model, batch["input_tokens"], *attention_inputs(batch)
  )
  values = found.log_probs * batch["loss_mask"][:, 1:]
  return sum_sequences(values, batch, num_sequences)


def sum_sequences(
  values: jax.Array, batch: dict[str, jax.Array], num_sequences: int
) -> jax.Array:
  """Returns the sums [N] of values [B, L - 1], of the tokens from the second on.

  Args:
    values: 0 at padding.
    batch: see `sequence_log_probs`.
    num_sequences: see `sequence_log_probs`.
  """
  if "segment_ids" not in batch:
    return values.sum(axis=1)
  ids = batch["segment_ids"][:, 1:]
  # The first is padding's.
  sums = jax.ops.segment_sum(values.ravel(), ids.ravel(), num_sequences + 1)
  return sums[1:]


def supervised_loss(
  model: nnx.Module,
  input_tokens: jax.Array,
  loss_mask: jax.Array,
  denominator: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
  """Cross-entropy of the supervised tokens: summed, then divided.

  Args:
    model: one of Tunix's.
    input_tokens: int [B, L].
    loss_mask: bool [B, L], True at the tokens to be predicted.
    denominator: [], what the sum is divided by.
    positions: int [B, L].
    attention_mask: bool [B, L, L].

  Returns:
    The loss [] and, over the same denominator, `token_accuracy` []: how often
    the model's first choice is the supervised token.
  """
  found = token_log_probs.token_log_probs(
    model, input_tokens, positions, attention_mask
  )
  weights = loss_mask[:, 1:].astype(jnp.float32)
  correct = (found.is_first_choice * weights).sum()
  loss = -(found.log_probs * weights).sum() / denominator
  return loss, {"token_accuracy": correct / denominator}
