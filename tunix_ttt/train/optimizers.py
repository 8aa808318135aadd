"""Optimizers and learning rate schedules."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt.models.families import specs


def learning_rate(config: config_lib.TrainingConfig) -> optax.Schedule:
  """Returns a schedule with linear warmup and cosine decay.

  Warmup starts at `learning_rate / warmup_steps`, because a rate of 0 would
  waste the first step.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=config.learning_rate / max(config.warmup_steps, 1),
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=config.max_steps,
    end_value=config.learning_rate * config.final_learning_rate,
  )


def in_updates(config: config_lib.GRPOConfig) -> config_lib.TrainingConfig:
  """Converts a GRPO run's training steps to updates, `num_iterations` each."""
  training, updates = config.training, config.grpo.num_iterations
  return dataclasses.replace(
    training,
    max_steps=training.max_steps * updates,
    warmup_steps=training.warmup_steps * updates,
  )


def make(config: config_lib.TrainingConfig) -> optax.GradientTransformation:
  """Returns the config's optimizer with gradient clipping by global norm.

  Parameters of lower precision have float32 copies, see `in_float32`.
  """
  make_inner = {"adamw": _adamw, "muon": _muon}.get(config.optimizer)
  if make_inner is None:
    make_inner = custom.resolve(config.optimizer, "training.optimizer")
  return in_float32(
    optax.chain(
      optax.clip_by_global_norm(config.max_grad_norm), make_inner(config)
    )
  )


class Float32State(NamedTuple):
  """The state of `in_float32`: unrounded parameters, and the inner state."""

  params: Any
  inner: Any


def in_float32(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Makes an optimizer update a float32 copy of low-precision parameters.

  Updates below bfloat16's resolution would be lost otherwise (Micikevicius et
  al., 2018, section 3.1). Float32 parameters are updated directly.
  """

  def cast(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

  def init(params: Any) -> Any:
    if all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)):
      return optimizer.init(params)
    copy = cast(params)
    return Float32State(copy, optimizer.init(copy))

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    if not isinstance(state, Float32State):
      return optimizer.update(updates, state, params)
    steps, inner = optimizer.update(cast(updates), state.inner, state.params)
    exact = optax.apply_updates(state.params, steps)
    # Float32 differences: adding them yields the rounded values of `exact`.
    differences = jax.tree.map(lambda new, old: new - old, exact, cast(params))
    return differences, Float32State(exact, inner)

  return optax.GradientTransformation(init, update)


def _adamw(config: config_lib.TrainingConfig) -> optax.GradientTransformation:
  return optax.adamw(
    learning_rate(config),
    b1=config.b1,
    b2=config.b2,
    weight_decay=config.weight_decay,
  )


def _muon(config: config_lib.TrainingConfig) -> optax.GradientTransformation:
  """Muon (Jordan et al., 2024) for matrices, Adam for embeddings and vectors.

  Both share a learning rate, because Muon's updates are scaled to the size of
  Adam's (Liu et al., 2025, section 2.2).
  """
  schedule = learning_rate(config)
  return contrib.muon(
    schedule,
    weight_decay=config.weight_decay,
    adam_b1=config.b1,
    adam_b2=config.b2,
    adam_weight_decay=config.weight_decay,
    adam_learning_rate=schedule,
    muon_weight_dimension_numbers=_matrix_axes,
    consistent_rms=0.2,
  )


def _matrix_axes(params: Any) -> Any:
  """Returns the matrix axes of each parameter; None for Adam."""

  def axes(path: Any, value: Any) -> contrib.MuonDimensionNumbers | None:
    name = jax.tree_util.keystr(path)
    matrix = specs.matrix_axes(name, value.ndim)
    return None if matrix is None else contrib.MuonDimensionNumbers(*matrix)

  return jax.tree_util.tree_map_with_path(axes, params)
