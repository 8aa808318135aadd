"""Tunix's DPO loss from log-probabilities, not from all logits at once.

`tunix.sft.dpo.dpo_trainer.DPOTrainer` takes it by `with_loss_fn`, after its
constructor has set Tunix's own. Without a reference model of its own the
trainer leaves `ref_chosen_logps` and `ref_rejected_logps` empty in what
`_prepare_inputs` returns; `sequence_log_probs` of the reference goes there.
"""

from flax import nnx
import jax
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


def dpo_loss(
  model: nnx.Module,
  train_example: dpo_trainer.TrainExample,
  algorithm: str = "dpo",
  beta: float = 0.1,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Direct preference optimization: the mean over pairs of answers.

  Rafailov et al., 2023, equation 7; with `label_smoothing`, the conservative
  loss of Mitchell, 2023.

  Args:
    model: the policy.
    train_example: B pairs.
    algorithm: not used; Tunix's trainer names `dpo` here.
    beta: how dear it is to leave the reference.
    label_smoothing: probability that a pair is the wrong way round.

  Returns:
    The loss [] and metrics [], by the names that Tunix's trainer logs.
  """
  del algorithm
  chosen, rejected = sequence_log_probs(model, train_example)
  rewards = [beta * chosen, beta * rejected]
  if train_example.ref_chosen_logps is not None:
    rewards[0] -= beta * train_example.ref_chosen_logps
  if train_example.ref_rejected_logps is not None:
    rewards[1] -= beta * train_example.ref_rejected_logps
  margin = rewards[0] - rewards[1]
  losses = -(
    (1 - label_smoothing) * jax.nn.log_sigmoid(margin)
    + label_smoothing * jax.nn.log_sigmoid(-margin)
  )
  metrics = {
    "rewards/chosen": rewards[0].mean(),
    "rewards/rejected": rewards[1].mean(),
    "rewards/margin": margin.mean(),
    "rewards/accuracy": (margin > 0).mean(),
    "log_probs/chosen": chosen.mean(),
    "log_probs/rejected": rejected.mean(),
  }
  return losses.mean(), metrics
