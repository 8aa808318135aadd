"""The DPO loss is Tunix's, from log-probabilities alone."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.rl import common
from tunix.sft.dpo import dpo_trainer

from tests import conftest
from tunix_ttt.models import lora
from tunix_ttt.models import specs
from tunix_ttt.models import token_log_probs
from tunix_ttt.train import dpo_loss

VOCAB = 64


def make(adapted):
  module = specs.initialize(conftest.small_spec("qwen3", VOCAB), 0)
  if not adapted:
    return module, nnx.Param
  module = lora.apply_lora(
    module, rank=2, alpha=4, target_modules="all-linear", seed=0
  )
  # Adapters begin at zero, where half of them has no gradient.
  noise = np.random.default_rng(2)
  state = jax.tree.map(
    lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32),
    nnx.state(module, nnx.LoRAParam),
  )
  nnx.update(module, state)
  return module, nnx.LoRAParam


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


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_tunixs(adapted, with_reference, smoothing, monkeypatch):
  # Two tokens of each of the six rows at a time.
  monkeypatch.setattr(token_log_probs, "MAX_LOGITS", 2 * 6 * VOCAB)
  module, kind = make(adapted)
  batch = example(with_reference)
  results = []
  for loss in (dpo_loss.dpo_loss, dpo_trainer.dpo_loss_fn):
    gradient = nnx.value_and_grad(
      lambda model, loss=loss: loss(
        model, batch, algorithm="dpo", beta=0.3, label_smoothing=smoothing
      ),
      argnums=nnx.DiffState(0, kind),
      has_aux=True,
    )
    results.append(gradient(module))
  ((value, metrics), grads), ((expected, known), known_grads) = results
  assert float(value) == pytest.approx(float(expected), rel=1e-5)
  assert metrics.keys() == known.keys()
  for name in metrics:
    assert float(metrics[name]) == pytest.approx(float(known[name]), rel=1e-5)
  leaves = jax.tree.leaves(known_grads)
  assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-2
  for one, other in zip(jax.tree.leaves(grads), leaves, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_log_probabilities_of_answers():
  module, _ = make(False)
  batch = example(False)
  found = dpo_loss.sequence_log_probs(module, batch)
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
