"""Which tensors of transformers' make up which parameter of Tunix's.

One table for both directions: shapes to check, parameters to make of tensors,
tensors to make of parameters.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from tunix_ttt.models.families import specs

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The tensors that make up one parameter.

  Attributes:
    names: Names of the tensors; several are stacked in this order.
    shapes: Shapes of the tensors.
    split: the shape that one takes first.
    order: in which the axes of that one are then put.
  """

  names: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  split: tuple[int, ...]
  order: tuple[int, ...]

  def to_parameter(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the parameter; a view of the tensor if it is one."""
    # Queries are as wide as keys where they are stacked.
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


def table(spec: specs.ModelSpec, prefix: str = "model.") -> dict[str, Source]:
  """Returns the source of each parameter of a model, by its dotted path.

  Args:
    spec: the architecture.
    prefix: Prefix of all tensor names but the head's.
  """
  width, vocab = spec.embed_dim, (spec.vocab_size, spec.embed_dim)
  is_qwen = spec.family in ("qwen2.5", "qwen3")
  result = {
    "embedder.input_embedding": _plain(f"{prefix}{EMBEDDING}", vocab),
    f"final_norm.{'w' if is_qwen else 'scale'}": _plain(
      f"{prefix}norm.weight", (width,)
    ),
  }
  if not spec.tied_embedding:
    result["lm_head.w"] = _matrix(HEAD, vocab)
  layer = _qwen_layer if is_qwen else _gemma_layer
  for number in range(spec.num_layers):
    result |= layer(spec, f"layers.{number}.", f"{prefix}layers.{number}.")
  return result


def _plain(name: str, shape: tuple[int, ...]) -> Source:
  order = tuple(range(len(shape)))
  return Source(names=(name,), shapes=(shape,), split=shape, order=order)


def _matrix(name: str, shape: tuple[int, int]) -> Source:
  """Matrices are [out, in] there, and [in, out] in Tunix."""
  return Source(names=(name,), shapes=(shape,), split=shape, order=(1, 0))


def _heads(names: Sequence[str], heads: int, spec: specs.ModelSpec) -> Source:
  """Gemma's projections: [N * H, D] each, to [N, D, H] or a stack of those."""
  split = (heads, spec.head_dim, spec.embed_dim)
  shape = (heads * spec.head_dim, spec.embed_dim)
  return Source(
    names=tuple(names),
    shapes=(shape,) * len(names),
    split=split,
    order=(0, 2, 1),
  )


def _shared(spec: specs.ModelSpec, ours: str, theirs: str) -> dict[str, Source]:
  """The feed-forward layer, of which all families have the same."""
  wide = (spec.hidden_dim, spec.embed_dim)
  shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
  return {
    f"{ours}mlp.{name}.kernel": _matrix(f"{theirs}mlp.{name}.weight", shape)
    for name, shape in shapes.items()
  }


def _output(spec: specs.ModelSpec, name: str) -> Source:
  """The attention's output: [D, N * H] to [N, H, D]."""
  split = (spec.embed_dim, spec.num_heads, spec.head_dim)
  shape = (spec.embed_dim, spec.num_heads * spec.head_dim)
  return Source(names=(name,), shapes=(shape,), split=split, order=(1, 2, 0))


def _qwen_layer(
  spec: specs.ModelSpec, ours: str, theirs: str
) -> dict[str, Source]:
  attention = f"{theirs}self_attn."
  result = _shared(spec, ours, theirs)
  result[f"{ours}attn.o_proj.w"] = _output(spec, f"{attention}o_proj.weight")
  heads = {"q": spec.num_heads, "k": spec.num_kv_heads, "v": spec.num_kv_heads}
  for name, count in heads.items():
    width = count * spec.head_dim
    result[f"{ours}attn.{name}_proj.w"] = Source(
      names=(f"{attention}{name}_proj.weight",),
      shapes=((width, spec.embed_dim),),
      split=(count, spec.head_dim, spec.embed_dim),
      order=(2, 0, 1),
    )
    if spec.family == "qwen2.5":
      result[f"{ours}attn.{name}_bias"] = _plain(
        f"{attention}{name}_proj.bias", (width,)
      )
    elif name != "v":
      result[f"{ours}attn.{name}_norm.w"] = _plain(
        f"{attention}{name}_norm.weight", (spec.head_dim,)
      )
  for name in ("input_layernorm", "post_attention_layernorm"):
    result[f"{ours}{name}.w"] = _plain(
      f"{theirs}{name}.weight", (spec.embed_dim,)
    )
  return result


def _gemma_layer(
  spec: specs.ModelSpec, ours: str, theirs: str
) -> dict[str, Source]:
  attention = f"{theirs}self_attn."
  query, *others = [f"{attention}{name}_proj.weight" for name in "qkv"]
  result = _shared(spec, ours, theirs)
  result[f"{ours}attn.attn_vec_einsum.w"] = _output(
    spec, f"{attention}o_proj.weight"
  )
  if spec.num_heads == spec.num_kv_heads:
    result[f"{ours}attn.qkv_einsum.w"] = _heads(
      [query, *others], spec.num_heads, spec
    )
  else:
    result[f"{ours}attn.q_einsum.w"] = _heads([query], spec.num_heads, spec)
    result[f"{ours}attn.kv_einsum.w"] = _heads(others, spec.num_kv_heads, spec)
  norms = {
    "gemma": {
      "pre_attention_norm": "input_layernorm",
      # It stands where Gemma 2 has a `pre_feedforward_layernorm`.
      "pre_ffw_norm": "post_attention_layernorm",
    },
    "gemma2": {
      "pre_attention_norm": "input_layernorm",
      "post_attn_norm": "post_attention_layernorm",
      "pre_ffw_norm": "pre_feedforward_layernorm",
      "post_ffw_norm": "post_feedforward_layernorm",
    },
    "gemma3": {
      "pre_attention_norm": "input_layernorm",
      "post_attention_norm": "post_attention_layernorm",
      "pre_ffw_norm": "pre_feedforward_layernorm",
      "post_ffw_norm": "post_feedforward_layernorm",
    },
  }
  for our, their in norms[spec.family].items():
    result[f"{ours}{our}.scale"] = _plain(
      f"{theirs}{their}.weight", (spec.embed_dim,)
    )
  if spec.family == "gemma3":
    for our, their in (("_query_norm", "q_norm"), ("_key_norm", "k_norm")):
      result[f"{ours}attn.{our}.scale"] = _plain(
        f"{attention}{their}.weight", (spec.head_dim,)
      )
  return result
