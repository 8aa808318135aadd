"""What a run will need of a device's memory, estimated from its shapes."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from tunix_ttt.models import specs
from tunix_ttt.models import token_log_probs

_FLOAT32 = 4
# Arrays of a chunk's logits that are alive at once in the backward pass.
_LOGITS_COPIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Bytes, of what is alive at the peak of a training step.

  Attributes:
    weights: the whole model, adapters included.
    optimizer: moments of what is trained.
    gradients: of what is trained, accumulated and new.
    activations: what the backward pass keeps, and one layer's own.
    logits: of a chunk of tokens.
    playing: keys and values, and one layer's activations, while games are
      played, which is at another time.
  """

  weights: int
  optimizer: int = 0
  gradients: int = 0
  activations: int = 0
  logits: int = 0
  playing: int = 0

  @property
  def total(self) -> int:
    """The larger of training's and playing's."""
    kept = self.weights + self.optimizer
    training = self.gradients + self.activations + self.logits
    return kept + max(training, self.playing)

  def table(self) -> str:
    """Returns the parts as lines of text."""
    parts = {**dataclasses.asdict(self), "in all": self.total}
    unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
    return "\n".join(
      f"  {part:12} {size / unit:8.2f} {name}"
      for part, size in parts.items()
      if size
    )


def activations(
  spec: specs.ModelSpec,
  rows: int,
  length: int,
  remat: Literal["none", "block", "decoder"],
) -> int:
  """Returns the bytes that a backward pass needs besides gradients.

  Without rematerialisation, all that goes into a product or a norm of any layer
  is kept; with it, what goes into each block or layer, and all that only of the
  one at work.

  Args:
    spec: the architecture.
    rows: sequences at a time.
    length: of each.
    remat: as in `config.ModelConfig`.
  """
  # Around each block the residual stream is kept in several forms.
  entering = {"none": 0, "block": 8, "decoder": 1}[remat]
  kept = entering * spec.embed_dim * jnp.dtype(spec.dtype).itemsize
  layers = spec.num_layers if remat == "none" else 1
  token = layers * _token(spec, length) + spec.num_layers * kept
  return rows * length * token


def logits(spec: specs.ModelSpec, rows: int, length: int) -> int:
  """Returns the bytes of the logits that are held at a time."""
  held = min(
    rows * length * spec.vocab_size,
    max(token_log_probs.MAX_LOGITS, rows * spec.vocab_size),
  )
  return _LOGITS_COPIES * _FLOAT32 * held


def playing(spec: specs.ModelSpec, rows: int, slots: int) -> int:
  """Returns the bytes of `rows` games whose caches have `slots` slots."""
  size = jnp.dtype(spec.dtype).itemsize
  cached = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * size
  return rows * slots * (cached + _token(spec, slots))


def _token(spec: specs.ModelSpec, length: int) -> int:
  """Returns the bytes of one layer's intermediate values of a token."""
  size = jnp.dtype(spec.dtype).itemsize
  heads = (2 * spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
  # Gemma 2 and 3 have twice as many norms.
  streams = 10 if spec.family in ("gemma2", "gemma3") else 6
  values = size * (streams * spec.embed_dim + heads + 4 * spec.hidden_dim)
  # Attention's scores and weights are float32, and so are capped scores.
  scores = 3 if spec.attn_logit_softcap else 2
  return values + scores * _FLOAT32 * spec.num_heads * length
