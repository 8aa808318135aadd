"""Reads and writes the `config.json` of a model.

No weights are read: an architecture is checked before its weights.
"""

import pathlib
from typing import Any, Literal

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models.families import family as family_lib
from tunix_ttt.models.families import specs

CONFIG = "config.json"
Dtype = Literal["float32", "bfloat16"]

# Fields of `ModelSpec` by their keys in `config.json`.
_SIZES = {
  "hidden_size": "embed_dim",
  "num_attention_heads": "num_heads",
  "num_key_value_heads": "num_kv_heads",
  "head_dim": "head_dim",
  "vocab_size": "vocab_size",
  "num_hidden_layers": "num_layers",
  "intermediate_size": "hidden_dim",
}
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_FAMILY_OF_CLASS = {
  name: family
  for family in specs.FAMILIES.values()
  for name in family.hub_classes
}


def read_spec(path: pathlib.Path, dtype: Dtype = "float32") -> specs.ModelSpec:
  """Reads the architecture in a `config.json` or its directory, as `read`."""
  return read(path, dtype)[1]


def read(
  path: pathlib.Path, dtype: Dtype
) -> tuple[family_lib.HubClass, specs.ModelSpec]:
  """Reads the model class and the architecture.

  Raises:
    errors.UserError: if there is no such file, or Tunix has no such model.
  """
  if not path.exists():
    raise errors.UserError(f"{path}: no such model directory")
  if path.is_dir():
    path = path / CONFIG
  if not path.is_file():
    raise errors.UserError(
      f"{path.parent}: not a model that transformers saved: it has no {CONFIG}"
    )
  return _parse(files.read_json(path, "model config"), path, dtype)


def of_model(
  spec: specs.ModelSpec, base: dict[str, Any] | None
) -> dict[str, Any]:
  """Returns the `config.json` of a text model.

  It keeps all keys of the base's `config.json` that still hold.
  """
  sizes = {key: getattr(spec, field) for key, field in _SIZES.items()}
  model_class = {
    "architectures": [next(iter(spec.traits.hub_classes))],
    "model_type": spec.traits.model_type,
  }
  values: dict[str, Any] = {}
  if base is not None:
    if isinstance(text := base.get("text_config"), dict):
      base = {key: base[key] for key in _SPECIAL_IDS if key in base} | text
    # Some files leave sizes to transformers.
    values = sizes | base | model_class
    # Local paths, remote code and the base's dtype do not belong to the export.
    for key in ("_name_or_path", "auto_map", "dtype", "torch_dtype"):
      values.pop(key, None)
  # The base may have another shape, or be the file of another model.
  if not describes(values, spec):
    values = {
      **model_class,
      **sizes,
      "max_position_embeddings": spec.traits.max_positions,
      "rms_norm_eps": spec.norm_eps,
      "rope_theta": spec.rope_theta,
      "tie_word_embeddings": spec.tied_embedding,
      "attention_bias": False,
      "attention_dropout": 0.0,
      "initializer_range": 0.02,
      "use_cache": True,
      **spec.traits.write_fields(spec),
    }
  # Both transformers 4 and 5 read this key.
  values["torch_dtype"] = spec.dtype
  return dict(sorted(values.items()))


def describes(values: dict[str, Any], spec: specs.ModelSpec) -> bool:
  """Returns whether the contents of a `config.json` describe a spec."""
  try:
    return _parse(values, pathlib.Path(CONFIG), spec.dtype)[1] == spec
  except errors.UserError:
    return False


def _parse(
  values: dict[str, Any], path: pathlib.Path, dtype: Dtype
) -> tuple[family_lib.HubClass, specs.ModelSpec]:
  whole = family_lib.Section(path, "", values)
  names = values.get("architectures")
  if names not in [[name] for name in _FAMILY_OF_CLASS]:
    whole.refuse(
      "architectures", f"supported are {', '.join(_FAMILY_OF_CLASS)}"
    )
  family = _FAMILY_OF_CLASS[names[0]]
  hub_class = family.hub_classes[names[0]]
  config = whole
  if hub_class.section is not None:
    config = whole.section(hub_class.section)
    for key in ("tie_word_embeddings", "quantization_config"):
      whole.only(key, family.allowed[key])
  for key, allowed in family.allowed.items():
    config.only(key, allowed)
  defaults = family.size_defaults
  heads = config.size(
    "num_attention_heads", defaults.get("num_attention_heads")
  )
  defaults = {
    "num_key_value_heads": heads,
    "head_dim": config.size("hidden_size") // heads,
    **defaults,
  }
  fields: dict[str, Any] = {
    field: config.size(key, defaults.get(key)) for key, field in _SIZES.items()
  }
  if heads % fields["num_kv_heads"]:
    config.refuse(
      "num_key_value_heads",
      f"expected a divisor of num_attention_heads, {heads}",
    )
  if fields["head_dim"] % 2:
    config.refuse("head_dim", "expected an even number")
  fields |= family.read_fields(config, fields["num_layers"])
  return hub_class, specs.ModelSpec(family=family.name, dtype=dtype, **fields)
