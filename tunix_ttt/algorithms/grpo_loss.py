"""Tunix's GRPO loss on sequences with explicit masks.

The loss equals `tunix.rl.algo_core.grpo_loss_fn`, which needs the logits of all
tokens at once and infers masks from the pad token, which models may sample.

A batch is trained in chunks of as many rows, whose gradients are added up in one
compiled program. So its memory is that of a chunk, and batches with more or fewer
trained rows are one shape, without work for rows that are padding.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
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
from tunix_ttt.models import meshes
from tunix_ttt.models import token_log_probs

# Name of the loss in Tunix's registry.
NAME = "tunix_ttt_games"


@struct.dataclass
class GameExample(grpo_learner.TrainExample):
  """Tunix's `TrainExample` of N rows of L tokens.

  The prompt is the first token of a row, [N, 1]; other arrays are [N, L - 1]. A
  row is a game in the context `full` and a turn otherwise. Trained rows come
  first.

  Attributes:
    mask: bool [N, L], mask of real tokens.
  """

  mask: jax.Array | None = None


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
    rows_at_once: Number of rows in a chunk.
    prefix: Tokens with which all rows begin.
  """

  policy_loss_fn: str = NAME
  temperature: float = 1.0
  epsilon_high: float = 0.2
  epsilon_c: float | None = None
  max_sequence_tokens: int
  rows_at_once: int
  prefix: Sequence[int] = ()


def algorithm_config(
  config: config_lib.GRPOConfig, prefix: Sequence[int] = ()
) -> AlgorithmConfig:
  """Converts a run's settings to Tunix's; all rows begin with a prefix."""
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
    rows_at_once=meshes.rows_at_once(config),
    prefix=prefix,
  )


def log_probs(
  model: nnx.Module,
  tokens: jax.Array,
  mask: jax.Array,
  is_sampled: jax.Array,
  max_sampled: int,
  temperature: float,
  prefix: Sequence[int] = (),
) -> token_log_probs.TokenLogProbs:
  """Returns log-probabilities [N, L - 1] of those `tokens` [N, L] in `is_sampled`.

  These are at most `max_sampled` in a row; `mask` has all tokens of the rows. See
  `token_log_probs` for `prefix`.
  """
  score = functools.partial(
    token_log_probs.token_log_probs,
    model,
    tokens,
    sft_utils.build_positions_from_mask(mask),
    sft_utils.make_causal_attn_mask(mask),
    temperature=temperature,
    prefix=prefix,
  )
  if max_sampled >= tokens.shape[1] - 1:
    return score()
  is_sampled = is_sampled.at[:, 0].set(False)
  first = jnp.argsort(~is_sampled, axis=1, stable=True)[:, :max_sampled]
  exists = jnp.take_along_axis(is_sampled, first, axis=1)
  scores = score(places=jnp.where(exists, first, 0))
  # Back to where the tokens are.
  rank = (jnp.cumsum(is_sampled, axis=1) - 1).clip(0)
  return jax.tree.map(
    lambda leaf: jnp.where(
      is_sampled, jnp.take_along_axis(leaf, rank, axis=1), 0
    )[:, 1:].astype(leaf.dtype),
    scores,
  )


@function_registry.register_policy_loss_fn(NAME)
def games_loss(
  model: nnx.Module,
  train_example: GameExample,
  algo_config: Any,
  pad_id: int = 0,
  eos_id: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the GRPO loss [] of a batch of games, and its metrics.

  `algo_config` is an `AlgorithmConfig`. `pad_id` and `eos_id` belong to Tunix's interface and are not used.
  """
  has_adapters = bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))
  trained = nnx.LoRAParam if has_adapters else nnx.Param
  graph, values, *frozen = nnx.split(model, trained, nnx.Param, ...)
  num_rows = math.prod(train_example.completion_ids.shape[:-1])
  size = min(algo_config.rows_at_once, num_rows)
  padding = ((0, -num_rows % size), (0, 0))
  rows = jax.tree.map(
    lambda leaf: jnp.pad(jnp.reshape(leaf, (num_rows, -1)), padding).reshape(
      -1, size, leaf.shape[-1]
    ),
    train_example,
  )
  counts = rows.completion_mask.sum(axis=2)
  if algo_config.loss_agg_mode != "token-mean":
    counts = counts > 0
  tokens, terms = rows.completion_mask.sum(axis=(1, 2)), counts.sum(axis=1)

  def of_chunk(
    states: Any, other: Any, chunk: Any, weight: Any, token_weight: Any
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    # Otherwise each device would have chunks of its own.
    chunk = jax.tree.map(lambda leaf: meshes.shard(leaf, (meshes.FSDP,)), chunk)
    ids = jnp.concatenate([chunk.prompt_ids, chunk.completion_ids], axis=1)
    scores = log_probs(
      nnx.merge(graph, *states, other),
      ids,
      chunk.mask,
      jnp.pad(chunk.completion_mask, ((0, 0), (1, 0))),
      algo_config.max_sequence_tokens,
      algo_config.temperature,
      algo_config.prefix,
    )
    loss, metrics = loss_of_rows(scores, chunk, algo_config)
    return loss * weight, {
      # Tunix aggregates the entropy like the loss.
      name: value * (weight if name == "entropy" else token_weight)
      for name, value in metrics.items()
    }

  # Weights turn the sum of the chunks' means into the mean of the batch.
  chunks = (
    rows,
    *(sums / jnp.maximum(sums.sum(), 1) for sums in (terms, tokens)),
  )
  return _sum_of_chunks(of_chunk, (tokens > 0).sum(), values, frozen, chunks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_of_chunks(
  of_chunk: Callable[..., tuple[jax.Array, Any]],
  count: jax.Array,
  values: Any,
  frozen: Any,
  chunks: Any,
) -> tuple[jax.Array, Any]:
  """Returns the sums of `of_chunk` over the first `count` chunks.

  Only the loss, the first result, has a derivative, and only by `values`.
  """
  return _values_and_gradient(of_chunk, count, values, frozen, chunks)[0]


def _values_and_gradient(
  of_chunk: Callable[..., tuple[jax.Array, Any]],
  count: jax.Array,
  values: Any,
  frozen: Any,
  chunks: Any,
) -> tuple[tuple[jax.Array, Any], Any]:
  def run(number: Any) -> Any:
    take = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
    chunk = jax.tree.map(lambda leaf: take(leaf, number), chunks)
    # Flax rematerializes models all of whose parameters have derivatives; the
    # compiler removes those that are not returned.
    base, other = frozen
    gradient = jax.value_and_grad(of_chunk, has_aux=True)
    result, (derivative, _) = gradient((values, base), other, *chunk)
    return result, derivative

  if jax.tree.leaves(chunks)[0].shape[0] == 1:
    return run(0)
  # Sums of many bfloat16 numbers would be rounded at each.
  total = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, jnp.float32), jax.eval_shape(run, 0)
  )
  results, gradient = jax.lax.fori_loop(
    0, count, lambda n, total: jax.tree.map(jnp.add, total, run(n)), total
  )
  return results, jax.tree.map(
    lambda leaf, value: leaf.astype(value.dtype), gradient, values
  )


def _derivative(
  _: Callable[..., tuple[jax.Array, Any]], gradient: Any, cotangents: Any
) -> tuple[None, Any, None, None]:
  scaled = jax.tree.map(
    lambda leaf: (leaf * cotangents[0]).astype(leaf.dtype), gradient
  )
  return None, scaled, None, None


_sum_of_chunks.defvjp(_values_and_gradient, _derivative)


def average(values: jax.Array, trained: jax.Array, config: Any) -> jax.Array:
  """Averages values of tokens [N, L] as `loss_agg_mode` says, over those trained."""
  mode, norm = config.loss_agg_mode, {}
  if mode == "sequence-mean-token-scale":
    # A constant: the loss must not depend on the batch's longest row.
    norm["norm"] = config.max_sequence_tokens
  return common.aggregate_loss(values, trained, mode, **norm)


def loss_of_rows(
  scores: token_log_probs.TokenLogProbs, rows: Any, config: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss of a chunk of a `GameExample`, and its metrics.

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

  loss, kl = average(losses, trained, config), jnp.float32(0)
  if rows.ref_per_token_logps is not None:
    kls = common.compute_kl_divergence(
      scores.log_probs,
      rows.ref_per_token_logps,
      config.kl_loss_mode,
      clamp_value=config.kl_clamp_value,
    )
    kl = algo_core.masked_mean(kls, trained)
    loss += config.beta * average(kls, trained, config)
  metrics = {
    "kl": kl,
    "entropy": average(scores.entropy, trained, config),
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
