"""Adds low-rank adapters to Tunix's models with Qwix."""

from collections.abc import Sequence
import re
from typing import Any, Literal, cast

from flax import nnx
import qwix

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.models.families import specs


def linear_modules(module: nnx.Module) -> list[str]:
  """Returns the names of the linear modules in a model's layers."""
  names = {
    path.split(".")[-2]
    for path, value in specs.parameters(module).items()
    if path.startswith("layers.") and len(value.shape) > 1
  }
  return sorted(names)


def apply_lora(
  module: nnx.Module,
  *,
  rank: int,
  alpha: float,
  target_modules: Literal["all-linear"] | Sequence[str],
  seed: int,
) -> nnx.Module:
  """Returns a model with new adapters that leave its outputs unchanged.

  Adapters (Hu et al., 2021) add `alpha / rank * x A B` to the output of a
  linear module. A is random and B is zero. The base's arrays are shared.

  Raises:
    errors.UserError: if the model has no linear module of a name.
  """
  linear = linear_modules(module)
  names = linear if target_modules == "all-linear" else list(target_modules)
  unknown = [name for name in names if name not in linear]
  if unknown or not names:
    raise errors.UserError(
      f"lora.target_modules: {', '.join(unknown) or 'an empty list'}: this"
      f" model's linear modules are {', '.join(linear)}"
    )
  provider = qwix.LoraProvider(
    module_path=rf".*/({'|'.join(map(re.escape, names))})",
    rank=rank,
    alpha=alpha,
  )
  # All of Tunix's models have such example inputs.
  example = cast(Any, module).get_model_input()
  rngs = nnx.Rngs(streams.key(seed, streams.Stream.ADAPTER_VALUES))
  adapted = qwix.apply_lora_to_model(module, provider, rngs=rngs, **example)
  return cast(nnx.Module, adapted)
