"""Samples tokens from logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    temperature: logits are divided by it; 0 takes the most likely token.
    top_k: only this many most likely tokens are drawn from; None for all.
    top_p: only the most likely tokens that together reach this probability are
      drawn from (Holtzman et al., 2020).
    constrained: only tokens that can complete an answer, within the turn's
      limit, are drawn from.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float = 1.0
  constrained: bool = False

  def __post_init__(self):
    """Raises a ValueError for settings that mean nothing."""
    if self.temperature < 0:
      raise ValueError(f"temperature must not be negative: {self.temperature}")
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f"top_k must be at least 1: {self.top_k}")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p must be in (0, 1]: {self.top_p}")

  @property
  def is_cut(self) -> bool:
    """Whether some tokens cannot be drawn although they have a probability."""
    is_drawn = self.temperature > 0
    has_limits = self.top_k is not None or self.top_p < 1
    return self.constrained or (is_drawn and has_limits)


def sample(
  keys: jax.Array,
  logits: jax.Array,
  settings: Sampling,
  allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Draws a token for each row.

  Args:
    keys: [B], one a row, consumed; a row depends on its own alone.
    logits: float [B, V].
    settings: how to draw.
    allowed: bool [B, V], tokens to draw from; None for all.

  Returns:
    int32 [B] tokens, float32 [B] log-probabilities, and float32 [B] the total
    probability of the tokens that could be drawn, None where `settings.is_cut`
    is False. All probabilities are the model's at the temperature (at 1 where
    that is 0), before anything is cut off, which is what a trainer computes
    from the same weights.
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
  """Puts the tokens that are not to be drawn at minus infinity."""
  size = logits.shape[-1]
  if settings.top_k is not None and settings.top_k < size:
    least = jax.lax.top_k(logits, settings.top_k)[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if settings.top_p < 1:
    descending = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(descending)
    # A token stays while those before it have not reached `top_p`.
    kept = jnp.cumsum(probs, axis=-1) - probs < settings.top_p
    least = jnp.where(kept, descending, jnp.inf).min(axis=-1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits
