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
    batch: as `data.datasets.make_batch` returns it.

  Returns:
    The arguments of `supervised_loss` besides the model.
  """
  mask = batch["input_mask"]
  return {
    "input_tokens": batch["input_tokens"],
    "loss_mask": batch["loss_mask"],
    "denominator": batch["denominator"],
    "positions": sft_utils.build_positions_from_mask(mask),
    "attention_mask": sft_utils.make_causal_attn_mask(mask),
  }


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
