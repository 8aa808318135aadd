"""Tests the loss of games against Tunix, for all masks and chunks."""

import dataclasses
import typing
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.rl import algo_core
from tunix.rl.grpo import grpo_learner

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import remat as remat_lib
from tunix_ttt.models.families import specs
from tunix_ttt.train import trainer

PAD, VOCAB = 0, 64
# Of the rows; Tunix divides by that of completions in one of its modes.
LENGTH = 15


@pytest.fixture(scope="module")
def model():
  return specs.initialize(conftest.small_spec("qwen2.5", VOCAB), 0)


@pytest.fixture(scope="module")
def table():
  return conftest.TableModel(jax.random.normal(jax.random.key(0), (VOCAB,) * 2))


def algorithm(temperature=0.9, rows_at_once=8, **changes):
  config: Any = grpo_loss.AlgorithmConfig(
    num_generations=2,
    max_sequence_tokens=LENGTH - 1,
    rows_at_once=rows_at_once,
    **changes,
  )
  config.temperature = temperature
  return config


def gradient(loss):
  return nnx.jit(nnx.value_and_grad(loss, has_aux=True))


def example(rng, rows=8, length=LENGTH, pads=False):
  lengths = rng.integers(6, length + 1, (rows, 1))
  mask = np.arange(length) < lengths
  tokens = rng.integers(1, VOCAB, mask.shape)
  if pads:
    tokens = np.where(rng.random(mask.shape) < 0.3, PAD, tokens)
  tokens = tokens * mask
  trained = mask & (rng.random(mask.shape) < 0.5)
  trained[..., 0] = False
  log_probs = -rng.random(mask.shape).astype(np.float32)
  make: Any = grpo_loss.GameExample
  return make(
    prompt_ids=tokens[..., :1],
    prompt_mask=mask[..., :1],
    completion_ids=tokens[..., 1:],
    completion_mask=trained[..., 1:],
    advantages=rng.normal(size=mask.shape)[..., 1:].astype(np.float32),
    ref_per_token_logps=log_probs[..., 1:] - 0.1,
    old_per_token_logps=log_probs[..., 1:],
    mask=mask,
  )


def test_rows_of_few_trained_tokens(model):
  """Only these are scored, in as many places as a row may have."""
  batch = example(np.random.default_rng(5))
  most = int(batch.completion_mask.sum(axis=1).max())
  assert 1 < most < LENGTH - 2
  results = []
  for limit in (LENGTH - 1, most):
    config = algorithm(beta=0.1)
    config.max_sequence_tokens = limit

    def loss(module, config=config):
      return grpo_loss.games_loss(module, batch, config, PAD, 1)

    (value, metrics), grads = gradient(loss)(model)
    results.append((value, metrics, grads))
  assert float(results[0][1]["entropy"]) > 0 != float(results[0][1]["kl"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *results,
  )


def loss_of(model, batch, config):
  def loss(module):
    return grpo_loss.games_loss(module, batch, config, PAD, 1)

  (value, _), grads = gradient(loss)(model)
  return float(value), jax.tree.leaves(grads)


# Each option that the config has, by itself and with those it may meet.
VARIANTS: list[dict[str, Any]] = [
  {},
  {"loss_algo": "gspo-token"},
  {"loss_agg_mode": "sequence-mean-token-scale"},
  {"beta": 0.1, "kl_loss_mode": "low_var_kl"},
  {"epsilon_high": 0.28, "epsilon_c": 3.0},
]
MORE_VARIANTS: list[dict[str, Any]] = [
  {"temperature": 1.0},
  {"loss_algo": "gspo-token", "epsilon_c": 1.5},
  {"loss_agg_mode": "sequence-mean-token-mean"},
  {"loss_agg_mode": "seq-mean-token-sum", "loss_algo": "gspo-token"},
  {"loss_agg_mode": "sequence-mean-token-sum-norm", "beta": 0.1},
  {"beta": 0.1, "kl_loss_mode": "kl"},
  {"beta": 0.1, "kl_loss_mode": "mse_kl"},
  {"epsilon": 0.1, "epsilon_high": 0.28},
]
METRICS = sorted(trainer._GRPO_METRICS)


@pytest.mark.parametrize(
  "recorded", [True, pytest.param(False, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "changes",
  [
    *VARIANTS,
    *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_VARIANTS),
  ],
  ids=str,
)
def test_it_is_tunixs_where_the_pad_token_is_nowhere_else(
  table, changes, recorded, monkeypatch
):
  # Three tokens of each of the eight rows at a time.
  monkeypatch.setattr(token_log_probs, "MAX_LOGITS", 3 * 8 * VOCAB)
  batch = example(np.random.default_rng(0))
  # A row in which nothing is trained, as batches are filled up with.
  batch.completion_mask[0] = False
  old = batch.old_per_token_logps if recorded else None
  weights = None
  if recorded:
    weights = np.linspace(
      0.2, 2.0, batch.completion_mask.size, dtype=np.float32
    )
    weights = weights.reshape(batch.completion_mask.shape)
  batch = dataclasses.replace(
    batch, old_per_token_logps=old, sampler_is_weights=weights
  )
  config = algorithm(**{"loss_agg_mode": "token-mean", **changes})

  def ours(module):
    return grpo_loss.games_loss(module, batch, config, PAD, 1)

  names = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "ref_per_token_logps",
    "old_per_token_logps",
    "sampler_is_weights",
  )
  fields = {name: getattr(batch, name) for name in names}
  plain = grpo_learner.TrainExample(**fields)

  def theirs(module):
    return algo_core.grpo_loss_fn(module, plain, config, PAD, 1)

  (value, metrics), grads = gradient(ours)(table)
  (expected, expected_metrics), expected_grads = gradient(theirs)(table)
  assert float(value) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
  for name in METRICS:
    found, known = float(metrics[name]), float(expected_metrics[name])
    assert found == pytest.approx(known, rel=1e-5, abs=1e-6), name
  leaves = jax.tree.leaves(expected_grads)
  assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-3
  for one, other in zip(jax.tree.leaves(grads), leaves, strict=True):
    np.testing.assert_allclose(one, other, atol=3e-6)


def test_a_sampled_pad_token_is_a_token(model):
  batch = example(np.random.default_rng(1), pads=True)
  seen = np.asarray(batch.mask) & (
    np.concatenate([batch.prompt_ids, batch.completion_ids], -1) == PAD
  )
  assert seen.any()
  value, _ = loss_of(model, batch, algorithm(loss_agg_mode="token-mean"))
  # The same with tokens renamed, so that no token is the pad token.
  values = specs.parameters(model)
  table = values["embedder.input_embedding"]
  other = table.at[jnp.array([PAD, 7])].set(table[jnp.array([7, PAD])])
  renamed = specs.with_parameters(
    model, {**values, "embedder.input_embedding": other}
  )

  def swap(ids):
    return np.where(ids == PAD, 7, np.where(ids == 7, PAD, ids))

  swapped = dataclasses.replace(
    batch,
    prompt_ids=swap(batch.prompt_ids),
    completion_ids=swap(batch.completion_ids),
  )
  again, _ = loss_of(
    cast(Any, renamed), swapped, algorithm(loss_agg_mode="token-mean")
  )
  assert value == pytest.approx(again, rel=1e-5)


def padded(batch, rows, columns):
  """Returns a batch with more rows and columns of padding."""

  def pad(leaf):
    more = 0 if leaf.shape[1] == 1 else columns
    return np.pad(leaf, ((0, rows), (0, more)))

  return jax.tree.map(pad, batch)


MODES = typing.get_args(
  typing.get_type_hints(config_lib.AlgorithmConfig)["loss_agg_mode"]
)


@pytest.mark.parametrize(
  "mode",
  conftest.slow_but(("sequence-mean-token-scale", "token-mean"), MODES),
)
def test_neither_chunks_nor_padding_change_the_loss(table, mode):
  batch = example(np.random.default_rng(2), rows=12)
  # A row of few tokens.
  batch.completion_mask[1, 3:] = False

  def run(batch, rows_at_once):
    config = algorithm(
      loss_agg_mode=mode, beta=0.1, epsilon_c=1.5, rows_at_once=rows_at_once
    )

    def loss(module):
      return grpo_loss.games_loss(module, batch, config, PAD, 1)

    return gradient(loss)(table)

  expected = run(batch, 12)
  for size, rows, columns in ((6, 0, 0), (5, 0, 0), (12, 0, 16), (4, 8, 16)):
    found = run(padded(batch, rows, columns), size)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
      found,
      expected,
    )


@pytest.mark.parametrize(
  "family", conftest.slow_but(["qwen2.5"], specs.FAMILIES)
)
@pytest.mark.parametrize(
  "remat", conftest.slow_but(["block"], ["none", "block", "decoder"])
)
@pytest.mark.parametrize(
  "adapted", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_chunks_of_a_model(family, remat, adapted):
  window = {"sliding_window": 3} if family in ("gemma2", "gemma3") else {}
  module = specs.initialize(conftest.small_spec(family, VOCAB, **window), 0)
  if adapted:
    module = specs.apply_lora(
      module, rank=2, alpha=4.0, target_modules="all-linear", seed=0
    )
  kind = nnx.LoRAParam if adapted else nnx.Param
  batch = example(np.random.default_rng(3))

  def run(rows_at_once):
    config = algorithm(loss_agg_mode="token-mean", rows_at_once=rows_at_once)

    def loss(module):
      return grpo_loss.games_loss(module, batch, config, PAD, 1)

    wrt = nnx.DiffState(0, kind)
    return nnx.jit(nnx.value_and_grad(loss, argnums=wrt, has_aux=True))(module)

  expected = run(8)
  remat_lib.use(module, remat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    run(2),
    expected,
  )


def test_bfloat16_gradients_are_added_up_in_float32(table):
  batch = example(np.random.default_rng(4), rows=256)
  config = algorithm(loss_agg_mode="token-mean", rows_at_once=8)

  def gradient_of(dtype):
    # The same values in both types.
    values = table.table.get_value().astype(jnp.bfloat16).astype(dtype)

    def loss(module):
      return grpo_loss.games_loss(module, batch, config, PAD, 1)

    (leaf,) = jax.tree.leaves(gradient(loss)(conftest.TableModel(values))[1])
    assert leaf.dtype == dtype
    return np.asarray(leaf, np.float32)

  expected, found = map(gradient_of, (jnp.float32, jnp.bfloat16))
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  # 0.003, and 0.009 if the sum of the 32 chunks were a bfloat16.
  assert error < 0.005
