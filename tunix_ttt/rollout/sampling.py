"""Samples tokens from logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    temperature: Divisor of the logits; 0 selects the most likely token.
    top_k: Number of most likely tokens to sample from; None for all.
    top_p: Smallest total probability of the most likely tokens to sample from
      (Holtzman et al., 2020).
    constrained: Whether to sample only tokens that can complete an answer
      within the limit of the turn.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float = 1.0
  constrained: bool = False

  def __post_init__(self):
    """Raises a ValueError for settings out of range."""
    if self.temperature < 0:
      raise ValueError(f"temperature must not be negative: {self.temperature}")
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f"top_k must be at least 1: {self.top_k}")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p must be in (0, 1]: {self.top_p}")

  @property
  def is_cut(self) -> bool:
    """Whether tokens with a positive probability may be excluded."""
    has_limits = self.top_k is not None or self.top_p < 1
    return self.constrained or (self.temperature > 0 and has_limits)


def sample(
  keys: jax.Array,
  logits: jax.Array,
  settings: Sampling,
  allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Samples a token for each row.

  The returned probabilities are the model's at the temperature (1 if the
  temperature is 0), before `top_k`, `top_p` and `allowed` exclude tokens. A
  trainer computes the same values from the same weights.

  Args:
    keys: Random key of each row, [B]; consumed.
    logits: Logits of the model, float [B, V].
    settings: Settings of the sampler.
    allowed: Mask of the tokens to sample from, bool [B, V]; None for all.

  Returns:
    The tokens, int32 [B]; their log-probabilities, float32 [B]; and the total
    probability of the tokens that could be sampled, float32 [B], or None if
    `settings.is_cut` is False.
  """
  logits = logits.astype(jnp.float32)
  if settings.temperature > 0:
    logits = logits / settings.temperature
  log_probs = jax.nn.log_softmax(logits)
  if allowed is not None:
    logits = jnp.where(allowed, logits, -jnp.inf)
  if settings.temperature == 0:
    tokens = logits.argmax(axis=-1)
  else:
    logits = _cut(logits, settings)
    tokens = jax.vmap(jax.random.categorical)(keys, logits)
  tokens = tokens.astype(jnp.int32)
  chosen = jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]
  mass = None
  if settings.is_cut:
    mass = jnp.where(logits > -jnp.inf, jnp.exp(log_probs), 0).sum(axis=-1)
  return tokens, chosen, mass


def _cut(logits: jax.Array, settings: Sampling) -> jax.Array:
  """Sets the logits of the tokens outside `top_k` and `top_p` to -inf."""
  size = logits.shape[-1]
  if settings.top_k is not None and settings.top_k < size:
    smallest = jax.lax.top_k(logits, settings.top_k)[0][:, -1:]
    logits = jnp.where(logits < smallest, -jnp.inf, logits)
  if settings.top_p < 1:
    descending = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(descending)
    # Keep a token if the total before it is below `top_p`.
    is_kept = jnp.cumsum(probs, axis=-1) - probs < settings.top_p
    smallest = jnp.where(is_kept, descending, jnp.inf).min(
      axis=-1, keepdims=True
    )
    logits = jnp.where(logits < smallest, -jnp.inf, logits)
  return logits
