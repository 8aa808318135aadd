"""Losses: pure functions of a model and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tunix.sft import utils as sft_utils

# (tokens, positions, cache, attention_mask) -> (logits, cache), as Tunix's.
Model = Callable[..., tuple[jax.Array, Any]]


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
  model: Model,
  input_tokens: jax.Array,
  loss_mask: jax.Array,
  denominator: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
  """Cross-entropy of the supervised tokens: summed, then divided.

  Args:
    model: called as `model(tokens, positions, cache, attention_mask)`.
    input_tokens: int [B, L].
    loss_mask: bool [B, L], True at the tokens to be predicted.
    denominator: [], what the sum is divided by.
    positions: int [B, L].
    attention_mask: bool [B, L, L].

  Returns:
    The loss [] and, over the same denominator, `token_accuracy` []: how often
    the model's first choice is the supervised token.
  """
  logits, _ = model(input_tokens, positions, None, attention_mask)
  logits = logits[:, :-1].astype(jnp.float32)
  targets = input_tokens[:, 1:]
  weights = loss_mask[:, 1:].astype(jnp.float32)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (logits.argmax(axis=-1) == targets) * weights
  metrics = {"token_accuracy": correct.sum() / denominator}
  return (nll * weights).sum() / denominator, metrics
