"""Architectures by their ids on the Hugging Face hub, as Tunix knows them."""

from typing import Any

from tunix.models import automodel
from tunix.models import naming
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from tunix_ttt import config as config_lib
from tunix_ttt.models.families import specs

_FAMILIES: dict[type, str] = {
  qwen2.ModelConfig: "qwen2.5",
  qwen3.ModelConfig: "qwen3",
  gemma.ModelConfig: "gemma",
  gemma3.ModelConfig: "gemma3",
}


def spec(name: str, dtype: str) -> specs.ModelSpec | None:
  """Returns the architecture of a hub id, None where Tunix has none.

  Args:
    name: such as `Qwen/Qwen2.5-0.5B-Instruct`.
    dtype: Type of parameters and computation.
  """
  try:
    found: Any = automodel.call_model_config(
      naming.get_model_name_from_model_id(name)
    )
  except (ValueError, AttributeError, TypeError, KeyError):
    # It says in several ways that it knows no such model.
    return None
  family = _FAMILIES.get(type(found))
  if family is None:
    return None
  own: dict[str, Any] = {}
  if family.startswith("qwen"):
    own = {
      "vocab_size": found.vocab_size,
      "rope_theta": float(found.rope_theta),
      "norm_eps": found.norm_eps,
      "tied_embedding": found.use_tied_embedding,
    }
  else:
    own = {
      "vocab_size": found.num_embed,
      "sliding_window": found.sliding_window_size,
    }
    if family == "gemma3":
      own["rope_theta"] = float(found.global_base_frequency)
    elif found.use_post_attn_norm:
      family = "gemma2"
  sizes = {size: getattr(found, size) for size in config_lib.SIZES}
  fields: dict[str, Any] = {"family": family, "dtype": dtype, **sizes, **own}
  return specs.ModelSpec(**fields)
