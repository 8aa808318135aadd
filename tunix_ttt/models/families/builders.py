"""Tunix's model classes, built from a `specs.ModelSpec`."""

from collections.abc import Callable
import dataclasses
from typing import TYPE_CHECKING, Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from tunix_ttt import config as config_lib
from tunix_ttt.models.families import corrections

if TYPE_CHECKING:
  from tunix_ttt.models.families import specs


def build(spec: "specs.ModelSpec", rngs: nnx.Rngs) -> nnx.Module:
  """Returns a model with Tunix's own initial values.

  All that a `ModelSpec` says and a checkpoint's values do not is in the module
  that this returns.
  """
  return _BUILDERS[spec.family](spec, rngs)


def set_remat(module: nnx.Module, kind: str) -> None:
  """Sets what the backward pass computes again, in place.

  Args:
    module: one of Tunix's models.
    kind: `none`, `block` or `decoder`.
  """
  for _, part in nnx.iter_modules(module):
    owner: Any = part
    # Gemma's attention has a setting of its own.
    if hasattr(owner, "remat_config"):
      kinds: Any = type(owner.remat_config)
      owner.remat_config = kinds[kind.upper()]
    config: Any = getattr(owner, "config", None)
    if hasattr(config, "remat_config"):
      kinds = type(config.remat_config)
      value = kinds[kind.upper()]
      owner.config = dataclasses.replace(config, remat_config=value)


def _sizes(spec: "specs.ModelSpec") -> dict[str, Any]:
  """Fields that all of Tunix's model configs share."""
  return {name: getattr(spec, name) for name in config_lib.SIZES}


def _build_qwen(spec: "specs.ModelSpec", rngs: nnx.Rngs) -> nnx.Module:
  dtype = jnp.dtype(spec.dtype)
  tunix: Any = qwen2 if spec.family == "qwen2.5" else qwen3
  config = tunix.ModelConfig(
    vocab_size=spec.vocab_size,
    **_sizes(spec),
    rope_theta=spec.rope_theta,
    norm_eps=spec.norm_eps,
    use_tied_embedding=spec.tied_embedding,
    dtype=dtype,
    param_dtype=dtype,
  )
  if spec.family == "qwen2.5":
    return qwen2.Qwen2(config, rngs=rngs)
  module = qwen3.Qwen3(config, rngs=rngs)
  corrections.use_rope_theta(module)
  return module


def _build_gemma(spec: "specs.ModelSpec", rngs: nnx.Rngs) -> nnx.Module:
  is_second = spec.family == "gemma2"
  kinds = {
    "local": gemma.AttentionType.LOCAL_SLIDING,
    "global": gemma.AttentionType.GLOBAL,
  }
  config = gemma.ModelConfig(
    num_embed=spec.vocab_size,
    **_sizes(spec),
    final_logit_softcap=spec.final_logit_softcap or None,
    attn_logits_soft_cap=spec.attn_logit_softcap or None,
    use_post_attn_norm=is_second,
    use_post_ffw_norm=is_second,
    attention_types=[kinds[kind] for kind in _layer_types(spec)],
    sliding_window_size=spec.sliding_window,
  )
  module = gemma.Gemma(config, rngs=rngs)
  # Tunix has no setting for it.
  dtype = jnp.dtype(spec.dtype)
  nnx.update(module, jax.tree.map(lambda x: x.astype(dtype), nnx.state(module)))
  _finish_gemma(spec, module)
  return module


def _build_gemma3(spec: "specs.ModelSpec", rngs: nnx.Rngs) -> nnx.Module:
  config = gemma3.ModelConfig(
    num_embed=spec.vocab_size,
    **_sizes(spec),
    sliding_window_size=spec.sliding_window,
    param_dtype=jnp.dtype(spec.dtype),
  )
  module = gemma3.Gemma3(config, rngs=rngs)
  # Tunix's order of local and global layers is a constant.
  layers = cast(Any, module).layers
  for layer, kind in zip(layers, _layer_types(spec), strict=True):
    attention, is_local = layer.attn, kind == "local"
    kinds = gemma3.AttentionType
    attention.attn_type = kinds.LOCAL_SLIDING if is_local else kinds.GLOBAL
    attention.rope_base_frequency = (
      spec.local_rope_theta if is_local else spec.rope_theta
    )
    attention.rope_scale_factor = 1.0 if is_local else spec.rope_scale
  _finish_gemma(spec, module)
  return module


def _layer_types(spec: "specs.ModelSpec") -> tuple[str, ...]:
  return spec.layer_types or ("global",) * spec.num_layers


def _finish_gemma(spec: "specs.ModelSpec", module: nnx.Module) -> None:
  corrections.replace(module)
  scalar = cast(float, spec.query_pre_attn_scalar)
  if scalar != spec.head_dim:
    corrections.scale_queries(module, (spec.head_dim / scalar) ** 0.5)


_BUILDERS: dict[str, Callable[["specs.ModelSpec", nnx.Rngs], nnx.Module]] = {
  "qwen2.5": _build_qwen,
  "qwen3": _build_qwen,
  "gemma": _build_gemma,
  "gemma2": _build_gemma,
  "gemma3": _build_gemma3,
}
