"""Reads a `config.json` as a model spec, or says why Tunix has no such model.

Nothing of the weights is read: an architecture is known, and checked, before
there are any.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, Literal, NoReturn

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models.families import specs

CONFIG = "config.json"
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """A model class of transformers.

  Attributes:
    family: Family of `ModelSpec`.
    prefix: what the names of its tensors begin with.
    ignored: what those begin with that a text model has no use for.
    modules: what the names of its decoder's modules begin with.
    section: where in `config.json` the text model is described.
  """

  family: str
  prefix: str = "model."
  ignored: tuple[str, ...] = ()
  modules: str = "model."
  section: str | None = None


ARCHITECTURES = {
  "Qwen2ForCausalLM": Architecture(family="qwen2.5"),
  "Qwen3ForCausalLM": Architecture(family="qwen3"),
  "GemmaForCausalLM": Architecture(family="gemma"),
  "Gemma2ForCausalLM": Architecture(family="gemma2"),
  "Gemma3ForCausalLM": Architecture(family="gemma3"),
  # Gemma 3 that also sees; of it, what reads and writes text.
  "Gemma3ForConditionalGeneration": Architecture(
    family="gemma3",
    prefix="language_model.model.",
    ignored=("vision_tower.", "multi_modal_projector."),
    modules="model.language_model.",
    section="text_config",
  ),
}

_QWEN = {"hidden_act": ("silu",), "quantization_config": (None,)}
_GEMMA = {
  "hidden_activation": ("gelu_pytorch_tanh",),
  "attention_bias": (False, None),
  "rms_norm_eps": (1e-6,),
  "tie_word_embeddings": (True,),
  "use_bidirectional_attention": (False, None),
  "quantization_config": (None,),
}
# What each of Tunix's classes can compute of what transformers' can, the
# latter's default first.
_POSSIBLE: dict[str, dict[str, tuple[Any, ...]]] = {
  "qwen2.5": _QWEN,
  # Qwen 2 has biases whatever its file says.
  "qwen3": {**_QWEN, "attention_bias": (False, None)},
  # The first Gemmas' files say "gelu" and mean its approximation by tanh.
  "gemma": {
    **_GEMMA,
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
  },
  "gemma2": _GEMMA,
  "gemma3": {
    **_GEMMA,
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
  },
}
_HEAD_DIM = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256}
# Sizes that published files of Gemma 3 leave to transformers.
_GEMMA3_SIZES = {
  "vocab_size": 262_208,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
}
_LAYER_TYPES: dict[str, specs.LayerType] = {
  "sliding_attention": "local",
  "full_attention": "global",
}


def read_spec(path: pathlib.Path, dtype: Dtype = "float32") -> specs.ModelSpec:
  """Returns the architecture that a model's `config.json` describes.

  Args:
    path: the file, or the directory that it is in.
    dtype: that the model is to have, which need not be its file's.

  Raises:
    errors.UserError: if there is no such file, or Tunix has no such model.
  """
  return read(path, dtype)[1]


def read(
  path: pathlib.Path, dtype: Dtype
) -> tuple[Architecture, specs.ModelSpec]:
  """Returns what `read_spec` does, and the class it is of."""
  if not path.exists():
    raise errors.UserError(f"{path}: no such model directory")
  if path.is_dir():
    path = path / CONFIG
  if not path.is_file():
    raise errors.UserError(
      f"{path.parent}: not a model that transformers saved: it has no {CONFIG}"
    )
  return parse(files.read_json(path, "model config"), path, dtype)


def parse(
  values: dict[str, Any], path: pathlib.Path, dtype: Dtype
) -> tuple[Architecture, specs.ModelSpec]:
  """Returns what `read` does of a file's values; `path` is for messages."""
  whole = _Section(path, "", values)
  architecture = ARCHITECTURES[
    whole.one_of("architectures", list(ARCHITECTURES))
  ]
  return architecture, _spec(whole, architecture, dtype)


@dataclasses.dataclass(frozen=True)
class _Section:
  """A JSON object and where it stands, for messages.

  Attributes:
    path: the file.
    prefix: Prefix of the keys.
    values: the object.
  """

  path: pathlib.Path
  prefix: str
  values: dict[str, Any]

  def refuse(self, key: str, reason: str) -> NoReturn:
    found = (
      f"is {json.dumps(self.values[key])}" if key in self.values else "missing"
    )
    raise errors.UserError(f"{self.path}: {self.prefix}{key} {found}; {reason}")

  def one_of(self, key: str, names: Sequence[str]) -> str:
    """Returns the one name in the list at `key`."""
    value = self.values.get(key)
    if not isinstance(value, list) or len(value) != 1 or value[0] not in names:
      self.refuse(key, f"supported are {', '.join(names)}")
    return value[0]

  def section(self, key: str) -> "_Section":
    value = self.values.get(key)
    if not isinstance(value, dict):
      self.refuse(key, "expected an object")
    return _Section(self.path, f"{self.prefix}{key}.", value)

  def only(self, key: str, possible: Sequence[Any]) -> None:
    """Refuses other values than the possible ones, the default first."""
    if self.values.get(key, possible[0]) not in possible:
      self.refuse(key, f"Tunix's model has {json.dumps(possible[0])} only")

  def size(self, key: str, default: int | None = None) -> int:
    value = self.values.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      self.refuse(key, "expected a positive whole number")
    return value

  def number(self, key: str, default: float) -> float:
    value = self.values.get(key)
    value = default if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
      self.refuse(key, "expected a positive number")
    return float(value)

  def flag(self, key: str, default: bool) -> bool:
    value = self.values.get(key, default)
    if not isinstance(value, bool):
      self.refuse(key, "expected true or false")
    return value

  def cap(self, key: str, default: float) -> float:
    """Returns a soft-cap, 0 for the null that stands for none."""
    if key in self.values and self.values[key] is None:
      return 0.0
    return self.number(key, default)


def _spec(
  whole: _Section, architecture: Architecture, dtype: Dtype
) -> specs.ModelSpec:
  family: Any = architecture.family
  config = whole
  if architecture.section is not None:
    config = whole.section(architecture.section)
    for key in ("tie_word_embeddings", "quantization_config"):
      whole.only(key, _POSSIBLE[family][key])
  for key, possible in _POSSIBLE[family].items():
    config.only(key, possible)
  sizes = _sizes(config, family)
  common: dict[str, Any] = {"family": family, "dtype": dtype, **sizes}
  num_layers = sizes["num_layers"]
  if family in ("qwen2.5", "qwen3"):
    _check_no_windows(config, num_layers)
    return specs.ModelSpec(
      **common,
      rope_theta=_rope(config, "full_attention", 10_000.0)[0],
      norm_eps=config.number("rms_norm_eps", 1e-6),
      tied_embedding=config.flag("tie_word_embeddings", False),
    )
  if family == "gemma3":
    theta, scale = _rope(config, "full_attention", 1e6, may_scale=True)
    return specs.ModelSpec(
      **common,
      sliding_window=config.size("sliding_window", 4096),
      layer_types=_layer_types(config, family, num_layers),
      rope_theta=theta,
      rope_scale=scale,
      local_rope_theta=_rope(config, "sliding_attention", 10_000.0)[0],
      query_pre_attn_scalar=config.number("query_pre_attn_scalar", 256),
    )
  theta, _ = _rope(config, "full_attention", 10_000.0)
  if theta != 10_000:
    where = "rope_theta" if "rope_theta" in config.values else "rope_parameters"
    config.refuse(where, "Tunix's model has a theta of 10000 only")
  if family == "gemma":
    return specs.ModelSpec(**common)
  return specs.ModelSpec(
    **common,
    sliding_window=config.size("sliding_window", 4096),
    layer_types=_layer_types(config, family, num_layers),
    query_pre_attn_scalar=config.number("query_pre_attn_scalar", 256),
    attn_logit_softcap=config.cap("attn_logit_softcapping", 50.0),
    final_logit_softcap=config.cap("final_logit_softcapping", 30.0),
  )


def _sizes(config: _Section, family: str) -> dict[str, int]:
  defaults = _GEMMA3_SIZES if family == "gemma3" else {}
  width = config.size("hidden_size")
  heads = config.size(
    "num_attention_heads", defaults.get("num_attention_heads")
  )
  kv_heads = config.size(
    "num_key_value_heads", defaults.get("num_key_value_heads", heads)
  )
  head_dim = config.size("head_dim", _HEAD_DIM.get(family, width // heads))
  if heads % kv_heads:
    config.refuse(
      "num_key_value_heads",
      f"expected a divisor of num_attention_heads, {heads}",
    )
  if head_dim % 2:
    config.refuse("head_dim", "expected an even number")
  return {
    "vocab_size": config.size("vocab_size", defaults.get("vocab_size")),
    "num_layers": config.size("num_hidden_layers"),
    "embed_dim": width,
    "hidden_dim": config.size("intermediate_size"),
    "num_heads": heads,
    "num_kv_heads": kv_heads,
    "head_dim": head_dim,
  }


def _check_no_windows(config: _Section, num_layers: int) -> None:
  kinds = config.values.get("layer_types")
  if kinds is not None:
    if kinds != ["full_attention"] * num_layers:
      config.refuse("layer_types", "Tunix's model has full attention only")
  # Layers below this one are full.
  elif config.flag("use_sliding_window", False) and num_layers > config.size(
    "max_window_layers", 28
  ):
    config.refuse("use_sliding_window", "Tunix's model has false only")


def _layer_types(
  config: _Section, family: str, num_layers: int
) -> tuple[specs.LayerType, ...]:
  kinds = config.values.get("layer_types")
  if kinds is None:
    every = 2
    if family == "gemma3":
      every = config.size(
        "sliding_window_pattern", config.size("_sliding_window_pattern", 6)
      )
    return specs.layer_types(num_layers, every)
  known = isinstance(kinds, list) and all(
    isinstance(kind, str) and kind in _LAYER_TYPES for kind in kinds
  )
  if not known or len(kinds) != num_layers:
    config.refuse(
      "layer_types",
      f"expected {num_layers} (num_hidden_layers) of {', '.join(_LAYER_TYPES)}",
    )
  return tuple(_LAYER_TYPES[kind] for kind in kinds)


def _rope(
  config: _Section, layer_type: str, theta: float, *, may_scale: bool = False
) -> tuple[float, float]:
  """Returns a kind of layer's rotary base and what divides its positions.

  transformers 5 writes `rope_parameters`, for Gemma 3 one of each kind of
  layer; 4 wrote `rope_theta`, `rope_local_base_freq` and, for global layers,
  `rope_scaling`.
  """
  is_full = layer_type == "full_attention"
  if config.values.get("rope_parameters") is not None:
    other = config.values.get("rope_scaling")
    if other not in (None, config.values["rope_parameters"]):
      # It would win in transformers 5.
      config.refuse("rope_scaling", "rope_parameters says otherwise; keep one")
    rope = config.section("rope_parameters")
    if isinstance(rope.values.get(layer_type), dict):
      rope = rope.section(layer_type)
  elif is_full and config.values.get("rope_scaling") is not None:
    rope = config.section("rope_scaling")
  else:
    rope = _Section(config.path, config.prefix, {})
  flat = "rope_theta" if is_full else "rope_local_base_freq"
  theta = rope.number("rope_theta", config.number(flat, theta))
  kind_key = "rope_type" if "rope_type" in rope.values else "type"
  kind = rope.values.get(kind_key, "default")
  rope.only("partial_rotary_factor", (1.0, None))
  if kind == "linear" and may_scale:
    scale = rope.number("factor", 1.0)
    if scale < 1:
      rope.refuse("factor", "Tunix's model has 1 or more")
    return theta, scale
  if kind != "default":
    kinds = "default and linear" if may_scale else "default"
    rope.refuse(kind_key, f"Tunix's model has {kinds} only")
  return theta, 1.0
