"""Batches of preference pairs, and their reference log-probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.models.families import specs
from tunix_ttt.train import reference_log_probs


def pairs(count=10):
  """Prompts and answers of different lengths."""
  samples = [
    row_formats.Preference(f"ask {n}" + "!" * n, f"good {n}", "bad" + "?" * n)
    for n in range(count)
  ]
  return datasets.Pairs(key="k", path="p", digest="d", samples=samples)


def dataset(tokenizer, **settings):
  config = config_lib.DataConfig(eval_fraction=0.2, **settings)
  return datasets.tokenize(pairs(), tokenizer, config, 0)


def test_a_batch_has_both_answers_of_each_pair(tokenizer):
  data = dataset(tokenizer)
  assert (len(data.train), len(data.eval)) == (8, 2)
  assert data.dropped_too_long == 0
  first, second, last = batches.ordered_parts(data.train, 3)
  assert first.numbers.tolist() == [0, 1, 2]
  assert second.numbers.tolist() == [3, 4, 5]
  assert last.numbers.tolist() == [6, 7, -1]
  for part in (first, second, last):
    assert part.denominator == 8 / 3
  rows = last.sequences
  assert rows == [*data.train[6], *data.train[7]]
  for chosen, rejected in data.train:
    start = chosen.loss_mask.index(True)
    assert start == rejected.loss_mask.index(True) > 0
    assert chosen.ids[:start] == rejected.ids[:start]
    # The end of an answer is part of it.
    assert chosen.ids[-1] == rejected.ids[-1] == tokenizer.eos_id()
    assert all(chosen.loss_mask[start:] + rejected.loss_mask[start:])


def test_pairs_that_are_too_long(tokenizer):
  lengths = [
    max(len(row.ids) for row in pair) for pair in dataset(tokenizer).train
  ]
  assert dataset(tokenizer).length >= max(lengths)
  limit = sorted(lengths)[3]
  assert dataset(tokenizer, max_seq_length=limit).dropped_too_long > 0
  with pytest.raises(errors.UserError, match="p: every row is longer than"):
    dataset(tokenizer, max_seq_length=3)


def test_every_epoch_has_all_pairs(tokenizer):
  data = dataset(tokenizer)
  parts = batches.train_parts(data, batch_size=4, seed=1)
  rows = [part.numbers.tolist() for part in itertools.islice(parts, 4)]
  assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == [*range(8)]
  assert rows[0] + rows[1] != rows[2] + rows[3]


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_reference_has_a_number_for_each_answer(tokenizer, is_packed):
  data = dataset(tokenizer)
  spec = conftest.small_spec("qwen2.5", tokenizer.vocab_size)
  module = specs.initialize(spec, 0)
  config = config_lib.DPOConfig(
    data=config_lib.DataConfig(path="p", packing=is_packed),
    training=config_lib.TrainingConfig(batch_size=3),
  )
  every = batches.in_order(config, data, data.train, 0)
  reference = reference_log_probs.log_probs(module, every, 8)
  assert reference.shape == (2, 8)
  # Attention is causal, so the padding after a sequence needs no mask.
  rows = list(itertools.chain.from_iterable(data.train))
  shape = len(rows), data.length
  ids, supervised = np.zeros(shape, int), np.zeros(shape, bool)
  for i, row in enumerate(rows):
    ids[i, : len(row.ids)] = row.ids
    supervised[i, : len(row.ids)] = row.loss_mask
  length = shape[1]
  positions = np.broadcast_to(np.arange(length), shape)
  causal = np.broadcast_to(np.tri(length, dtype=bool), (*shape, length))
  logits, _ = jax.jit(lambda *inputs: module(*inputs))(
    jnp.asarray(ids), jnp.asarray(positions), None, jnp.asarray(causal)
  )
  of_tokens = jnp.take_along_axis(
    jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(ids)[:, 1:, None], axis=-1
  )[..., 0]
  sums = (np.asarray(of_tokens) * supervised[:, 1:]).sum(axis=1)
  np.testing.assert_allclose(reference, sums.reshape(-1, 2).T, rtol=1e-4)
  batch = {"pairs": np.asarray([6, 1])}
  (attached,) = reference_log_probs.attach([batch], reference)
  np.testing.assert_array_equal(attached["reference"], reference[:, [6, 1]].T)
