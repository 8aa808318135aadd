"""Rematerialization: the backward pass computes a layer's activations again.

It saves memory only if a layer's activations are freed before those of the preceding
layer are computed. XLA does not do so by itself: the parameters' gradients are used
together at the end of a step, for their norm, and XLA leaves them until then, with all
that they are computed from. So here the backward pass goes on to the preceding layer
only once this layer's gradients are computed.
"""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax


def use(module: nnx.Module, kind: str) -> None:
  """Sets the rematerialization in place: `none`, `block` or `decoder`."""
  for _, part in nnx.iter_modules(module):
    owner: Any = part
    # Gemma's attention has its own setting.
    if hasattr(owner, "remat_config"):
      kinds: Any = type(owner.remat_config)
      owner.remat_config = kinds[kind.upper()]
    config: Any = getattr(owner, "config", None)
    if hasattr(config, "remat_config"):
      kinds = type(config.remat_config)
      value = kinds[kind.upper()]
      owner.config = dataclasses.replace(config, remat_config=value)
  model: Any = module
  for layer in model.layers:
    plain = getattr(layer, "plain", type(layer))
    layer.__class__ = plain if kind == "none" else _in_order(plain)


def compiler_options(module: nnx.Module) -> dict[str, Any]:
  """Returns the options with which to compile a training step of a model."""
  model: Any = module
  is_used = any(hasattr(layer, "plain") for layer in model.layers)
  if not is_used or jax.default_backend() != "cpu":
    return {}
  # Before it orders operators, XLA for a CPU drops all barriers.
  return {"xla_disable_hlo_passes": "cse_barrier_expander"}


@functools.cache
def _in_order(kind: type) -> type:
  """Returns the class of decoder layers with gradients in order."""

  class Layer(kind):
    plain = kind

    def __call__(self, x: jax.Array, *rest: Any, **named: Any) -> Any:
      has_adapters = bool(jax.tree.leaves(nnx.state(self, nnx.LoRAParam)))
      trained = nnx.LoRAParam if has_adapters else nnx.Param
      x, values = _together(x, nnx.state(self, trained))
      nnx.update(self, values)
      return super().__call__(x, *rest, **named)

  return Layer


@jax.custom_vjp
def _together(x: jax.Array, values: Any) -> tuple[jax.Array, Any]:
  """Returns its arguments, whose gradients are computed before any is used."""
  return x, values


_together.defvjp(
  lambda x, values: ((x, values), None),
  lambda _, gradients: jax.lax.optimization_barrier(gradients),
)
