"""The Gemma and Gemma 2 families, with parts that Gemma 3 shares."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.models.gemma import model as tunix_gemma

from tunix_ttt.models.families import attention
from tunix_ttt.models.families import family

_ALLOWED = {
  "attention_bias": (False, None),
  "rms_norm_eps": (1e-6,),
  "tie_word_embeddings": (True,),
  "use_bidirectional_attention": (False, None),
  "quantization_config": (None,),
}
_NORMS = {
  "pre_attention_norm": "input_layernorm",
  # At the place of Gemma 2's `pre_feedforward_layernorm`.
  "pre_ffw_norm": "post_attention_layernorm",
}
_NORMS2 = {
  "pre_attention_norm": "input_layernorm",
  "post_attn_norm": "post_attention_layernorm",
  "pre_ffw_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}


class _ScaledEinsum(tunix_gemma.Einsum):
  """Gemma 2's projection to queries, or to queries, keys and values."""

  query_scale: float

  def __call__(self, x: Any) -> jax.Array:
    projected = super().__call__(x)
    if len(self.shape) == 4:
      return projected.at[0].multiply(self.query_scale)
    return projected * self.query_scale


class _Attention(tunix_gemma.Attention):
  """Attention of Gemma and Gemma 2, see `attention`."""

  # Number of tokens that a token attends to; None for all.
  window: int | None

  def block(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
    axes: Any = self.shd_config
    query, key, value = (
      tunix_gemma.shard(head, axes.act_btnh) for head in project(self, x)
    )
    query, key = (
      tunix_gemma.apply_rope(head, segment_pos, head_dim=self.head_dim)
      for head in (query, key)
    )
    cache, read = attention.attend(
      query * self.head_dim**-0.5,
      key,
      value,
      cache,
      last_tokens(attn_mask, self.window),
      softcap=self.attn_logits_soft_cap,
    )
    output = self.attn_vec_einsum(read)
    return cache, tunix_gemma.shard(output, axes.act_btd)


def project(layer: Any, x: jax.Array) -> tuple[jax.Array, ...]:
  """Returns queries [B, T, N, H], keys and values [B, T, K, H] of Gemma."""
  if layer.use_qkv_einsum:
    return tuple(layer.qkv_einsum(x))
  return layer.q_einsum(x), *layer.kv_einsum(x)


def last_tokens(attention_mask: jax.Array, window: int | None) -> jax.Array:
  """Limits an attention mask, bool [B, L, S], to the last `window` tokens.

  A token counts itself; None is no limit.
  """
  if window is None:
    return attention_mask
  later = jnp.cumsum(attention_mask[..., ::-1], axis=-1)[..., ::-1]
  return attention_mask & (later <= window)


def use_attention(
  module: nnx.Module, spec: family.Architecture, attention_class: type
) -> None:
  """Replaces Tunix's attention in place, and its sliding windows with it.

  Tunix takes the index of a cache slot for the position of its token.
  """
  layers = cast(Any, module).layers
  for layer, kind in zip(layers, layer_types(spec), strict=True):
    layer.attn.__class__ = attention_class
    layer.attn.window = spec.sliding_window if kind == "local" else None


def query_scale(spec: family.Architecture) -> float | None:
  """Returns the factor of the queries that Tunix lacks; None for 1.

  Tunix divides queries by the square root of `head_dim` and not of
  `query_pre_attn_scalar`.
  """
  scalar = cast(float, spec.query_pre_attn_scalar)
  return None if scalar == spec.head_dim else (spec.head_dim / scalar) ** 0.5


def layer_types(spec: family.Architecture) -> tuple[family.LayerType, ...]:
  """Returns the type of each layer, global by default."""
  return spec.layer_types or ("global",) * spec.num_layers


def _build(
  spec: family.Architecture, rngs: nnx.Rngs, *, is_second: bool
) -> nnx.Module:
  attention_types = {
    "local": tunix_gemma.AttentionType.LOCAL_SLIDING,
    "global": tunix_gemma.AttentionType.GLOBAL,
  }
  config = tunix_gemma.ModelConfig(
    num_embed=spec.vocab_size,
    **spec.sizes(),
    final_logit_softcap=spec.final_logit_softcap or None,
    attn_logits_soft_cap=spec.attn_logit_softcap or None,
    use_post_attn_norm=is_second,
    use_post_ffw_norm=is_second,
    attention_types=[attention_types[kind] for kind in layer_types(spec)],
    sliding_window_size=spec.sliding_window,
  )
  module = tunix_gemma.Gemma(config, rngs=rngs)
  # Tunix has no setting for the parameters' dtype.
  dtype = jnp.dtype(spec.dtype)
  nnx.update(module, jax.tree.map(lambda x: x.astype(dtype), nnx.state(module)))
  use_attention(module, spec, _Attention)
  if (scale := query_scale(spec)) is not None:
    for layer in cast(Any, module).layers:
      is_fused = layer.attn.use_qkv_einsum
      part: Any = layer.attn.qkv_einsum if is_fused else layer.attn.q_einsum
      part.__class__ = _ScaledEinsum
      part.query_scale = scale
  return module


def _read_fields(config: family.Section, _num_layers: int) -> dict[str, Any]:
  theta, _ = config.rope("full_attention", 10_000.0)
  if theta != 10_000:
    where = "rope_theta" if "rope_theta" in config.values else "rope_parameters"
    config.refuse(where, "Tunix's model has a theta of 10000 only")
  return {}


def _read_fields2(config: family.Section, num_layers: int) -> dict[str, Any]:
  return {
    **_read_fields(config, num_layers),
    "sliding_window": config.size("sliding_window", 4096),
    "layer_types": config.layer_types(num_layers, 2),
    "query_pre_attn_scalar": config.number("query_pre_attn_scalar", 256),
    "attn_logit_softcap": config.softcap("attn_logit_softcapping", 50.0),
    "final_logit_softcap": config.softcap("final_logit_softcapping", 30.0),
  }


def _write_fields(_spec: family.Architecture) -> dict[str, Any]:
  name = "gelu_pytorch_tanh"
  return {"hidden_activation": name, "hidden_act": name}


def write_window_fields(spec: family.Architecture) -> dict[str, Any]:
  """Returns the `config.json` keys that Gemma 2 and 3 share."""
  names = {ours: hub for hub, ours in family.LAYER_TYPES.items()}
  scalar = cast(float, spec.query_pre_attn_scalar)
  return {
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": [names[kind] for kind in layer_types(spec)],
    "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
    "sliding_window": spec.sliding_window,
    "attn_logit_softcapping": spec.attn_logit_softcap or None,
    "final_logit_softcapping": spec.final_logit_softcap or None,
  }


def layer_sources(
  spec: family.Architecture, norms: Mapping[str, str]
) -> dict[str, family.Source]:
  """Returns the sources of a layer's projections and norms.

  `norms` has the names of the norms in transformers, by their names in Tunix.
  """

  def heads(names: str, count: int) -> family.Source:
    # [N * H, D] each, to [N, D, H] or a stack of those.
    return family.Source(
      names=tuple(f"self_attn.{name}_proj.weight" for name in names),
      shapes=((count * spec.head_dim, spec.embed_dim),) * len(names),
      split=(count, spec.head_dim, spec.embed_dim),
      order=(0, 2, 1),
    )

  result = {"attn.attn_vec_einsum.w": family.attention_output(spec)}
  if spec.num_heads == spec.num_kv_heads:
    result["attn.qkv_einsum.w"] = heads("qkv", spec.num_heads)
  else:
    result["attn.q_einsum.w"] = heads("q", spec.num_heads)
    result["attn.kv_einsum.w"] = heads("kv", spec.num_kv_heads)
  for tunix_name, hub_name in norms.items():
    result[f"{tunix_name}.scale"] = family.vector(
      f"{hub_name}.weight", (spec.embed_dim,)
    )
  return result


def _has_config(config: Any, *, is_second: bool) -> bool:
  is_gemma = isinstance(config, tunix_gemma.ModelConfig)
  return is_gemma and bool(config.use_post_attn_norm) == is_second


GEMMA = family.Family(
  name="gemma",
  build=functools.partial(_build, is_second=False),
  tiny={
    "num_layers": 3,
    "embed_dim": 64,
    "hidden_dim": 192,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 24,
  },
  model_type="gemma",
  hub_classes={"GemmaForCausalLM": family.HubClass()},
  max_positions=8_192,
  allowed={
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    # The files of the first Gemma models say "gelu" for its tanh approximation.
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
    **_ALLOWED,
  },
  read_fields=_read_fields,
  write_fields=_write_fields,
  layer_sources=functools.partial(layer_sources, norms=_NORMS),
  final_norm="final_norm.scale",
  has_config=functools.partial(_has_config, is_second=False),
  output_modules=("attn_vec_einsum", "down_proj"),
  head_modules=("_einsum",),
  size_defaults={"head_dim": 256},
)
GEMMA2 = dataclasses.replace(
  GEMMA,
  name="gemma2",
  build=functools.partial(_build, is_second=True),
  tiny={
    **GEMMA.tiny,
    "num_layers": 4,
    "num_kv_heads": 2,
    "sliding_window": 512,
  },
  model_type="gemma2",
  hub_classes={"Gemma2ForCausalLM": family.HubClass()},
  allowed={"hidden_activation": ("gelu_pytorch_tanh",), **_ALLOWED},
  read_fields=_read_fields2,
  write_fields=write_window_fields,
  layer_sources=functools.partial(layer_sources, norms=_NORMS2),
  has_config=functools.partial(_has_config, is_second=True),
  norm_streams=10,
  defaults={"attn_logit_softcap": 50.0, "final_logit_softcap": 30.0},
  global_every=2,
)
