"""Tunix's DPO and ORPO losses, without the logits of all tokens.

`tunix.sft.dpo.dpo_trainer.DPOTrainer` takes them by `with_loss_fn`.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt.algorithms import losses

Batch = dict[str, jax.Array]


def log_probs(model: nnx.Module, batch: Any) -> jax.Array:
  """Returns log-probabilities of whole answers.

  Args:
    model: one of Tunix's.
    batch: B pairs, as `batches.make` returns them.

  Returns:
    float32 [2, B]: of the chosen and the rejected; 0 where there is no pair.
  """
  count = 2 * batch["pairs"].shape[0]
  return losses.sequence_log_probs(model, batch, count).reshape(-1, 2).T


def loss(
  model: nnx.Module,
  train_example: Batch,
  algorithm: str,
  label_smoothing: float,
  beta: float = 0.0,
  lambda_orpo: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss of pairs of answers, and its metrics.

  Both are sums over the pairs that there are, divided by the batch's
  denominator: where that is their number, means.

  Args:
    model: the policy.
    train_example: B pairs, as `batches.make` returns them; with their
      `reference` float32 [B, 2], if there is one.
    algorithm: `dpo` or `orpo`.
    label_smoothing: probability that a pair is the wrong way round.
    beta: KL penalty of DPO.
    lambda_orpo: Weight of ORPO's odds-ratio term.

  Returns:
    The loss [] and metrics [], by the names that Tunix's trainer logs.
  """
  batch, there = train_example, train_example["pairs"] >= 0

  def mean(values: jax.Array) -> jax.Array:
    return jnp.where(there, values, 0).sum() / batch["denominator"]

  sums = log_probs(model, batch)
  if algorithm == "orpo":
    mask = batch["loss_mask"][:, 1:].astype(jnp.float32)
    lengths = losses.sum_sequences(mask, batch, 2 * len(there))
    # Where there is no pair, any likelihood that has odds.
    chosen, rejected = jnp.where(there, sums, -1.0)
    of_pairs = _orpo(
      chosen, rejected, lengths[::2], lambda_orpo, label_smoothing
    )
    rewards = lambda_orpo * sums
  else:
    reference = batch["reference"].T if "reference" in batch else 0.0
    rewards = beta * (sums - reference)
    of_pairs = _preference(rewards[0] - rewards[1], label_smoothing)
  margin = rewards[0] - rewards[1]
  metrics = {
    "rewards/chosen": mean(rewards[0]),
    "rewards/rejected": mean(rewards[1]),
    "rewards/margin": mean(margin),
    "rewards/accuracy": mean(margin > 0),
    "log_probs/chosen": mean(sums[0]),
    "log_probs/rejected": mean(sums[1]),
  }
  return mean(of_pairs), metrics


def _preference(margin: jax.Array, label_smoothing: float) -> jax.Array:
  """Rafailov et al., 2023, equation 7; smoothed, Mitchell, 2023."""
  return -(
    (1 - label_smoothing) * jax.nn.log_sigmoid(margin)
    + label_smoothing * jax.nn.log_sigmoid(-margin)
  )


def _orpo(
  chosen: jax.Array,
  rejected: jax.Array,
  lengths: jax.Array,
  weight: float,
  label_smoothing: float,
) -> jax.Array:
  """Hong et al., 2024, equations 4 to 6, the odds of whole answers as in Tunix."""
  odds = [x - jnp.log1p(-jnp.exp(x)) for x in (chosen, rejected)]
  likelihood = -chosen / jnp.maximum(lengths, 1)
  return likelihood + weight * _preference(odds[0] - odds[1], label_smoothing)
