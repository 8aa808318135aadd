"""Builds Tunix's models from architectures, and lists the model families."""

from collections.abc import Sequence
import dataclasses
import math
import re
from typing import Any, Literal, cast
import zlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import qwix
from tunix.models import automodel
from tunix.models import naming

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.models.families import family as family_lib
from tunix_ttt.models.families import gemma
from tunix_ttt.models.families import gemma3
from tunix_ttt.models.families import qwen
from tunix_ttt.runs import progress

_EMBEDDING_STDDEV = 0.05

_ALL = (qwen.QWEN2, qwen.QWEN3, gemma.GEMMA, gemma.GEMMA2, gemma3.GEMMA3)
FAMILIES: dict[str, family_lib.Family] = {x.name: x for x in _ALL}
# Architectures to train from scratch; the tokenizer decides `vocab_size`.
TINY_MODELS: dict[str, dict[str, Any]] = {
  f"tiny-{name}": {"family": name, **family.tiny}
  for name, family in FAMILIES.items()
}
# Fields of `ModelSpec` by their names in Tunix's model configs.
_TUNIX_NAMES = {
  **{name: name for name in (*config_lib.SIZES, "vocab_size", "norm_eps")},
  "num_embed": "vocab_size",
  "rope_theta": "rope_theta",
  "global_base_frequency": "rope_theta",
  "sliding_window_size": "sliding_window",
  "use_tied_embedding": "tied_embedding",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec(family_lib.Architecture):
  """An `Architecture` whose None fields take the defaults of its family."""

  def __post_init__(self):
    """Fills in the defaults of the family, or raises a ValueError."""
    if self.family not in FAMILIES:
      raise ValueError(
        f"family: expected one of {', '.join(FAMILIES)}, found {self.family!r}"
      )
    traits, period = self.traits, self.traits.global_every
    defaults = {
      "layer_types": period
      and family_lib.periodic_layers(self.num_layers, period),
      "rope_theta": 10_000.0,
      "query_pre_attn_scalar": float(self.head_dim),
      "attn_logit_softcap": 0.0,
      "final_logit_softcap": 0.0,
      **traits.defaults,
    }
    for field, value in defaults.items():
      if getattr(self, field) is None:
        object.__setattr__(self, field, value)
    if self.layer_types and len(self.layer_types) != self.num_layers:
      raise ValueError(
        f"{len(self.layer_types)} layer_types for {self.num_layers} layers"
      )

  @property
  def traits(self) -> family_lib.Family:
    """The traits of the model's family."""
    return FAMILIES[self.family]

  def weight_bytes(self) -> int:
    """Returns the size of the weights without norms and biases."""
    heads = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim
    layer = self.embed_dim * (heads + 3 * self.hidden_dim)
    embeddings = 1 if self.tied_embedding else 2
    size = 4 if self.dtype == "float32" else 2
    return size * (
      self.num_layers * layer + embeddings * self.vocab_size * self.embed_dim
    )

  def build(self, seed: int = 0) -> nnx.Module:
    """Returns the model with Tunix's initial values; see `initialize`.

    Under `nnx.eval_shape` it has shapes and no values.
    """
    key = streams.key(seed, streams.Stream.TUNIX_VALUES)
    return self.traits.build(self, nnx.Rngs(key))

  def tensor_sources(
    self, prefix: str = "model."
  ) -> dict[str, family_lib.Source]:
    """Returns the transformers tensors of each parameter, by dotted path."""
    vector, matrix = family_lib.vector, family_lib.matrix
    embedding = (self.vocab_size, self.embed_dim)
    result = {
      "embedder.input_embedding": vector(
        f"{prefix}{family_lib.EMBEDDING}", embedding
      ),
      self.traits.final_norm: vector(f"{prefix}norm.weight", embedding[1:]),
    }
    if not self.tied_embedding:
      result["lm_head.w"] = matrix(family_lib.HEAD, embedding)
    # All families have the same feed-forward layer.
    wide = (self.hidden_dim, self.embed_dim)
    shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
    layer = {
      f"mlp.{name}.kernel": matrix(f"mlp.{name}.weight", shape)
      for name, shape in shapes.items()
    } | self.traits.layer_sources(self)
    for number in range(self.num_layers):
      for path, source in layer.items():
        names = (f"{prefix}layers.{number}.{name}" for name in source.names)
        source = dataclasses.replace(source, names=tuple(names))
        result[f"layers.{number}.{path}"] = source
    return result


def published(name: str, dtype: str) -> ModelSpec | None:
  """Returns Tunix's own architecture for a hub id; None for an unknown id."""
  try:
    config: Any = automodel.call_model_config(
      naming.get_model_name_from_model_id(name)
    )
  except (ValueError, AttributeError, TypeError, KeyError):
    # Tunix raises any of these for an unknown model.
    return None
  family = next((x for x in FAMILIES.values() if x.has_config(config)), None)
  if family is None:
    return None
  fields: dict[str, Any] = {
    field: getattr(config, name)
    for name, field in _TUNIX_NAMES.items()
    if hasattr(config, name)
  }
  return ModelSpec(family=family.name, dtype=cast(Any, dtype), **fields)


def matrix_axes(
  name: str, ndim: int
) -> tuple[int | tuple[int, ...], int | tuple[int, ...]] | None:
  """Returns the input and output axes of a matrix with `ndim` dimensions.

  `name` is the path of the parameter. The result is None for vectors, the
  embedding and the output head.
  """
  if ndim < 2 or "embedding" in name or "lm_head" in name:
    return None
  families = FAMILIES.values()
  if any(module in name for x in families for module in x.output_modules):
    # Heads and their features go in: [N, H, D], or [F, D].
    return tuple(range(ndim - 1)), ndim - 1
  if any(module in name for x in families for module in x.head_modules):
    # A matrix for each head: [N, D, H] or [2, K, D, H].
    return ndim - 2, ndim - 1
  return 0, tuple(range(1, ndim))


def check_shape(shape: dict[str, Any]) -> None:
  """Raises a UserError if the sizes of a model are inconsistent."""
  heads, kv_heads = shape["num_heads"], shape["num_kv_heads"]
  if heads % kv_heads:
    raise errors.UserError(
      f"model.num_kv_heads: {kv_heads} does not divide num_heads = {heads}"
    )
  if shape["head_dim"] % 2:
    raise errors.UserError(
      f"model.head_dim: {shape['head_dim']} is odd; rotary embeddings need"
      " pairs"
    )


def logits(module: nnx.Module, hidden: jax.Array) -> jax.Array:
  """Returns the logits, float32 [..., V], of final hidden states [..., D]."""
  model: Any = module
  head = model.lm_head if hasattr(model, "lm_head") else model.embedder.decode
  logits = head(hidden).astype(jnp.float32)
  cap = getattr(model, "final_logits_softcap", None)
  return logits if cap is None else cap * jnp.tanh(logits / cap)


def parameters(module: nnx.Module, kind: Any = nnx.Param) -> dict[str, Any]:
  """Returns a model's values or shapes by dotted path, in path order."""
  flat = nnx.to_flat_state(nnx.state(module, kind))
  return {".".join(map(str, path)): leaf.get_value() for path, leaf in flat}


def with_parameters(
  module: nnx.Module, values: dict[str, jax.Array]
) -> nnx.Module:
  """Returns a copy of a model, which may have shapes only, with new values."""
  graphdef, state = nnx.split(module)
  flat = [
    (path, leaf.replace(values[".".join(map(str, path))]))
    for path, leaf in nnx.to_flat_state(state)
  ]
  return nnx.merge(graphdef, nnx.from_flat_state(flat))


@progress.stage("making the model")
def initialize(spec: ModelSpec, seed: int) -> nnx.Module:
  """Returns a model with initial values for training from scratch.

  Tunix initializes its modules for loading weights: feed-forward kernels are
  zero and never get a gradient, embeddings have unit variance. Here kernels are
  normal with variance 1 / fan-in; kernels that write into the residual stream
  are smaller by sqrt(2 * layers), as in GPT-2 (Radford et al., 2019, section
  2.3). Norms and biases keep Tunix's ones and zeros. Each value depends only on
  the seed and the parameter's name.
  """

  def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
      # Qwen's RMSNorm multiplies by `w`, Gemma's by 1 + `scale`.
      return np.full(shape, float(name.endswith("norm.w")), np.float32)
    stddev = spec.embed_dim**-0.5
    if name.endswith("input_embedding"):
      stddev = _EMBEDDING_STDDEV
    elif name.split(".")[-2] in spec.traits.output_modules:
      fan_in = math.prod(shape) // spec.embed_dim
      stddev = (fan_in * 2 * spec.num_layers) ** -0.5
    # Drawn with NumPy: JAX would compile a program for each shape.
    number = zlib.crc32(name.encode())
    rng = streams.generator(seed, streams.Stream.MODEL_VALUES, number)
    return stddev * rng.standard_normal(shape, np.float32)

  abstract = nnx.eval_shape(spec.build)
  values = {
    name: jnp.asarray(value(name, x.shape), x.dtype)
    for name, x in parameters(abstract).items()
  }
  return with_parameters(abstract, values)


def linear_modules(module: nnx.Module) -> list[str]:
  """Returns the names of the linear modules in a model's layers."""
  names = {
    path.split(".")[-2]
    for path, value in parameters(module).items()
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
  A UserError tells which modules a model does not have.
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
