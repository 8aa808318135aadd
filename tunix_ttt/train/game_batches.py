"""Builds the trainer's batches of games: rows, masks and weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import reference_log_probs

# Lengths are rounded up to a multiple, to compile fewer programs.
_MULTIPLE = 16


def make(
  sequences: trajectory.Sequences,
  advantages: np.ndarray,
  is_trained: np.ndarray,
  config: config_lib.GRPOConfig,
  reference: reference_log_probs.Scorer | None = None,
  policy: reference_log_probs.Scorer | None = None,
) -> tuple[grpo_loss.GameExample, dict[str, float]]:
  """Returns the loss's batch of games, and metrics of importance weights.

  Args:
    sequences: Token sequences of the games, on the host.
    advantages: float32 [B, T], advantages of turns.
    is_trained: bool [B, T], mask of trained turns.
    config: Settings of the run.
    reference: Scorer by the KL reference; None without a KL penalty.
    policy: Scorer by the trainer's weights; None, without metrics, if the
      sampler has the same weights.
  """
  rows_per_game = len(sequences.tokens) // len(is_trained)
  turns: Any = sequences.turns
  game = np.repeat(np.arange(len(is_trained)), rows_per_game)

  def per_token(turn_values: np.ndarray) -> np.ndarray:
    return np.take_along_axis(turn_values[game], turns, axis=1)

  trained = sequences.action_mask & per_token(is_trained)
  rows = pack(
    {
      "tokens": sequences.tokens,
      "mask": sequences.mask,
      "trained": trained,
      "advantages": np.where(trained, per_token(advantages), 0),
      "log_probs": sequences.log_probs,
    }
  )
  tokens, mask, trained = rows["tokens"], rows["mask"], rows["trained"]
  reference_scores = None
  if reference is not None:
    reference_scores = reference(tokens, mask, trained)[..., 1:]
  # The sampler's log-probabilities are the loss's old log-probabilities.
  old, weights, metrics = rows["log_probs"], None, {}
  if policy is not None:
    before, old = old, policy(tokens, mask, trained)
    weights, metrics = importance_weights(
      old, before, trained, config.grpo.sampler_is_threshold
    )
    weights = weights[..., 1:]
  # Type checkers cannot see the fields of Tunix's parent class.
  example: Any = grpo_loss.GameExample
  batch = example(
    prompt_ids=tokens[..., :1],
    prompt_mask=mask[..., :1],
    completion_ids=tokens[..., 1:],
    completion_mask=trained[..., 1:],
    advantages=rows["advantages"][..., 1:],
    ref_per_token_logps=reference_scores,
    old_per_token_logps=old[..., 1:],
    sampler_is_weights=weights,
    mask=mask,
  )
  return batch, metrics


def pack(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Moves rows with trained tokens to the front, and cuts columns of padding.

  The number of columns is rounded up, because each shape is compiled.

  Args:
    rows: Arrays [N, L] by name, with the masks `trained` and `mask`.

  Returns:
    Arrays [N, L'] by name, with rows of padding at the end.
  """
  used = np.flatnonzero(rows["trained"].any(axis=1))
  longest = rows["mask"][used].sum(axis=1).max(initial=1)
  length = min(-(-longest // _MULTIPLE) * _MULTIPLE, rows["mask"].shape[1])
  padding = ((0, len(rows["mask"]) - len(used)), (0, 0))
  return {
    name: np.pad(values[used, :length], padding)
    for name, values in rows.items()
  }


def importance_weights(
  trainer: np.ndarray,
  sampler: np.ndarray,
  trained: np.ndarray,
  threshold: float,
) -> tuple[np.ndarray, dict[str, float]]:
  """Returns Tunix's `sampler_is_weights`, and metrics of the weights.

  They are truncated importance weights (Yao et al., 2025): the trainer's
  probability of a token before the update over the sampler's, at most
  `threshold`. `trainer` and `sampler` are log-probabilities float32 [...];
  weights are 0 outside of the mask `trained`, bool [...].
  """
  log_ratio = np.where(trained, np.clip(trainer - sampler, -20, 20), 0)
  ratio = np.exp(log_ratio)
  weights = np.minimum(ratio, threshold) * trained
  count = max(trained.sum(), 1)
  metrics = {
    "log_ratio": float(np.abs(log_ratio).sum() / count),
    "sampler_is/weight_mean": float(weights.sum() / count),
    "sampler_is/share_cut": float(trained[ratio > threshold].sum() / count),
  }
  return weights.astype(np.float32), metrics
