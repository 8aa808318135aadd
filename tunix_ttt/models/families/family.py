"""Defines the architecture of a model and the traits of a model family."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, Literal, NoReturn

from flax import nnx
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors

LayerType = Literal["local", "global"]
LAYER_TYPES: dict[str, LayerType] = {
  "sliding_attention": "local",
  "full_attention": "global",
}


def periodic_layers(num_layers: int, period: int) -> tuple[LayerType, ...]:
  """Returns layer types with a global layer at each multiple of `period`."""
  return tuple(
    "local" if (n + 1) % period else "global" for n in range(num_layers)
  )


@dataclasses.dataclass(frozen=True)
class Section:
  """A JSON object of a config; its path and prefix are for error messages."""

  path: pathlib.Path
  prefix: str
  values: dict[str, Any]

  def refuse(self, key: str, reason: str) -> NoReturn:
    """Raises a UserError that names a key and its value."""
    value = (
      f"is {json.dumps(self.values[key])}" if key in self.values else "missing"
    )
    raise errors.UserError(f"{self.path}: {self.prefix}{key} {value}; {reason}")

  def section(self, key: str) -> "Section":
    """Returns the object at `key`."""
    value = self.values.get(key)
    if not isinstance(value, dict):
      self.refuse(key, "expected an object")
    return Section(self.path, f"{self.prefix}{key}.", value)

  def only(self, key: str, allowed: Sequence[Any]) -> None:
    """Refuses values that are not allowed; the first one is the default."""
    if self.values.get(key, allowed[0]) not in allowed:
      self.refuse(key, f"Tunix's model has {json.dumps(allowed[0])} only")

  def size(self, key: str, default: int | None = None) -> int:
    """Returns a positive whole number."""
    value = self.values.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      self.refuse(key, "expected a positive whole number")
    return value

  def number(self, key: str, default: float | None = None) -> float:
    """Returns a positive number."""
    value: Any = self.values.get(key)
    value = default if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
      self.refuse(key, "expected a positive number")
    return float(value)

  def flag(self, key: str, default: bool) -> bool:
    """Returns a boolean."""
    value = self.values.get(key, default)
    if not isinstance(value, bool):
      self.refuse(key, "expected true or false")
    return value

  def softcap(self, key: str, default: float) -> float:
    """Returns a soft-cap; 0 for null."""
    if key in self.values and self.values[key] is None:
      return 0.0
    return self.number(key, default)

  def layer_types(self, num_layers: int, period: int) -> tuple[LayerType, ...]:
    """Returns the type of each layer; `period` is the default pattern."""
    names = self.values.get("layer_types")
    if names is None:
      return periodic_layers(num_layers, period)
    is_valid = isinstance(names, list) and all(
      isinstance(name, str) and name in LAYER_TYPES for name in names
    )
    if not is_valid or len(names) != num_layers:
      self.refuse(
        "layer_types",
        f"expected {num_layers} (num_hidden_layers) of"
        f" {', '.join(LAYER_TYPES)}",
      )
    return tuple(LAYER_TYPES[name] for name in names)

  def rope(
    self, layer_type: str, theta: float, *, may_scale: bool = False
  ) -> tuple[float, float]:
    """Returns the rotary base of a layer type and the divisor of its positions.

    transformers 5 writes `rope_parameters`, for Gemma 3 one object per layer
    type. transformers 4 wrote `rope_theta`, `rope_local_base_freq` and, for
    global layers, `rope_scaling`. The argument `theta` is the default base.
    """
    is_full = layer_type == "full_attention"
    if self.values.get("rope_parameters") is not None:
      other = self.values.get("rope_scaling")
      if other not in (None, self.values["rope_parameters"]):
        # transformers 5 would use `rope_scaling`.
        self.refuse("rope_scaling", "rope_parameters says otherwise; keep one")
      rope = self.section("rope_parameters")
      if isinstance(rope.values.get(layer_type), dict):
        rope = rope.section(layer_type)
    elif is_full and self.values.get("rope_scaling") is not None:
      rope = self.section("rope_scaling")
    else:
      rope = Section(self.path, self.prefix, {})
    flat = "rope_theta" if is_full else "rope_local_base_freq"
    theta = rope.number("rope_theta", self.number(flat, theta))
    type_key = "rope_type" if "rope_type" in rope.values else "type"
    rope_type = rope.values.get(type_key, "default")
    rope.only("partial_rotary_factor", (1.0, None))
    if rope_type == "linear" and may_scale:
      scale = rope.number("factor", 1.0)
      if scale < 1:
        rope.refuse("factor", "Tunix's model has 1 or more")
      return theta, scale
    if rope_type != "default":
      supported = "default and linear" if may_scale else "default"
      rope.refuse(type_key, f"Tunix's model has {supported} only")
    return theta, 1.0


EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """The architecture of a model.

  A family's own value replaces None; see `specs.ModelSpec`.

  Attributes:
    family: Name of the model family.
    vocab_size: Number of rows of the embedding.
    num_layers: Number of decoder layers.
    embed_dim: Width of the residual stream.
    hidden_dim: Width of the feed-forward layers.
    num_heads: Number of query heads.
    num_kv_heads: Number of key and value heads; divides `num_heads`.
    head_dim: Width of a head; even.
    sliding_window: Number of tokens that a local layer attends to (Gemma 2
      and 3).
    layer_types: Type of each layer (Gemma 2 and 3); None in families whose
      layers are all global.
    rope_theta: Base of the rotary angles (Su et al., 2021, section 3.2.2), in
      Gemma 3 only of the global layers. Gemma and Gemma 2 support 10,000 only.
    local_rope_theta: Base of the rotary angles of Gemma 3's local layers.
    rope_scale: Divisor of the positions in Gemma 3's global layers.
    norm_eps: Epsilon of the norms. Gemma models support 1e-6 only.
    tied_embedding: Whether the embedding is also the output head. Gemma models
      are always tied.
    query_pre_attn_scalar: Queries of Gemma 2 and 3 are divided by its square
      root; `head_dim` by default.
    attn_logit_softcap: Constant c of c tanh(x / c) in Gemma 2's attention; 0
      for none.
    final_logit_softcap: Constant c of c tanh(x / c) on the logits of Gemma and
      Gemma 2; 0 for none.
    dtype: Type of parameters and computation.
  """

  family: str
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

  def sizes(self) -> dict[str, Any]:
    """Returns the fields that all of Tunix's model configs share."""
    return {name: getattr(self, name) for name in config_lib.SIZES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The transformers tensors that make up one Tunix parameter.

  Attributes:
    names: Names of the tensors; several tensors are stacked in this order.
    shapes: Shapes of the tensors.
    split: Shape that each tensor is first reshaped to.
    order: Permutation of the axes of the reshaped tensor.
  """

  names: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  split: tuple[int, ...]
  order: tuple[int, ...]

  def to_parameter(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the parameter; a view of the tensor if there is only one."""
    # Stacked projections all have the same number of heads.
    parts = [x.reshape(self.split).transpose(self.order) for x in tensors]
    return parts[0] if len(parts) == 1 else np.stack(parts)

  def to_tensors(self, parameter: np.ndarray) -> list[np.ndarray]:
    """Returns the tensors, in the order of `names`."""
    parts = [parameter] if len(self.names) == 1 else list(parameter)
    back = np.argsort(self.order)
    return [
      part.transpose(back).reshape(shape)
      for part, shape in zip(parts, self.shapes, strict=True)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubClass:
  """The layout of a transformers model class on disk.

  Attributes:
    tensors: Prefix of the names of the text model's tensors.
    modules: Prefix of the names of the text model's modules.
    ignored: Prefixes of the tensors that a text model does not use.
    section: Key of the text model's section in `config.json`; None if the whole
      file describes the text model.
  """

  tensors: str = "model."
  modules: str = "model."
  ignored: tuple[str, ...] = ()
  section: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """The traits of a model family.

  Attributes:
    name: Name of the family.
    build: Makes the Tunix module of an architecture.
    tiny: Sizes of the tiny model to train from scratch.
    model_type: `model_type` in transformers.
    hub_classes: Model classes of transformers by name; exports use the first.
    max_positions: `max_position_embeddings` of an exported model.
    allowed: Values of `config.json` keys that Tunix's class can compute, with
      the default of transformers first.
    read_fields: Reads the family's own fields from a section of `config.json`;
      its second argument is the number of layers.
    write_fields: Returns the family's own keys of `config.json`.
    layer_sources: Returns the source of each parameter of a layer but its
      feed-forward layer; paths and names start within the layer.
    final_norm: Path of the final norm's parameter.
    has_config: Returns whether one of Tunix's model configs is of the family.
    output_modules: Modules that write into the residual stream.
    head_modules: Parts of the names of modules with one matrix per head.
    norm_streams: Copies of the residual stream per layer that the backward pass
      keeps.
    defaults: Defaults of fields of `Architecture`.
    global_every: Default period of global layers; None if all are global.
    size_defaults: Sizes that transformers assumes where `config.json` has none.
    tokenizer_note: Warning in model cards about loading a tokenizer that the
      family's published models do not have.
  """

  name: str
  build: Callable[[Architecture, nnx.Rngs], nnx.Module]
  tiny: Mapping[str, int]
  model_type: str
  hub_classes: Mapping[str, HubClass]
  max_positions: int
  allowed: Mapping[str, tuple[Any, ...]]
  read_fields: Callable[[Section, int], dict[str, Any]]
  write_fields: Callable[[Architecture], dict[str, Any]]
  layer_sources: Callable[[Architecture], dict[str, Source]]
  final_norm: str
  has_config: Callable[[Any], bool]
  output_modules: tuple[str, ...]
  head_modules: tuple[str, ...] = ()
  norm_streams: int = 6
  defaults: Mapping[str, float] = dataclasses.field(default_factory=dict)
  global_every: int | None = None
  size_defaults: Mapping[str, int] = dataclasses.field(default_factory=dict)
  tokenizer_note: str = ""


def vector(name: str, shape: tuple[int, ...]) -> Source:
  """Returns the source of a parameter that equals its tensor."""
  order = tuple(range(len(shape)))
  return Source(names=(name,), shapes=(shape,), split=shape, order=order)


def matrix(name: str, shape: tuple[int, int]) -> Source:
  """Returns the source of a matrix: [out, in] to [in, out]."""
  return Source(names=(name,), shapes=(shape,), split=shape, order=(1, 0))


def attention_output(spec: Architecture) -> Source:
  """Returns the source of the attention's output: [D, N * H] to [N, H, D]."""
  names = ("self_attn.o_proj.weight",)
  split = (spec.embed_dim, spec.num_heads, spec.head_dim)
  shape = (spec.embed_dim, spec.num_heads * spec.head_dim)
  return Source(names=names, shapes=(shape,), split=split, order=(1, 2, 0))
