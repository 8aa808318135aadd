"""Tunix's GRPO loss on sequences that carry their own masks."""

import dataclasses
from typing import Any

from flax import nnx
from flax import struct
import jax
from tunix.rl import algo_core
from tunix.rl import function_registry
from tunix.rl.grpo import grpo_learner
from tunix.sft import utils as sft_utils

# The name it is registered by.
NAME = "tunix_ttt_games"


@struct.dataclass
class GameExample(grpo_learner.TrainExample):
  """Tunix's `TrainExample` of B games in R rows of L tokens each.

  Its arrays are [B, R, L - 1], with the first token of a row as the prompt,
  [B, R, 1]; a row is a game in the context `full` and a turn in others.

  Attributes:
    mask: bool [B, R, L], which tokens exist.
    weight: float32 [B], the same for the games of a micro-batch: its part of
      the batch in what losses are averaged over, 1 on average.
  """

  mask: jax.Array | None = None
  weight: jax.Array | None = None


class Masked(nnx.Module):
  """A model whose positions and attention come from a mask of its own.

  Tunix takes them from which tokens are not the pad token, which a model may
  well have sampled.
  """

  def __init__(self, model: nnx.Module, mask: jax.Array):
    """Takes a model and bool [N, L], which tokens exist."""
    self.model = model
    positions = sft_utils.build_positions_from_mask(mask)
    self.positions = nnx.Variable(positions)
    self.attention_mask = nnx.Variable(sft_utils.make_causal_attn_mask(mask))

  def __call__(
    self, tokens: jax.Array, positions: Any, cache: Any, attention_mask: Any
  ) -> Any:
    """Called as Tunix's models are."""
    del positions, attention_mask
    model: Any = self.model
    return model(
      tokens,
      self.positions.get_value(),
      cache,
      self.attention_mask.get_value(),
    )


@function_registry.register_policy_loss_fn(NAME)
def games_loss(
  model: nnx.Module,
  train_example: GameExample,
  algo_config: Any,
  pad_id: int,
  eos_id: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns Tunix's `grpo_loss_fn` of games, and its metrics.

  Args:
    model: the policy.
    train_example: a `GameExample`.
    algo_config: Tunix's.
    pad_id: not used, since sequences carry their masks.
    eos_id: not used.
  """
  mask, weight = train_example.mask, train_example.weight
  assert mask is not None and weight is not None
  rows: Any = jax.tree.map(
    lambda leaf: leaf.reshape(-1, leaf.shape[-1]),
    dataclasses.replace(train_example, weight=None),
  )
  masked = Masked(model, rows.mask)
  loss, metrics = algo_core.grpo_loss_fn(
    masked, rows, algo_config, pad_id, eos_id
  )
  return loss * weight.mean(), metrics
