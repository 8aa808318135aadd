"""The Qwen 2.5 and Qwen 3 families."""

import dataclasses
import functools
from typing import Any, cast

from flax import nnx
import jax.numpy as jnp
from tunix.models.qwen2 import model as tunix_qwen2
from tunix.models.qwen3 import model as tunix_qwen3

from tunix_ttt.models.families import attention
from tunix_ttt.models.families import family


class _Attention2(tunix_qwen2.Attention):
  """Qwen 2.5's attention, see `attention`."""

  def block(
    self,
    x: Any,
    cache: Any,
    attn_mask: Any,
    sin: Any,
    cos: Any,
    segment_ids: Any = None,
  ) -> Any:
    axes: Any = self.shd_config
    heads = []
    for layer, bias in (
      (self.q_proj, self.q_bias),
      (self.k_proj, self.k_bias),
      (self.v_proj, self.v_bias),
    ):
      head = layer(x)
      flat = head.reshape(*head.shape[:2], -1)
      head = (flat + bias[...].astype(self.config.dtype)).reshape(head.shape)
      heads.append(tunix_qwen2.shard(head, axes.act_btnh))
    query, key = (
      tunix_qwen2.apply_rotary_embedding(head, sin, cos) for head in heads[:2]
    )
    cache, read = _attend(
      self, (query, key, heads[2]), cache, attn_mask, segment_ids
    )
    output = self.o_proj(read)
    return cache, tunix_qwen2.shard(output, axes.act_btd)


class _Attention3(tunix_qwen3.Attention):
  """Qwen 3's attention, see `attention`, with the config's `rope_theta`."""

  def block(
    self,
    x: Any,
    segment_pos: Any,
    cache: Any,
    attn_mask: Any,
    segment_ids: Any = None,
  ) -> Any:
    axes: Any = self.shd_config
    query, key, value = (
      tunix_qwen3.shard(head, axes.act_btnh)
      for head in (
        self.q_norm(self.q_proj(x)),
        self.k_norm(self.k_proj(x)),
        self.v_proj(x),
      )
    )
    query, key = (
      tunix_qwen3.apply_rope(
        head,
        segment_pos,
        head_dim=self.head_dim,
        rope_theta=self.config.rope_theta,
      )
      for head in (query, key)
    )
    cache, read = _attend(
      self, (query, key, value), cache, attn_mask, segment_ids
    )
    output = self.o_proj(read)
    return cache, tunix_qwen3.shard(output, axes.act_btd)


def _attend(
  layer: Any, heads: tuple[Any, Any, Any], cache: Any, mask: Any, ids: Any
) -> tuple[Any, Any]:
  """Returns `attention.attend` of queries, keys and values.

  Tokens attend within their segments, `ids` int [B, T]; None is one segment.
  """
  if ids is not None:
    mask = mask & (ids[:, :, None] == ids[:, None])
  return attention.attend(
    *heads, cache, mask, scale=layer.scale, dtype=jnp.float32
  )


def _settings(spec: family.Architecture) -> dict[str, Any]:
  dtype = jnp.dtype(spec.dtype)
  return {
    "vocab_size": spec.vocab_size,
    **spec.sizes(),
    "rope_theta": spec.rope_theta,
    "norm_eps": spec.norm_eps,
    "use_tied_embedding": spec.tied_embedding,
    "dtype": dtype,
    "param_dtype": dtype,
  }


def _build_qwen2(spec: family.Architecture, rngs: nnx.Rngs) -> nnx.Module:
  config = tunix_qwen2.ModelConfig(**_settings(spec))
  module = tunix_qwen2.Qwen2(config, rngs=rngs)
  for layer in cast(Any, module).layers:
    layer.attn.__class__ = _Attention2
  return module


def _build_qwen3(spec: family.Architecture, rngs: nnx.Rngs) -> nnx.Module:
  config = tunix_qwen3.ModelConfig(**_settings(spec))
  module = tunix_qwen3.Qwen3(config, rngs=rngs)
  for layer in cast(Any, module).layers:
    layer.attn.__class__ = _Attention3
  return module


def _read_fields(config: family.Section, num_layers: int) -> dict[str, Any]:
  layer_types = config.values.get("layer_types")
  if layer_types is not None:
    if layer_types != ["full_attention"] * num_layers:
      config.refuse("layer_types", "Tunix's model has full attention only")
  # Layers below `max_window_layers` have full attention.
  elif config.flag("use_sliding_window", False) and num_layers > config.size(
    "max_window_layers", 28
  ):
    config.refuse("use_sliding_window", "Tunix's model has false only")
  return {
    "rope_theta": config.rope("full_attention", 10_000.0)[0],
    "norm_eps": config.number("rms_norm_eps", 1e-6),
    "tied_embedding": config.flag("tie_word_embeddings", False),
  }


def _write_fields(_spec: family.Architecture) -> dict[str, Any]:
  return {"hidden_act": "silu", "use_sliding_window": False}


def _layer_sources(
  spec: family.Architecture, *, has_biases: bool
) -> dict[str, family.Source]:
  """Returns a layer's sources; Qwen 3 has norms in place of the biases."""
  result = {"attn.o_proj.w": family.attention_output(spec)}
  for name in "qkv":
    heads = spec.num_heads if name == "q" else spec.num_kv_heads
    width = heads * spec.head_dim
    result[f"attn.{name}_proj.w"] = family.Source(
      names=(f"self_attn.{name}_proj.weight",),
      shapes=((width, spec.embed_dim),),
      split=(heads, spec.head_dim, spec.embed_dim),
      order=(2, 0, 1),
    )
    if has_biases:
      result[f"attn.{name}_bias"] = family.vector(
        f"self_attn.{name}_proj.bias", (width,)
      )
    elif name != "v":
      result[f"attn.{name}_norm.w"] = family.vector(
        f"self_attn.{name}_norm.weight", (spec.head_dim,)
      )
  for name in ("input_layernorm", "post_attention_layernorm"):
    result[f"{name}.w"] = family.vector(f"{name}.weight", (spec.embed_dim,))
  return result


QWEN2 = family.Family(
  name="qwen2.5",
  build=_build_qwen2,
  tiny={
    "num_layers": 2,
    "embed_dim": 96,
    "hidden_dim": 256,
    "num_heads": 6,
    "num_kv_heads": 6,
    "head_dim": 16,
  },
  model_type="qwen2",
  hub_classes={"Qwen2ForCausalLM": family.HubClass()},
  max_positions=32_768,
  # Qwen 2 has biases whatever its file says.
  allowed={"hidden_act": ("silu",), "quantization_config": (None,)},
  read_fields=_read_fields,
  write_fields=_write_fields,
  layer_sources=functools.partial(_layer_sources, has_biases=True),
  final_norm="final_norm.w",
  has_config=lambda config: isinstance(config, tunix_qwen2.ModelConfig),
  output_modules=("o_proj", "down_proj"),
  tokenizer_note=(
    "`AutoTokenizer` of transformers 5, and vLLM with it, mistake this"
    " tokenizer for Qwen 2.5's own: load it as above, and give vLLM token ids."
  ),
)
QWEN3 = dataclasses.replace(
  QWEN2,
  name="qwen3",
  build=_build_qwen3,
  model_type="qwen3",
  hub_classes={"Qwen3ForCausalLM": family.HubClass()},
  allowed={**QWEN2.allowed, "attention_bias": (False, None)},
  layer_sources=functools.partial(_layer_sources, has_biases=False),
  has_config=lambda config: isinstance(config, tunix_qwen3.ModelConfig),
  defaults={"rope_theta": 1_000_000.0},
  size_defaults={"head_dim": 128},
  tokenizer_note="",
)
