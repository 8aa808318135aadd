"""The `config.json` and `generation_config.json` of a model that is exported."""

from collections.abc import Sequence
import pathlib
from typing import Any

from tunix_ttt import errors
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_config as config_lib

# transformers' class and type of each family, and the positions that it has
# where a file says none, which are the published models'.
_KINDS = {
  "qwen2.5": ("Qwen2ForCausalLM", "qwen2", 32_768),
  "qwen3": ("Qwen3ForCausalLM", "qwen3", 32_768),
  "gemma": ("GemmaForCausalLM", "gemma", 8_192),
  "gemma2": ("Gemma2ForCausalLM", "gemma2", 8_192),
  "gemma3": ("Gemma3ForCausalLM", "gemma3_text", 131_072),
}
_LAYER_TYPES = {"local": "sliding_attention", "global": "full_attention"}
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def of_model(
  spec: specs.ModelSpec, base: dict[str, Any] | None
) -> dict[str, Any]:
  """Returns the `config.json` of a model of text.

  Args:
    spec: its architecture.
    base: what the file of the model that it was made from says; all of it is
      kept that still holds.
  """
  kept = {} if base is None else _text_only(spec, base)
  # What is there is of this very model, or is not used.
  if not kept or not _describes(kept, spec):
    kept = _from_spec(spec)
  # Read by transformers 4 and 5.
  kept["torch_dtype"] = spec.dtype
  return dict(sorted(kept.items()))


def of_generation(
  end_ids: Sequence[int],
  bos_id: int | None,
  pad_id: int,
  base: dict[str, Any] | None,
) -> dict[str, Any]:
  """Returns a `generation_config.json`: what ends a turn, and the base's rest."""
  ids = {"bos_token_id": bos_id, "pad_token_id": pad_id}
  known = {name: value for name, value in ids.items() if value is not None}
  result = known | (base or {}) | {"eos_token_id": list(end_ids)}
  return dict(sorted(result.items()))


def _text_only(spec: specs.ModelSpec, base: dict[str, Any]) -> dict[str, Any]:
  text = base.get("text_config")
  values = dict(text) if isinstance(text, dict) else dict(base)
  if isinstance(text, dict):
    for name in _SPECIAL_IDS:
      if name in base:
        values.setdefault(name, base[name])
  architecture, model_type, _ = _KINDS[spec.family]
  values |= {"architectures": [architecture], "model_type": model_type}
  # Some leave sizes to transformers.
  values = _sizes(spec) | values
  # A path on somebody's machine, whose code to run, and the dtype it had.
  for name in ("_name_or_path", "auto_map", "dtype", "torch_dtype"):
    values.pop(name, None)
  return values


def _describes(values: dict[str, Any], spec: specs.ModelSpec) -> bool:
  path = pathlib.Path(config_lib.CONFIG)
  try:
    return config_lib.parse(values, path, spec.dtype)[1] == spec
  except errors.UserError:
    return False


def _sizes(spec: specs.ModelSpec) -> dict[str, Any]:
  return {
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.embed_dim,
    "intermediate_size": spec.hidden_dim,
    "num_hidden_layers": spec.num_layers,
    "num_attention_heads": spec.num_heads,
    "num_key_value_heads": spec.num_kv_heads,
    "head_dim": spec.head_dim,
  }


def _from_spec(spec: specs.ModelSpec) -> dict[str, Any]:
  architecture, model_type, positions = _KINDS[spec.family]
  values: dict[str, Any] = {
    "architectures": [architecture],
    "model_type": model_type,
    **_sizes(spec),
    "max_position_embeddings": positions,
    "rms_norm_eps": spec.norm_eps,
    "rope_theta": spec.rope_theta,
    "tie_word_embeddings": spec.tied_embedding,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
  }
  if spec.family in ("qwen2.5", "qwen3"):
    return values | {"hidden_act": "silu", "use_sliding_window": False}
  values["hidden_activation"] = "gelu_pytorch_tanh"
  if spec.family == "gemma":
    return values | {"hidden_act": "gelu_pytorch_tanh"}
  assert spec.layer_types is not None and spec.query_pre_attn_scalar is not None
  scalar = spec.query_pre_attn_scalar
  values |= {
    "layer_types": [_LAYER_TYPES[kind] for kind in spec.layer_types],
    "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
    "sliding_window": spec.sliding_window,
    "attn_logit_softcapping": spec.attn_logit_softcap or None,
    "final_logit_softcapping": spec.final_logit_softcap or None,
  }
  if spec.family == "gemma3":
    values["rope_local_base_freq"] = spec.local_rope_theta
    values["rope_scaling"] = (
      {"rope_type": "linear", "factor": spec.rope_scale}
      if spec.rope_scale != 1
      else None
    )
  return values
