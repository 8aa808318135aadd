"""Low-rank adapters on any of Tunix's models, by Qwix."""

from collections.abc import Sequence
import re
from typing import Any, Literal, cast

from flax import nnx
import qwix

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.models.families import specs


def linear_modules(module: nnx.Module) -> list[str]:
  """Lists the names of the linear modules inside a model's layers."""
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
  """Returns the model with adapters; its outputs are the same at first.

  Adapters (Hu et al., 2021) add `alpha / rank * x A B` to a linear module's
  output. A is drawn from the seed, B is zero. The base's arrays are shared.

  Args:
    module: the base model.
    rank: inner width of an adapter.
    alpha: scale of its output.
    target_modules: names of linear modules, or `all-linear` for all of them.
    seed: Random seed of the adapters' initial values.

  Raises:
    errors.UserError: if a name is no linear module of this model.
  """
  known = linear_modules(module)
  names = known if target_modules == "all-linear" else list(target_modules)
  unknown = [name for name in names if name not in known]
  if unknown or not names:
    raise errors.UserError(
      f"lora.target_modules: {', '.join(unknown) or 'an empty list'}: this"
      f" model's linear modules are {', '.join(known)}"
    )
  provider = qwix.LoraProvider(
    module_path=rf".*/({'|'.join(map(re.escape, names))})",
    rank=rank,
    alpha=alpha,
  )
  # Every model of Tunix's has such an example of its inputs.
  example = cast(Any, module).get_model_input()
  rngs = nnx.Rngs(streams.key(seed, streams.Stream.ADAPTER_VALUES))
  adapted = qwix.apply_lora_to_model(module, provider, rngs=rngs, **example)
  return cast(nnx.Module, adapted)


def is_adapted(module: nnx.Module) -> bool:
  """Returns whether a model has adapters."""
  return bool(specs.parameters(module, nnx.LoRAParam))
