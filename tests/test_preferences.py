"""Preference pairs as batches, and what the reference thinks of them."""

import itertools

import numpy as np
import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import datasets
from tunix_ttt.data import formats
from tunix_ttt.data import preferences
from tunix_ttt.models import specs
from tunix_ttt.train import preference_loss
from tunix_ttt.train import references


def pairs(count=10):
  """Prompts and answers of different lengths."""
  samples = [
    formats.Preference(f"ask {n}" + "!" * n, f"good {n}", "bad" + "?" * n)
    for n in range(count)
  ]
  return datasets.Pairs(key="k", path="p", digest="d", samples=samples)


def dataset(tokenizer, **settings):
  config = config_lib.DataConfig(eval_fraction=0.2, **settings)
  return preferences.tokenize(pairs(), tokenizer, config, 0)


def test_prompts_and_answers_are_taken_apart(tokenizer):
  found = dataset(tokenizer)
  assert (len(found.train), len(found.eval)) == (8, 2)
  assert found.dropped_too_long == 0
  batch = preferences.make_batch(found, found.train, [0, 3, 5], 0)
  for i, row in enumerate([0, 3, 5]):
    pair = found.train[row]
    assert batch.prompt_ids[i][batch.prompt_mask[i]].tolist() == pair.prompt
    assert batch.chosen_ids[i][batch.chosen_mask[i]].tolist() == pair.chosen
    assert batch.rejected_ids[i][batch.rejected_mask[i]].tolist() == (
      pair.rejected
    )
    # The end of an answer is part of it.
    assert pair.chosen[-1] == pair.rejected[-1] == tokenizer.eos_id()
  # Prompts end where answers begin.
  assert batch.prompt_mask[:, -1].all() and batch.chosen_mask[:, 0].all()


def test_pairs_that_are_too_long(tokenizer):
  lengths = [
    len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
    for pair in dataset(tokenizer).train
  ]
  limit = sorted(lengths)[3]
  assert dataset(tokenizer, max_seq_length=limit).dropped_too_long > 0
  with pytest.raises(errors.UserError, match="every pair is longer than"):
    dataset(tokenizer, max_seq_length=3)


def test_every_epoch_has_all_pairs(tokenizer):
  found = dataset(tokenizer)
  batches = preferences.train_batches(found, batch_size=4, pad_id=0, seed=1)
  rows = [b.rows.tolist() for b in itertools.islice(batches, 4)]
  assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == [*range(8)]
  assert rows[0] + rows[1] != rows[2] + rows[3]


def test_the_reference_has_a_number_for_each_answer(tokenizer):
  found = dataset(tokenizer)
  spec = conftest.small_spec("qwen2.5", tokenizer.vocab_size)
  module = specs.initialize(spec, 0)
  known = references.References(module, found, 3, 0)
  assert known.train.shape == (2, 8) and known.eval.shape == (2, 2)
  batch = preferences.make_batch(found, found.train, [6, 1], 0)
  example = references.train_example(batch)
  expected = np.stack(preference_loss.sequence_log_probs(module, example))
  np.testing.assert_allclose(known.train[:, [6, 1]], expected, rtol=1e-4)
  (attached,) = references.attach([batch], known.train)
  np.testing.assert_array_equal(
    attached.ref_chosen_logps, known.train[0, [6, 1]]
  )
