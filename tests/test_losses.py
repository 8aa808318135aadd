"""Tests the supervised loss against hand arithmetic and Tunix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.sft import peft_trainer

from tests import conftest
from tunix_ttt.algorithms import losses
from tunix_ttt.models.families import specs

VOCAB = 8


def inputs(tokens, input_mask, loss_mask, denominator):
  return losses.model_inputs(
    {
      "input_tokens": jnp.asarray(tokens, jnp.int32),
      "input_mask": jnp.asarray(input_mask, bool),
      "places": conftest.places(loss_mask),
      "denominator": jnp.float32(denominator),
    }
  )


def test_hand_arithmetic():
  # After token 1 the model gives token 2 the odds e : 7, after 2 nothing.
  table = jnp.zeros((VOCAB, VOCAB)).at[1, 2].set(1.0)
  args = inputs(
    [[1, 2, 3, 0], [1, 2, 0, 0]],
    [[1, 1, 1, 0], [1, 1, 0, 0]],
    [[0, 1, 1, 0], [0, 1, 0, 0]],
    3,
  )
  loss, metrics = losses.supervised_loss(conftest.TableModel(table), **args)
  after_one, after_two = -np.log(np.e / (np.e + 7)), np.log(8)
  assert loss == pytest.approx((2 * after_one + after_two) / 3, rel=1e-6)
  # Argmax after 2 is token 0, not 3.
  assert metrics["token_accuracy"] == pytest.approx(2 / 3)


def test_unsupervised_tokens_have_no_gradient():
  args = inputs([[1, 2, 3, 4]], [[1, 1, 1, 1]], [[0, 0, 1, 0]], 1)

  def loss(table):
    return losses.supervised_loss(conftest.TableModel(table), **args)[0]

  grad = np.asarray(jax.grad(loss)(jnp.zeros((VOCAB, VOCAB))))
  assert grad[2].any() and not np.delete(grad, 2, axis=0).any()


def test_a_fully_masked_row_adds_nothing():
  table = jax.random.normal(jax.random.key(0), (VOCAB, VOCAB))
  one = inputs([[1, 2, 3]], [[1, 1, 1]], [[0, 1, 1]], 2)
  two = inputs(
    [[1, 2, 3], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]], 2
  )
  value = losses.supervised_loss(conftest.TableModel(table), **one)[0]
  assert value == losses.supervised_loss(conftest.TableModel(table), **two)[0]
  nothing = inputs([[1, 2, 3]], [[1, 1, 1]], [[0, 0, 0]], 1)
  assert losses.supervised_loss(conftest.TableModel(table), **nothing)[0] == 0


@pytest.mark.parametrize("name", sorted(specs.TINY_MODELS))
def test_equals_tunix_own_loss(name):
  spec = specs.ModelSpec(**specs.TINY_MODELS[name], vocab_size=32)
  module = specs.initialize(spec, 0)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 32, (3, 10))
  input_mask = np.arange(10) < np.array([[10], [7], [4]])
  tokens = np.where(input_mask, tokens, 0)
  loss_mask = input_mask & (np.arange(10) > 2)
  args = inputs(tokens, input_mask, loss_mask, loss_mask.sum())
  ours, _ = losses.supervised_loss(module, **args)
  theirs = peft_trainer._default_loss_fn(
    module,
    args["input_tokens"],
    jnp.asarray(loss_mask),
    args["positions"],
    args["attention_mask"],
  )
  assert float(ours) == pytest.approx(float(jnp.asarray(theirs)), rel=1e-6)
