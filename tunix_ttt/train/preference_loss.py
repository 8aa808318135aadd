"""Tunix's DPO and ORPO losses, without the logits of all tokens.

`tunix.sft.dpo.dpo_trainer.DPOTrainer` takes them by `with_loss_fn`.
"""

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.sft.dpo import dpo_trainer

from tunix_ttt.models import token_log_probs


def sequence_log_probs(
  model: nnx.Module, train_example: dpo_trainer.TrainExample
) -> tuple[jax.Array, jax.Array]:
  """Returns log-probabilities of whole answers: chosen [B] and rejected [B].

  Args:
    model: one of Tunix's.
    train_example: B chosen answers, then B rejected ones, each the last
      `logits_to_keep` tokens of its row.
  """
  found = token_log_probs.token_log_probs(
    model,
    train_example.input_ids,
    train_example.positions,
    train_example.attention_mask,
  )
  of_answers = found.log_probs[:, -train_example.logits_to_keep :]
  sums = (of_answers * train_example.completion_mask).sum(axis=-1)
  chosen, rejected = sums.reshape(2, -1)
  return chosen, rejected


def loss(
  model: nnx.Module,
  train_example: dpo_trainer.TrainExample,
  algorithm: str,
  label_smoothing: float,
  beta: float = 0.0,
  lambda_orpo: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the mean loss of pairs of answers, and its metrics.

  Args:
    model: the policy.
    train_example: B pairs.
    algorithm: `dpo` or `orpo`.
    label_smoothing: probability that a pair is the wrong way round.
    beta: of DPO.
    lambda_orpo: of ORPO.

  Returns:
    The loss [] and metrics [], by the names that Tunix's trainer logs.
  """
  chosen, rejected = sequence_log_probs(model, train_example)
  if algorithm == "orpo":
    mask = train_example.completion_mask
    lengths = mask[: len(mask) // 2].sum(axis=-1)
    losses = _orpo(chosen, rejected, lengths, lambda_orpo, label_smoothing)
    rewards = lambda_orpo * chosen, lambda_orpo * rejected
  else:
    rewards = beta * chosen, beta * rejected
    known = train_example.ref_chosen_logps, train_example.ref_rejected_logps
    if known[0] is not None and known[1] is not None:
      rewards = rewards[0] - beta * known[0], rewards[1] - beta * known[1]
    losses = _preference(rewards[0] - rewards[1], label_smoothing)
  margin = rewards[0] - rewards[1]
  metrics = {
    "rewards/chosen": rewards[0].mean(),
    "rewards/rejected": rewards[1].mean(),
    "rewards/margin": margin.mean(),
    "rewards/accuracy": (margin > 0).mean(),
    "log_probs/chosen": chosen.mean(),
    "log_probs/rejected": rejected.mean(),
  }
  return losses.mean(), metrics


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
