"""Builds the trainer's batches of games: packed rows, masks and weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.models import meshes
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import reference_log_probs

# Lengths are rounded up to a multiple, to compile fewer programs.
_MULTIPLE = 16
# Smaller batches do not save enough time for a compilation.
_MIN_ROWS = 64


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
  parts = config.training.gradient_accumulation_steps
  rows = pack(
    {
      "tokens": sequences.tokens,
      "mask": sequences.mask,
      "trained": trained,
      "advantages": np.where(trained, per_token(advantages), 0),
      "log_probs": sequences.log_probs,
    },
    len(is_trained),
    parts,
    meshes.sizes(config.mesh)[meshes.FSDP],
  )
  tokens, mask = rows["tokens"], rows["mask"]
  reference_scores = None
  if reference is not None:
    reference_scores = reference(tokens, mask)[..., 1:]
  # The sampler's log-probabilities are the loss's old log-probabilities.
  old, weights, metrics = rows["log_probs"], None, {}
  if policy is not None:
    sampled, old = old, policy(tokens, mask)
    weights, metrics = importance_weights(
      old, sampled, rows["trained"], config.grpo.sampler_is_threshold
    )
    weights = weights[..., 1:]
  # Type checkers cannot see the fields of Tunix's parent class.
  example: Any = grpo_loss.GameExample
  batch = example(
    prompt_ids=tokens[..., :1],
    prompt_mask=mask[..., :1],
    completion_ids=tokens[..., 1:],
    completion_mask=rows["trained"][..., 1:],
    advantages=rows["advantages"][..., 1:],
    ref_per_token_logps=reference_scores,
    old_per_token_logps=old[..., 1:],
    sampler_is_weights=weights,
    mask=mask,
    weight=micro_batch_weights(
      rows["trained"], parts, config.grpo.loss_agg_mode
    ),
    token_weight=micro_batch_weights(rows["trained"], parts, "token-mean"),
  )
  return batch, metrics


def pack(
  rows: Mapping[str, Any], num_games: int, parts: int, divisor: int = 1
) -> dict[str, np.ndarray]:
  """Removes rows and columns without trained tokens.

  Shapes are rounded, because each shape is compiled.

  Args:
    rows: Arrays [N, L] by name, with the masks `trained` and `mask`.
    num_games: Number of games in the batch.
    parts: Number of micro-batches in the batch.
    divisor: Divisor of the number of rows.

  Returns:
    Arrays [B, R, L'] by name. B is the number of games; without micro-batches,
    it may be smaller.
  """
  used = np.flatnonzero(rows["trained"].any(axis=1))
  size, per_game = num_games, 1
  while size * per_game < len(used):
    per_game *= 2
  least = max(len(used), _MIN_ROWS)
  while parts == 1 and size % (2 * divisor) == 0 and size // 2 >= least:
    size //= 2
  longest = rows["mask"][used].sum(axis=1).max(initial=1)
  length = min(-(-longest // _MULTIPLE) * _MULTIPLE, rows["mask"].shape[1])

  padding = ((0, size * per_game - len(used)), (0, 0))
  return {
    name: np.pad(values[used, :length], padding).reshape(size, per_game, length)
    for name, values in rows.items()
  }


def micro_batch_weights(
  trained: np.ndarray, parts: int, loss_agg_mode: str
) -> np.ndarray:
  """Returns the weight of each game's micro-batch, float32 [B].

  Tunix averages the mean losses of `parts` micro-batches. These weights turn
  that average into the mean over the batch. `trained` is a mask of tokens, bool
  [B, R, L], and `loss_agg_mode` Tunix's name of the aggregation.
  """
  counts = trained.sum(axis=-1)
  if loss_agg_mode != "token-mean":
    counts = counts > 0
  sums = counts.reshape(parts, -1).sum(axis=1)
  weights = sums * parts / max(sums.sum(), 1)
  return np.repeat(weights, len(trained) // parts).astype(np.float32)


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
