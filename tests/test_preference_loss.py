"""Tests the DPO and ORPO losses against Tunix."""

import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.rl import common
from tunix.sft.dpo import dpo_trainer

from tests import conftest
from tunix_ttt.algorithms import losses
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import specs

VOCAB = 64


@pytest.fixture(scope="module")
def table():
  return conftest.TableModel(jax.random.normal(jax.random.key(0), (VOCAB,) * 2))


def example(with_reference):
  """Three pairs: prompts padded on the left, answers on the right."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, VOCAB, (6, 13))
  prompts = np.arange(5) >= np.array([[0], [3], [1]] * 2)
  answers = np.arange(8) < np.array([[8], [5], [1], [4], [8], [0]])
  mask = np.concatenate([prompts, answers], axis=1)
  reference = jnp.asarray(-10 * rng.random((2, 3)), jnp.float32)
  make: Any = dpo_trainer.TrainExample
  return make(
    input_ids=jnp.asarray(tokens * mask),
    positions=common.build_positions_from_mask(jnp.asarray(mask)),
    attention_mask=common.make_causal_attn_mask(jnp.asarray(mask)),
    ref_chosen_logps=reference[0] if with_reference else None,
    ref_rejected_logps=reference[1] if with_reference else None,
    completion_mask=jnp.asarray(answers),
    logits_to_keep=8,
  )


def ours(example):
  """The same as a batch: the chosen and the rejected answer of each pair."""

  def in_turn(rows):
    return jnp.stack(jnp.split(rows, 2), axis=1).reshape(6, -1)

  answers = example.completion_mask
  mask = example.input_ids > 0
  batch = {
    "input_tokens": in_turn(example.input_ids),
    "input_mask": in_turn(mask),
    "places": conftest.places(in_turn(jnp.pad(answers, ((0, 0), (5, 0))))),
    "denominator": jnp.float32(3),
    "pairs": jnp.arange(3),
  }
  if example.ref_chosen_logps is not None:
    known = example.ref_chosen_logps, example.ref_rejected_logps
    batch["reference"] = jnp.stack(known, axis=1)
  return batch


# Logits at a time: those of one token of the six rows, of five, of all twelve.
@pytest.mark.parametrize("chunk", [1, 5, 12])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["dpo", "dpo without reference", "orpo"])
def test_it_is_tunixs(table, kind, smoothing, chunk, monkeypatch):
  monkeypatch.setattr(token_log_probs, "MAX_LOGITS", chunk * 6 * VOCAB)
  batch = example(kind == "dpo")
  settings: dict[str, Any] = {"algorithm": "dpo", "beta": 0.3}
  if kind == "orpo":
    # An answer of no tokens has no odds.
    batch = dataclasses.replace(
      batch, completion_mask=batch.completion_mask.at[5, 0].set(True)
    )
    settings = {"algorithm": "orpo", "lambda_orpo": 0.3}
  settings["label_smoothing"] = smoothing

  def run(loss, batch):
    return nnx.value_and_grad(
      lambda model: loss(model, batch, **settings), has_aux=True
    )(table)

  results = (
    run(losses.preference_loss, ours(batch)),
    run(dpo_trainer.dpo_loss_fn, batch),
  )
  ((value, metrics), grads), ((expected, known), known_grads) = results
  assert float(value) == pytest.approx(float(expected), rel=1e-5)
  assert metrics.keys() <= known.keys()
  for name in metrics:
    assert float(metrics[name]) == pytest.approx(float(known[name]), rel=1e-5)
  leaves = jax.tree.leaves(known_grads)
  assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-2
  for one, other in zip(jax.tree.leaves(grads), leaves, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_log_probabilities_of_answers():
  module = specs.initialize(conftest.small_spec("qwen3", VOCAB), 0)
  batch = example(False)
  found = losses.pair_log_probs(module, ours(batch))
  expected = dpo_trainer.compute_logps(
    module,
    batch.input_ids,
    batch.positions,
    batch.attention_mask,
    batch.logits_to_keep,
    batch.completion_mask,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # The third rejected answer is empty.
  assert found[1][2] == 0


def test_the_loss_of_a_pair_by_hand(table):
  """Beta = 0.5 and log-ratios of -3 - -5 = 2 and -4 - -3 = -1.

  The margin is 0.5 * (2 - -1) = 1.5, the loss -log(1 / (1 + e^-1.5)).
  """
  batch = ours(example(True))
  chosen, rejected = losses.pair_log_probs(table, batch)
  batch["reference"] = jnp.stack([chosen - 2, rejected + 1], axis=1)
  loss, metrics = losses.preference_loss(
    table, batch, algorithm="dpo", label_smoothing=0.0, beta=0.5
  )
  assert float(loss) == pytest.approx(math.log(1 + math.exp(-1.5)), rel=1e-5)
  assert float(metrics["rewards/margin"]) == pytest.approx(1.5, rel=1e-5)
  assert float(metrics["rewards/accuracy"]) == 1


@pytest.mark.parametrize(
  "settings",
  [
    {"algorithm": "dpo", "beta": 0.3},
    {"algorithm": "orpo", "lambda_orpo": 0.3},
  ],
)
def test_pairs_that_are_not_there_count_for_nothing(table, settings):
  batch = ours(example(True))
  # The last pair has an empty answer, which has no odds.
  del batch["reference"]
  two = {k: v[:4] for k, v in batch.items() if v.ndim == 2}
  two |= {"pairs": batch["pairs"][:2], "denominator": jnp.float32(2)}
  padded = {
    **batch,
    "pairs": jnp.asarray([0, 1, -1]),
    "denominator": two["denominator"],
  }
  is_there = jnp.arange(6)[:, None] < 4
  padded["input_mask"] = batch["input_mask"] & is_there
  padded["places"] = batch["places"] * is_there

  def run(batch):
    return losses.preference_loss(table, batch, label_smoothing=0.0, **settings)

  (loss, metrics), (expected, known) = run(padded), run(two)
  assert float(loss) == pytest.approx(float(expected), rel=1e-6)
  for name in metrics:
    assert float(metrics[name]) == pytest.approx(float(known[name]), rel=1e-6)
