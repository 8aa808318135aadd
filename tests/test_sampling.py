"""Tests the support and the frequencies of sampled tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_ttt.rollout import sampling

PROBS = np.array([0.5, 0.3, 0.15, 0.05], np.float32)
LOGITS = jnp.log(jnp.tile(PROBS, (4000, 1)))
KEYS = jax.random.split(jax.random.key(0), 4000)


def draw(allowed=None, **settings):
  tokens, log_probs, _ = sampling.sample(
    KEYS, LOGITS, sampling.Sampling(**settings), allowed
  )
  return np.bincount(tokens, minlength=4) / 4000, tokens, log_probs


def test_tokens_are_as_frequent_as_they_are_likely():
  found, tokens, log_probs = draw()
  # Five times the largest standard deviation.
  np.testing.assert_allclose(found, PROBS, atol=5 * (0.25 / 4000) ** 0.5)
  np.testing.assert_allclose(log_probs, np.log(PROBS)[tokens], rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "kept"),
  [
    ({"temperature": 0.0}, [0]),
    ({"top_k": 1}, [0]),
    ({"top_k": 3}, [0, 1, 2]),
    ({"top_k": 9}, [0, 1, 2, 3]),
    ({"top_p": 0.4}, [0]),
    ({"top_p": 0.7}, [0, 1]),
    ({"top_p": 0.9}, [0, 1, 2]),
    ({"top_k": 3, "top_p": 0.8}, [0, 1]),
  ],
)
def test_what_is_cut_off(settings, kept):
  found, tokens, log_probs = draw(**settings)
  assert np.flatnonzero(found).tolist() == kept
  # The reported probabilities include the excluded tokens.
  np.testing.assert_allclose(log_probs, np.log(PROBS)[tokens], rtol=1e-5)


def test_temperature():
  found, tokens, log_probs = draw(temperature=2.0)
  expected = PROBS**0.5 / (PROBS**0.5).sum()
  np.testing.assert_allclose(found, expected, atol=5 * (0.25 / 4000) ** 0.5)
  np.testing.assert_allclose(log_probs, np.log(expected)[tokens], rtol=1e-5)


@pytest.mark.parametrize("size", [7, 4096, 40_000])
def test_tokens_without_probability_are_never_drawn(size, monkeypatch):
  rng = np.random.default_rng(size)
  allowed = rng.random((2, size)) < 0.5
  logits = jnp.where(allowed, rng.normal(size=(2, size)), -jnp.inf)
  probs = np.where(allowed, jax.nn.softmax(logits), 0).astype(np.float64)
  # Shares at, just below and just above the ends of tokens, and the extremes.
  ends = np.cumsum(probs[0])[:: max(size // 500, 1)].astype(np.float32)
  ends = np.concatenate([np.nextafter(ends, 0), ends, np.nextafter(ends, 2)])
  shares = np.r_[0.0, ends[ends < 1], 1 - 2.0**-24].astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def drawn(share):
    monkeypatch.setattr(jax.random, "uniform", lambda key: share)
    return sampling._draw(keys, logits)

  tokens = np.stack([drawn(share) for share in shares])
  assert allowed[[0, 1], tokens].all()
  # The token is the one whose share it is, but for rounding.
  after = np.take_along_axis(np.cumsum(probs, axis=1), tokens.T, axis=1)
  before = after - np.take_along_axis(probs, tokens.T, axis=1)
  assert (before <= shares + 1e-5).all() and (after >= shares - 1e-5).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_is_allowed(temperature):
  allowed = jnp.tile(jnp.array([False, True, False, True]), (4000, 1))
  found, _, _ = draw(allowed, temperature=temperature)
  assert found[0] == found[2] == 0
  assert (found[3] > 0) == (temperature > 0)


@pytest.mark.parametrize(
  ("settings", "mass"),
  [
    ({}, None),
    ({"temperature": 0.0, "top_k": 1, "top_p": 0.5}, None),
    ({"top_k": 3}, 0.95),
    ({"top_p": 0.7}, 0.8),
    ({"constrained": True}, 0.35),
    ({"constrained": True, "temperature": 0.0}, 0.35),
    ({"constrained": True, "top_k": 1}, 0.3),
  ],
)
def test_the_probability_of_all_that_can_be_drawn(settings, mass):
  allowed = None
  if "constrained" in settings:
    allowed = jnp.tile(jnp.array([False, True, False, True]), (4000, 1))
  _, _, found = sampling.sample(
    KEYS, LOGITS, sampling.Sampling(**settings), allowed
  )
  if mass is None:
    assert found is None
  else:
    assert found is not None
    np.testing.assert_allclose(found, np.full(4000, mass), rtol=1e-5)


@pytest.mark.parametrize(
  "settings", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}]
)
def test_settings_that_mean_nothing(settings):
  with pytest.raises(ValueError, match="must"):
    sampling.Sampling(**settings)
