"""Packed batches: the same sequences, losses and gradients as unpacked ones."""

import dataclasses
import itertools
import shutil
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import dry_run
from tunix_ttt import recipes
from tunix_ttt.algorithms import losses
from tunix_ttt.data import batches
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.text import chat
from tunix_ttt.train import sft

VOCAB = 32
PAD = 0
LENGTHS = [3, 9, 5, 2, 6, 1, 4]


def sequences(lengths=LENGTHS):
  """Sequences whose first half is read; where it is one token, all is."""
  rng = np.random.default_rng(0)
  return [
    chat.Tokens(
      rng.integers(1, VOCAB, n).tolist(), [i >= n // 2 for i in range(n)]
    )
    for n in lengths
  ]


def packed(rows):
  layout = batches.find_layout([rows])
  # One row more than is needed.
  layout = dataclasses.replace(layout, rows=layout.rows + 1)
  supervised = sum(sum(row.loss_mask[1:]) for row in rows)
  return batches.make_batch(
    rows, layout=layout, pad_id=PAD, denominator=supervised, is_packed=True
  )


def padded(rows):
  supervised = sum(sum(row.loss_mask[1:]) for row in rows)
  layout = batches.Layout(rows=len(rows), length=12, predicted=11)
  return batches.make_batch(
    rows, layout=layout, pad_id=PAD, denominator=supervised
  )


def test_the_longest_go_first_and_each_where_it_leaves_the_least_room():
  # 9 and 1 fill a row, so do 6 and 4, and 5, 3 and 2.
  assert batches.bin_pack(LENGTHS, 10) == [[1, 5], [4, 6], [2, 0, 3]]
  assert batches.bin_pack([10, 10], 10) == [[0], [1]]
  assert batches.bin_pack([], 10) == []


def test_rows_hold_every_sequence_once_and_no_more_than_fits():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 50, 300).tolist()
  rows = batches.bin_pack(lengths, 60)
  assert sorted(itertools.chain(*rows)) == list(range(300))
  assert all(0 < sum(lengths[n] for n in row) <= 60 for row in rows)
  # No two rows could have been one.
  fullest = sorted(sum(lengths[n] for n in row) for row in rows)
  assert fullest[0] + fullest[1] > 60


def test_a_layout_fits_every_batch():
  short, long = sequences([4, 4, 4, 4]), sequences([8, 8, 8, 2])
  assert batches.find_layout([short]) == batches.Layout(
    rows=4, length=4, predicted=2
  )
  layout = batches.find_layout([short, long])
  assert layout == batches.Layout(rows=4, length=8, predicted=4)


def test_longer_rows_where_they_save_much():
  # One sequence of 2 in a row of 3, but three in one of 6.
  rows = sequences([3] + 29 * [2])
  layout = batches.find_layout([rows])
  assert layout == batches.Layout(rows=11, length=6, predicted=3)


def test_a_batch_is_its_sequences():
  rows = sequences()
  batch = packed(rows)
  ids, tokens = batch["segment_ids"], batch["input_tokens"]
  assert ids.shape[1] == 9 and not ids[-1].any()
  predicted = np.zeros(ids.shape, bool)
  np.put_along_axis(predicted, batch["places"], True, axis=1)
  # There 0 is no token.
  predicted[:, 0] = False
  for n, row in enumerate(rows):
    mask = ids == n + 1
    assert tokens[mask].tolist() == row.ids
    # The first token has no token before it to be predicted from.
    assert predicted[mask].tolist() == [False, *row.loss_mask[1:]]
  assert (batch["input_mask"] == (ids > 0)).all()
  assert (tokens[ids == 0] == PAD).all()
  assert not predicted[ids == 0].any()


def test_positions_start_anew_and_attention_stays_within():
  ids = jnp.asarray([[2, 2, 1, 3, 3, 3, 0]])
  positions, mask = losses.segment_inputs(ids)
  assert positions.tolist() == [[0, 1, 0, 0, 1, 2, 0]]
  expected = [
    [1, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 0, 0],
    [0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 1, 0, 0],
    [0, 0, 0, 1, 1, 1, 0],
    [0, 0, 0, 0, 0, 0, 1],
  ]
  assert mask[0].astype(int).tolist() == expected


def model(family: Any):
  """A model; Gemma's sliding window is shorter than the sequences."""
  changes: dict[str, Any] = {}
  if family in ("gemma2", "gemma3"):
    changes = {"sliding_window": 3, "layer_types": ("local", "global")}
  return specs.initialize(conftest.small_spec(family, VOCAB, **changes), 0)


def loss_and_gradient(module, batch, trained=nnx.Param):
  graph, values, rest = nnx.split(module, trained, ...)
  arrays = jax.tree.map(jnp.asarray, batch)

  @jax.jit
  def run(values):
    def loss(values):
      return losses.supervised_loss(
        nnx.merge(graph, values, rest), **losses.model_inputs(arrays)
      )

    return jax.value_and_grad(loss, has_aux=True)(values)

  return run(values)


def assert_equal(one, other):
  ((loss, metrics), gradient), ((loss2, metrics2), gradient2) = one, other
  assert float(loss) == pytest.approx(float(loss2), rel=1e-5)
  assert metrics["token_accuracy"] == metrics2["token_accuracy"]
  leaves = jax.tree.leaves(gradient2)
  assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-2
  for a, b in zip(jax.tree.leaves(gradient), leaves, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  "family",
  conftest.slow_but(
    ["gemma3"], ["qwen2.5", "qwen3", "gemma", "gemma2", "gemma3"]
  ),
)
def test_loss_and_gradient_are_the_unpacked_ones(family):
  rows, module = sequences(), model(family)
  assert_equal(
    loss_and_gradient(module, packed(rows)),
    loss_and_gradient(module, padded(rows)),
  )


@pytest.mark.slow
def test_an_adapters_gradient_is_the_unpacked_one():
  rows = sequences()
  module = specs.apply_lora(
    model("qwen2.5"), rank=2, alpha=4.0, target_modules="all-linear", seed=0
  )
  values = nnx.state(module, nnx.LoRAParam)
  # Half of an adapter starts at zero.
  nnx.update(module, jax.tree.map(lambda x: x + 0.05, values))
  assert_equal(
    loss_and_gradient(module, packed(rows), nnx.LoRAParam),
    loss_and_gradient(module, padded(rows), nnx.LoRAParam),
  )


def pair_batches():
  """Pairs as a packed batch and as a padded one."""
  rng = np.random.default_rng(1)
  rows = []
  for prompt, *answers in [(4, 3, 5), (2, 6, 1), (5, 2, 2)]:
    prompt_ids = rng.integers(1, VOCAB, prompt).tolist()
    for length in answers:
      answer = rng.integers(1, VOCAB, length).tolist()
      mask = [False] * prompt + [True] * length
      rows.append(chat.Tokens([*prompt_ids, *answer], mask))
  numbers = {"pairs": np.arange(3), "denominator": np.float32(3)}
  return {**packed(rows), **numbers}, {**padded(rows), **numbers}


@pytest.mark.parametrize(
  "settings",
  [
    {"algorithm": "dpo", "beta": 0.3},
    pytest.param(
      {"algorithm": "orpo", "lambda_orpo": 0.3}, marks=pytest.mark.slow
    ),
  ],
)
@pytest.mark.parametrize(
  "family", conftest.slow_but(["gemma3"], conftest.TWO_FAMILIES)
)
def test_pairs_have_the_unpacked_log_probabilities_and_gradient(
  family, settings
):
  module = model(family)
  graph, values = nnx.split(module)

  def run(batch):
    def loss(values, batch):
      module = nnx.merge(graph, values)
      loss, metrics = losses.preference_loss(
        module, batch, label_smoothing=0.1, **settings
      )
      return loss, (metrics, losses.pair_log_probs(module, batch))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(values, batch)

  ((loss, (metrics, sums)), gradient), other = map(run, pair_batches())
  (loss2, (metrics2, sums2)), gradient2 = other
  np.testing.assert_allclose(sums, sums2, rtol=1e-5)
  assert float(loss) == pytest.approx(float(loss2), rel=1e-5)
  for name in metrics:
    assert float(metrics[name]) == pytest.approx(
      float(metrics2[name]), rel=1e-4
    )
  for a, b in zip(*map(jax.tree.leaves, (gradient, gradient2)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


# Conversations differ in length.
CONFIG = dataclasses.replace(
  test_sft.CONFIG,
  data=dataclasses.replace(
    test_sft.CONFIG.data,
    games=config_lib.GamesConfig(num_games=60, context="full"),
    packing=True,
  ),
  training=dataclasses.replace(
    test_sft.CONFIG.training, gradient_accumulation_steps=2
  ),
)
UNPACKED = dataclasses.replace(
  CONFIG, data=dataclasses.replace(CONFIG.data, packing=False)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "packed"
  return recipes.train_sft(CONFIG, path)


def test_a_run_sees_the_same_sequences_in_batches_of_one_shape():
  prepared = sft.plan(CONFIG)
  pad_id = prepared.model.tokenizer.pad_id()

  def counts(config):
    train, held_out = batches.make(config, prepared.dataset, pad_id)
    return [
      (
        batch["input_mask"].sum(),
        batch["input_tokens"].sum(where=batch["input_mask"]),
        (batch["places"] > 0).sum(),
        batch["denominator"],
      )
      for batch in [*train, *held_out]
    ]

  assert counts(CONFIG) == counts(UNPACKED)
  train = list(batches.make(CONFIG, prepared.dataset, pad_id)[0])
  assert len(train) == 2 * test_sft.STEPS
  (shape,) = {batch["input_tokens"].shape for batch in train}
  # Of four rows each, as long as the longest.
  assert shape[0] * shape[1] < 4 * prepared.dataset.length
  text = dry_run.describe(CONFIG)
  assert f"packed into {2 * shape[0]} of {shape[1]} tokens" in text
  assert f"tokens   {2 * shape[0] * shape[1]:,} a step" in text


@pytest.mark.slow
def test_a_run_learns_what_it_would_have_without_packing(finished, tmp_path):
  unpacked = recipes.train_sft(UNPACKED, tmp_path / "unpacked")
  packed_rows, unpacked_rows = test_sft.rows(finished), test_sft.rows(unpacked)
  for row, expected in zip(packed_rows, unpacked_rows, strict=True):
    assert row.keys() == expected.keys()
    for name in row.keys() - {"split"}:
      assert row[name] == pytest.approx(expected[name], rel=1e-4), name
  a, b = (
    specs.parameters(checkpoints.load(run).module)
    for run in (finished, unpacked)
  )
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=2e-4)


@pytest.mark.slow
def test_resuming_ends_the_same(finished, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  recipes.resume(copy, CONFIG, step=3)
  assert test_sft.rows(copy) == test_sft.rows(finished)
  assert test_sft.final(copy) == test_sft.final(finished)
  assert test_sft.optimizer_state(copy) == test_sft.optimizer_state(finished)
