"""Model architectures by name, built from Tunix's own model classes."""

import dataclasses
from typing import Any, Literal
import zlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.models.families import builders
from tunix_ttt.runs import progress

# Modules that write into the residual stream.
OUTPUT_MODULES = ("o_proj", "attn_vec_einsum", "down_proj")
_EMBEDDING_STDDEV = 0.05


LayerType = Literal["local", "global"]
Family = Literal["qwen2.5", "qwen3", "gemma", "gemma2", "gemma3"]

# What a family has where a `ModelSpec` says nothing else.
_ROPE_THETA = {"qwen3": 1_000_000.0}
_ATTN_LOGIT_SOFTCAP = {"gemma2": 50.0}
_FINAL_LOGIT_SOFTCAP = {"gemma2": 30.0}
_GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6}


def layer_types(num_layers: int, every: int) -> tuple[LayerType, ...]:
  """Returns layer types of which each `every`-th is global."""
  return tuple(
    "local" if (n + 1) % every else "global" for n in range(num_layers)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
  """The architecture of a model: all that is needed to build it.

  Where a field's default is None, the family's own value takes its place.

  Attributes:
    family: Model family, which has a class of Tunix's.
    vocab_size: rows of the embedding.
    num_layers: decoder layers.
    embed_dim: width of the residual stream.
    hidden_dim: width of the feed-forward layers.
    num_heads: query heads.
    num_kv_heads: key and value heads; divides `num_heads`.
    head_dim: width of a head; even.
    sliding_window: tokens that a local layer of Gemma 2 or 3 sees.
    layer_types: Kind of each layer of Gemma 2 and 3; None for the other
      families, all of whose layers are global.
    rope_theta: base of the rotary angles (Su et al., 2021, section 3.2.2); in
      Gemma 3, of global layers. Gemma and Gemma 2 have 10,000 alone.
    local_rope_theta: the same of Gemma 3's local layers.
    rope_scale: what positions are divided by in Gemma 3's global layers.
    norm_eps: added to the mean square in a norm. Gemmas have 1e-6 alone.
    tied_embedding: whether the head is the embedding; always so in Gemmas.
    query_pre_attn_scalar: Queries of Gemma 2 and 3 are divided by its square
      root; `head_dim` by default.
    attn_logit_softcap: c in c tanh(x / c) of Gemma 2's attention; 0 for none.
    final_logit_softcap: the same of Gemma's and Gemma 2's logits.
    dtype: Type of parameters and computation.
  """

  family: Family
  vocab_size: int
  num_layers: int
  embed_dim: int
  hidden_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  sliding_window: int | None = None
  layer_types: tuple[LayerType, ...] | None = None
  rope_theta: float | None = None
  local_rope_theta: float = 10_000.0
  rope_scale: float = 1.0
  norm_eps: float = 1e-6
  tied_embedding: bool = True
  query_pre_attn_scalar: float | None = None
  attn_logit_softcap: float | None = None
  final_logit_softcap: float | None = None
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    """Puts the family's values where there are none."""
    every = _GLOBAL_EVERY.get(self.family)
    own = {
      "layer_types": every and layer_types(self.num_layers, every),
      "rope_theta": _ROPE_THETA.get(self.family, 10_000.0),
      "query_pre_attn_scalar": float(self.head_dim),
      "attn_logit_softcap": _ATTN_LOGIT_SOFTCAP.get(self.family, 0.0),
      "final_logit_softcap": _FINAL_LOGIT_SOFTCAP.get(self.family, 0.0),
    }
    for field, value in own.items():
      if getattr(self, field) is None:
        object.__setattr__(self, field, value)
    if self.layer_types and len(self.layer_types) != self.num_layers:
      raise ValueError(
        f"{len(self.layer_types)} layer_types for {self.num_layers} layers"
      )

  def weight_bytes(self) -> int:
    """Returns the size of the weights, but for norms and biases."""
    heads = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim
    layer = self.embed_dim * (heads + 3 * self.hidden_dim)
    embeddings = 1 if self.tied_embedding else 2
    size = 4 if self.dtype == "float32" else 2
    return size * (
      self.num_layers * layer + embeddings * self.vocab_size * self.embed_dim
    )

  def build(self, seed: int = 0) -> nnx.Module:
    """Returns the model with Tunix's own initial values; see `initialize`.

    Under `nnx.eval_shape` it has shapes and no values.
    """
    key = streams.key(seed, streams.Stream.TUNIX_VALUES)
    return builders.build(self, nnx.Rngs(key))


# Architectures to train from scratch; the tokenizer decides `vocab_size`.
TINY_MODELS: dict[str, dict[str, Any]] = {
  "tiny-qwen2.5": {
    "family": "qwen2.5",
    "num_layers": 2,
    "embed_dim": 96,
    "hidden_dim": 256,
    "num_heads": 6,
    "num_kv_heads": 6,
    "head_dim": 16,
  },
  "tiny-qwen3": {
    "family": "qwen3",
    "num_layers": 2,
    "embed_dim": 96,
    "hidden_dim": 256,
    "num_heads": 6,
    "num_kv_heads": 6,
    "head_dim": 16,
  },
  "tiny-gemma": {
    "family": "gemma",
    "num_layers": 3,
    "embed_dim": 64,
    "hidden_dim": 192,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 24,
  },
  # Local and global layers in turn.
  "tiny-gemma2": {
    "family": "gemma2",
    "num_layers": 4,
    "embed_dim": 64,
    "hidden_dim": 192,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 24,
    "sliding_window": 512,
  },
  # Six layers, because Gemma 3 has a global layer after every five local ones.
  "tiny-gemma3": {
    "family": "gemma3",
    "num_layers": 6,
    "embed_dim": 64,
    "hidden_dim": 192,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 24,
    "sliding_window": 512,
  },
}


def check_shape(shape: dict[str, Any]) -> None:
  """Raises a UserError if the sizes of a model do not fit one another."""
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
  """Returns what a model's head makes of its last hidden states.

  Args:
    module: the model.
    hidden: [..., D], as the final norm leaves them.

  Returns:
    float32 [..., V].
  """
  model: Any = module
  head = model.lm_head if hasattr(model, "lm_head") else model.embedder.decode
  logits = head(hidden).astype(jnp.float32)
  cap = getattr(model, "final_logits_softcap", None)
  return logits if cap is None else cap * jnp.tanh(logits / cap)


def parameters(module: nnx.Module, kind: Any = nnx.Param) -> dict[str, Any]:
  """Lists a model's parameters by dotted path, in path order.

  Args:
    module: the model, with values or (from `nnx.eval_shape`) without.
    kind: the variable type, `nnx.Param` for all and `nnx.LoRAParam` for an
      adapter's.
  """
  flat = nnx.to_flat_state(nnx.state(module, kind))
  return {".".join(map(str, path)): leaf.get_value() for path, leaf in flat}


def with_parameters(
  module: nnx.Module, values: dict[str, jax.Array]
) -> nnx.Module:
  """Returns a copy of `module` whose parameters are `values` (see `parameters`).

  Args:
    module: a model; one without values, from `nnx.eval_shape`, will do.
    values: a value for each of its parameters.
  """
  graphdef, state = nnx.split(module)
  flat = [
    (path, leaf.replace(values[".".join(map(str, path))]))
    for path, leaf in nnx.to_flat_state(state)
  ]
  return nnx.merge(graphdef, nnx.from_flat_state(flat))


@progress.stage("making the model")
def initialize(spec: ModelSpec, seed: int) -> nnx.Module:
  """Returns a model from scratch with values that train.

  Tunix's modules are made for loading weights: their feed-forward kernels
  start at zero, which never get a gradient, and embeddings at unit variance.
  Here kernels are normal with variance 1 / fan-in; those that write into the
  residual stream are smaller by sqrt(2 * layers), as in GPT-2 (Radford et al.,
  2019, section 2.3). Norms and biases keep Tunix's ones and zeros. Each value
  depends on the seed and the parameter's name alone.
  """
  abstract = nnx.eval_shape(spec.build)
  values = {
    name: jnp.asarray(_initial_value(seed, name, shape, spec), shape.dtype)
    for name, shape in parameters(abstract).items()
  }
  return with_parameters(abstract, values)


def _initial_value(
  seed: int, name: str, shape: jax.ShapeDtypeStruct, spec: ModelSpec
) -> np.ndarray:
  if len(shape.shape) == 1:
    # RMSNorm of Qwen multiplies by `w`; Gemma's by 1 + `scale`.
    return np.full(shape.shape, float(name.endswith("norm.w")), np.float32)
  if name.endswith("input_embedding"):
    stddev = _EMBEDDING_STDDEV
  elif name.split(".")[-2] in OUTPUT_MODULES:
    fan_in = shape.size // spec.embed_dim
    stddev = (fan_in * 2 * spec.num_layers) ** -0.5
  else:
    stddev = spec.embed_dim**-0.5
  # NumPy rather than JAX: drawing needs no program compiled for each shape.
  number = zlib.crc32(name.encode())
  rng = streams.generator(seed, streams.Stream.MODEL_VALUES, number)
  return stddev * rng.standard_normal(shape.shape, np.float32)
