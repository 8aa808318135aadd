"""Supervised, DPO and ORPO losses, which never hold the logits of all tokens."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.sft import utils as sft_utils

from tunix_ttt.models import token_log_probs

# Arrays by name, as `data.batches.make` yields them.
Batch = dict[str, jax.Array]


def model_inputs(batch: Batch) -> dict[str, Any]:
  """Returns the arguments of `supervised_loss`, except for the model."""
  names = ("input_tokens", "places", "denominator")
  inputs: dict[str, Any] = {name: batch[name] for name in names}
  inputs["positions"], inputs["attention_mask"] = _attention_inputs(batch)
  return inputs


def _attention_inputs(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Returns positions int [B, L] and a causal attention mask bool [B, L, L]."""
  if "segment_ids" in batch:
    return segment_inputs(batch["segment_ids"])
  mask = batch["input_mask"]
  return (
    sft_utils.build_positions_from_mask(mask),
    sft_utils.make_causal_attn_mask(mask),
  )


def segment_inputs(segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns positions and the attention mask of packed rows.

  `segment_ids` int [B, L] has the number of each token's sequence; padding
  counts as a sequence. Positions int [B, L] restart with each sequence, and the
  mask bool [B, L, L] is causal within each sequence.
  """
  index = jnp.arange(segment_ids.shape[1])
  before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  starts = jnp.where(segment_ids != before, index, 0)
  positions = index - jax.lax.cummax(starts, axis=1)
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return positions, same & (index[:, None] >= index)


def supervised_loss(
  model: nnx.Module,
  input_tokens: jax.Array,
  places: jax.Array,
  denominator: jax.Array,
  positions: jax.Array,
  attention_mask: jax.Array,
  prefix: Sequence[int] = (),
) -> tuple[jax.Array, dict[str, Any]]:
  """Returns the summed cross-entropy of supervised tokens over `denominator`.

  `places` int [B, A] are the indices of the tokens to predict in their rows, 0 for
  none. `attention_mask` is bool [B, L, L]. The metric `token_accuracy` [] is the
  number of supervised tokens that the model ranks first over the same denominator.
  See `token_log_probs` for `prefix`, none of whose tokens may be supervised.
  """
  scores = token_log_probs.token_log_probs(
    model, input_tokens, positions, attention_mask, prefix=prefix, places=places
  )
  loss = -scores.log_probs.sum() / denominator
  return loss, {"token_accuracy": scores.is_first_choice.sum() / denominator}


def pair_log_probs(model: nnx.Module, batch: Batch) -> jax.Array:
  """Returns the log-probabilities of the chosen and the rejected answers.

  The result is float32 [2, B] for a batch of B pairs, 0 for missing pairs.
  """
  scores = token_log_probs.token_log_probs(
    model,
    batch["input_tokens"],
    *_attention_inputs(batch),
    places=batch["places"],
  )
  return _sum_answers(scores.log_probs, batch)


def _sum_answers(values: jax.Array, batch: Batch) -> jax.Array:
  """Returns the sums [2, B] of values [R, A] of the tokens to predict."""
  if "segment_ids" not in batch:
    sums = values.sum(axis=1)
  else:
    ids = jnp.take_along_axis(batch["segment_ids"], batch["places"], axis=1)
    # Segment 0 is padding.
    num_segments = 2 * batch["pairs"].shape[0] + 1
    sums = jax.ops.segment_sum(values.ravel(), ids.ravel(), num_segments)[1:]
  return sums.reshape(-1, 2).T


def preference_loss(
  model: nnx.Module,
  train_example: Batch,
  algorithm: str,
  label_smoothing: float,
  beta: float = 0.0,
  lambda_orpo: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the DPO or ORPO loss of pairs of answers, and its metrics.

  Loss and metrics are sums over the pairs, divided by the batch's denominator.
  The arguments have the names that Tunix's `DPOTrainer` passes.

  Args:
    model: Policy.
    train_example: Batch of B pairs, with the log-probabilities `reference`
      float32 [B, 2] if there is a reference.
    algorithm: `dpo` or `orpo`.
    label_smoothing: Probability that the answers of a pair are swapped.
    beta: KL penalty coefficient of DPO.
    lambda_orpo: Weight of ORPO's odds-ratio term.

  Returns:
    The loss [] and metrics [], by the names that Tunix's trainer logs.
  """
  batch, is_pair = train_example, train_example["pairs"] >= 0

  def mean(values: jax.Array) -> jax.Array:
    return jnp.where(is_pair, values, 0).sum() / batch["denominator"]

  sums = pair_log_probs(model, batch)
  if algorithm == "orpo":
    count = (batch["places"] > 0).astype(jnp.float32)
    lengths = _sum_answers(count, batch)[0]
    # Missing pairs get a likelihood with finite odds.
    chosen, rejected = jnp.where(is_pair, sums, -1.0)
    # Hong et al., 2024, equations 4 to 6, with the odds of whole answers as in
    # Tunix.
    odds = [x - jnp.log1p(-jnp.exp(x)) for x in (chosen, rejected)]
    likelihood = -chosen / jnp.maximum(lengths, 1)
    losses = likelihood + lambda_orpo * _logistic(
      odds[0] - odds[1], label_smoothing
    )
    rewards = lambda_orpo * sums
  else:
    reference = batch["reference"].T if "reference" in batch else 0.0
    rewards = beta * (sums - reference)
    losses = _logistic(rewards[0] - rewards[1], label_smoothing)
  margin = rewards[0] - rewards[1]
  metrics = {
    "rewards/chosen": mean(rewards[0]),
    "rewards/rejected": mean(rewards[1]),
    "rewards/margin": mean(margin),
    "rewards/accuracy": mean(margin > 0),
    "log_probs/chosen": mean(sums[0]),
    "log_probs/rejected": mean(sums[1]),
  }
  return mean(losses), metrics


def _logistic(margin: jax.Array, label_smoothing: float) -> jax.Array:
  """Rafailov et al., 2023, equation 7; smoothed as in Mitchell, 2023."""
  return -(
    (1 - label_smoothing) * jax.nn.log_sigmoid(margin)
    + label_smoothing * jax.nn.log_sigmoid(-margin)
  )
