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
  if "segment_ids" in batch:
    positions, attention_mask = segment_inputs(batch["segment_ids"])
  else:
    mask = batch["input_mask"]
    positions = sft_utils.build_positions_from_mask(mask)
    attention_mask = sft_utils.make_causal_attn_mask(mask)
  return {
    "input_tokens": batch["input_tokens"],
    "loss_mask": batch["loss_mask"],
    "denominator": batch["denominator"],
    "positions": positions,
    "attention_mask": attention_mask,
  }


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


def segment_log_probs(
  model: nnx.Module,
  batch: dict[str, jax.Array],
  num_segments: int,
) -> jax.Array:
  """Returns log-probabilities of the supervised tokens of whole sequences.

  Args:
    model: one of Tunix's.
    batch: as `data.packing.make_batch` returns it.
    num_segments: sequences in it, N.

  Returns:
    float32 [N], their sums; of pairs (see `data.packing.pair_rows`) the chosen
    answers' and the rejected ones' once reshaped to [2, B].
  """
  found = token_log_probs.token_log_probs(
    model, batch["input_tokens"], *segment_inputs(batch["segment_ids"])
  )
  # The first is padding's.
  return jax.ops.segment_sum(
    (found.log_probs * batch["loss_mask"][:, 1:]).ravel(),
    batch["segment_ids"][:, 1:].ravel(),
    num_segments + 1,
  )[1:]


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
