"""Tunix's GRPO loss on sequences with explicit masks.

The loss equals `tunix.rl.algo_core.grpo_loss_fn`, which needs the logits of all
tokens at once and infers masks from the pad token, which models may sample.
"""

import dataclasses
from typing import Any

from flax import nnx
from flax import struct
import jax
import jax.numpy as jnp
from tunix.rl import algo_core
from tunix.rl import common
from tunix.rl import function_registry
from tunix.rl.grpo import grpo_learner
from tunix.sft import utils as sft_utils

from tunix_ttt import config as config_lib
from tunix_ttt.models import token_log_probs

# Name of the loss in Tunix's registry.
NAME = "tunix_ttt_games"


@struct.dataclass
class GameExample(grpo_learner.TrainExample):
  """Tunix's `TrainExample` of B games in R rows of L tokens each.

  The prompt is the first token of a row, [B, R, 1]; other arrays are
  [B, R, L - 1]. A row is a game in the context `full` and a turn otherwise.

  Attributes:
    mask: bool [B, R, L], mask of real tokens.
    weight: float32 [B], weight of each game's micro-batch in the loss; the mean
      is 1.
    token_weight: float32 [B], weight of each game's micro-batch in means over
      trained tokens.
  """

  mask: jax.Array | None = None
  weight: jax.Array | None = None
  token_weight: jax.Array | None = None


@dataclasses.dataclass(kw_only=True)
class AlgorithmConfig(grpo_learner.GRPOConfig):
  """Tunix's `GRPOConfig` with additional settings of the loss.

  Attributes:
    policy_loss_fn: Name of the loss in Tunix's registry.
    temperature: Sampling temperature of the rollout.
    epsilon_high: Upper clipping distance of the probability ratio.
    epsilon_c: Dual-clip bound of the ratio for negative advantages.
    max_sequence_tokens: Maximum number of sampled tokens in a sequence, the
      divisor of `sequence-mean-token-scale`.
  """

  policy_loss_fn: str = NAME
  temperature: float = 1.0
  epsilon_high: float = 0.2
  epsilon_c: float | None = None
  max_sequence_tokens: int


def algorithm_config(config: config_lib.GRPOConfig) -> AlgorithmConfig:
  """Converts a run's settings to Tunix's."""
  algorithm, high = config.grpo, config.grpo.epsilon_high
  return AlgorithmConfig(
    num_generations=algorithm.num_generations,
    num_iterations=algorithm.num_iterations,
    loss_algo=algorithm.loss_algo,
    advantage_estimator=algorithm.advantage_estimator,
    loss_agg_mode=algorithm.loss_agg_mode,
    beta=algorithm.beta,
    kl_loss_mode=algorithm.kl_loss_mode,
    epsilon=algorithm.epsilon,
    epsilon_high=algorithm.epsilon if high is None else high,
    epsilon_c=algorithm.epsilon_c,
    temperature=config.rollout.temperature,
    max_sequence_tokens=config.max_sequence_tokens,
  )


def log_probs(
  model: nnx.Module, tokens: jax.Array, mask: jax.Array, temperature: float
) -> token_log_probs.TokenLogProbs:
  """Returns log-probabilities [N, L - 1] of the `tokens` [N, L] in `mask`."""
  return token_log_probs.token_log_probs(
    model,
    tokens,
    sft_utils.build_positions_from_mask(mask),
    sft_utils.make_causal_attn_mask(mask),
    temperature=temperature,
  )


@function_registry.register_policy_loss_fn(NAME)
def games_loss(
  model: nnx.Module,
  train_example: GameExample,
  algo_config: Any,
  pad_id: int = 0,
  eos_id: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the GRPO loss [] of a micro-batch of games, and its metrics.

  Averages over the micro-batches of a batch equal the values of the batch.
  `algo_config` is an `AlgorithmConfig`. `pad_id` and `eos_id` belong to Tunix's
  interface and are not used.
  """
  mask, weight = train_example.mask, train_example.weight
  token_weight = train_example.token_weight
  assert mask is not None and weight is not None and token_weight is not None
  rows: Any = jax.tree.map(
    lambda leaf: leaf.reshape(-1, leaf.shape[-1]),
    dataclasses.replace(train_example, weight=None, token_weight=None),
  )
  tokens = jnp.concatenate([rows.prompt_ids, rows.completion_ids], axis=1)
  scores = log_probs(model, tokens, rows.mask, algo_config.temperature)
  loss, metrics = _loss_of_rows(scores, rows, algo_config)
  metrics = {
    # Tunix aggregates the entropy like the loss.
    name: value * (weight if name == "entropy" else token_weight).mean()
    for name, value in metrics.items()
  }
  return loss * weight.mean(), metrics


def _loss_of_rows(
  scores: token_log_probs.TokenLogProbs, rows: Any, config: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss of a `GameExample` with arrays [N, L - 1], and metrics.

  Shao et al., 2024, equation 3, with the config's clipping and aggregation.
  Metrics have Tunix's names.
  """
  trained, advantages = rows.completion_mask, rows.advantages
  old = rows.old_per_token_logps
  if old is None:
    old = jax.lax.stop_gradient(scores.log_probs)
  log_ratio = _log_ratio(scores.log_probs, old, trained, config.loss_algo)
  ratio = jnp.exp(log_ratio)
  low, high = 1 - config.epsilon, 1 + config.epsilon_high
  free, clipped = -advantages * ratio, -advantages * ratio.clip(low, high)
  losses = jnp.maximum(free, clipped)
  if config.epsilon_c is not None:
    bounded = jnp.minimum(losses, -config.epsilon_c * advantages)
    losses = jnp.where(advantages < 0, bounded, losses)
  if rows.sampler_is_weights is not None:
    losses *= rows.sampler_is_weights

  mode, norm = config.loss_agg_mode, {}
  if mode == "sequence-mean-token-scale":
    # A constant: the loss must not depend on the batch's longest row.
    norm["norm"] = config.max_sequence_tokens

  def average(values: jax.Array) -> jax.Array:
    return common.aggregate_loss(values, trained, mode, **norm)

  loss, kl = average(losses), jnp.float32(0)
  if rows.ref_per_token_logps is not None:
    kls = common.compute_kl_divergence(
      scores.log_probs,
      rows.ref_per_token_logps,
      config.kl_loss_mode,
      clamp_value=config.kl_clamp_value,
    )
    kl = algo_core.masked_mean(kls, trained)
    loss += config.beta * average(kls)
  metrics = {
    "kl": kl,
    "entropy": average(scores.entropy),
    "pg_clipfrac": algo_core.masked_mean(clipped > free, trained),
    "log_ratio/abs_mean": algo_core.masked_mean(jnp.abs(log_ratio), trained),
  }
  return loss, metrics


def _log_ratio(
  new: jax.Array, old: jax.Array, trained: jax.Array, loss_algo: str
) -> jax.Array:
  """Returns log-ratios of tokens or of their sequences, [N, L - 1]."""
  log_ratio = (new - old).clip(-20, 20)
  if loss_algo != "gspo-token":
    return log_ratio
  # Zheng et al., 2025, equation 13: the value of the sequence with the gradient
  # of each token.
  count = trained.sum(axis=-1, keepdims=True).clip(min=1)
  mean = (log_ratio * trained).sum(axis=-1, keepdims=True) / count
  stop = jax.lax.stop_gradient
  return (new - stop(new) + stop(mean)).clip(max=10)
