"""The Gemma 3 family."""

import dataclasses
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.models.gemma3 import model as tunix_gemma3
from tunix.utils import sharding_utils

from tunix_ttt.models.families import attention
from tunix_ttt.models.families import family
from tunix_ttt.models.families import gemma

_NORMS = {
  "pre_attention_norm": "input_layernorm",
  "post_attention_norm": "post_attention_layernorm",
  "pre_ffw_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}


class _ScaledNorm(tunix_gemma3.RMSNorm):
  """Gemma 3's norm of the queries."""

  query_scale: float

  def __call__(self, x: Any) -> jax.Array:
    return super().__call__(x) * self.query_scale


class _Attention(tunix_gemma3.Attention):
  """Gemma 3's attention, see `attention`."""

  # Number of tokens that a token attends to; None for all.
  window: int | None

  def block(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
    axes: Any = self.shd_config
    query, key, value = (
      sharding_utils.shard(head, axes.act_btnh)
      for head in gemma.project(self, x)
    )
    query, key = (
      tunix_gemma3.apply_rope(
        head,
        segment_pos,
        head_dim=self.head_dim,
        base_frequency=self.rope_base_frequency,
        scale_factor=self.rope_scale_factor,
      )
      for head in (self._query_norm(query), self._key_norm(key))
    )
    cache, read = attention.attend(
      query * self.query_pre_attn_scalar,
      key,
      value,
      cache,
      gemma.last_tokens(attn_mask, self.window),
    )
    output = self.attn_vec_einsum(read)
    return cache, sharding_utils.shard(output, axes.act_btd)


def _build(spec: family.Architecture, rngs: nnx.Rngs) -> nnx.Module:
  config = tunix_gemma3.ModelConfig(
    num_embed=spec.vocab_size,
    **spec.sizes(),
    sliding_window_size=spec.sliding_window,
    param_dtype=jnp.dtype(spec.dtype),
  )
  module = tunix_gemma3.Gemma3(config, rngs=rngs)
  scale = gemma.query_scale(spec)
  # Tunix's order of local and global layers is a constant.
  layers = cast(Any, module).layers
  for each, kind in zip(layers, gemma.layer_types(spec), strict=True):
    layer, is_local = each.attn, kind == "local"
    layer.rope_base_frequency = (
      spec.local_rope_theta if is_local else spec.rope_theta
    )
    layer.rope_scale_factor = 1.0 if is_local else spec.rope_scale
    if scale is not None:
      layer._query_norm.__class__ = _ScaledNorm
      layer._query_norm.query_scale = scale
  gemma.use_attention(module, spec, _Attention)
  return module


def _read_fields(config: family.Section, num_layers: int) -> dict[str, Any]:
  theta, scale = config.rope("full_attention", 1e6, may_scale=True)
  window = config.size("sliding_window", 4096)
  period = 6
  if config.values.get("layer_types") is None:
    period = config.size(
      "sliding_window_pattern", config.size("_sliding_window_pattern", 6)
    )
  return {
    "sliding_window": window,
    "layer_types": config.layer_types(num_layers, period),
    "rope_theta": theta,
    "rope_scale": scale,
    "local_rope_theta": config.rope("sliding_attention", 10_000.0)[0],
    "query_pre_attn_scalar": config.number("query_pre_attn_scalar", 256),
  }


def _write_fields(spec: family.Architecture) -> dict[str, Any]:
  scaling = {"rope_type": "linear", "factor": spec.rope_scale}
  return gemma.write_window_fields(spec) | {
    "rope_local_base_freq": spec.local_rope_theta,
    "rope_scaling": None if spec.rope_scale == 1 else scaling,
  }


def _layer_sources(spec: family.Architecture) -> dict[str, family.Source]:
  result = gemma.layer_sources(spec, _NORMS)
  for tunix_name, hub_name in (
    ("_query_norm", "q_norm"),
    ("_key_norm", "k_norm"),
  ):
    result[f"attn.{tunix_name}.scale"] = family.vector(
      f"self_attn.{hub_name}.weight", (spec.head_dim,)
    )
  return result


GEMMA3 = dataclasses.replace(
  gemma.GEMMA2,
  name="gemma3",
  build=_build,
  # Six layers: each global layer follows five local ones.
  tiny={**gemma.GEMMA.tiny, "num_layers": 6, "sliding_window": 512},
  model_type="gemma3_text",
  hub_classes={
    "Gemma3ForCausalLM": family.HubClass(),
    # Only the text model is read.
    "Gemma3ForConditionalGeneration": family.HubClass(
      tensors="language_model.model.",
      modules="model.language_model.",
      ignored=("vision_tower.", "multi_modal_projector."),
      section="text_config",
    ),
  },
  max_positions=131_072,
  allowed={
    **gemma.GEMMA2.allowed,
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
  },
  read_fields=_read_fields,
  write_fields=_write_fields,
  layer_sources=_layer_sources,
  has_config=lambda config: isinstance(config, tunix_gemma3.ModelConfig),
  defaults={},
  global_every=6,
  # Published files of Gemma 3 leave these sizes to transformers.
  size_defaults={
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
  },
)
