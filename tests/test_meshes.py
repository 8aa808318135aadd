"""Runs on two devices: where arrays are, and results that are one device's."""

import dataclasses
import shutil
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from tunix.models.gemma import model as gemma
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3
from tunix.utils import sharding_utils

from tests import conftest
from tests import test_grpo
from tests import test_hugging_face
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import dry_run
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import game_rollout
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import trainer as trainer_lib

ONE = config_lib.MeshConfig()
FSDP = config_lib.MeshConfig(fsdp=2)
TP = config_lib.MeshConfig(tp=2)
SPLIT = config_lib.MeshConfig(layout="split")
# Both divide all sizes of the model but its one head of keys and values.
KV = ("k_proj", "v_proj", "kv_einsum")


def slow_but_fsdp(*others):
  return [
    FSDP,
    *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in others),
  ]


def on(config, mesh):
  return dataclasses.replace(config, mesh=mesh)


def test_sizes_and_devices():
  assert meshes.sizes(ONE) == {"fsdp": 1, "tp": 1}
  assert meshes.make(ONE) is None
  auto = config_lib.MeshConfig(fsdp="auto")
  assert meshes.sizes(auto) == {"fsdp": 2, "tp": 1}
  found = meshes.make(TP)
  assert found is not None and dict(found.shape) == {"fsdp": 1, "tp": 2}
  assert found.devices.ravel().tolist() == jax.devices()
  assert meshes.make(SPLIT) is meshes.make_for_sampler(ONE) is None
  theirs = meshes.make_for_sampler(SPLIT)
  assert theirs is not None and theirs.devices.tolist() == [[jax.devices()[1]]]


@pytest.mark.parametrize(
  "devices, settings, trainer, sampler",
  [
    (8, {}, 4, 4),
    (8, {"tp": 2}, 2, 2),
    (8, {"rollout_fsdp": 6}, 2, 6),
    (3, {}, 1, 1),
    (1, {}, 1, 1),
  ],
)
def test_devices_are_shared_out(
  devices, settings, trainer, sampler, monkeypatch
):
  monkeypatch.setattr(jax, "device_count", lambda: devices)
  config = config_lib.MeshConfig(fsdp="auto", layout="split", **settings)
  assert meshes.sizes(config)["fsdp"] == trainer
  assert meshes.sampler_sizes(config)["fsdp"] == sampler


@pytest.mark.parametrize(
  "spec, shape, expected",
  [
    (("fsdp", "tp"), (4, 6), P("fsdp", "tp")),
    (("fsdp", "tp", None), (4, 1, 6), P("fsdp", None, None)),
    (("tp",), (3,), P(None)),
    (None, (4, 4), P(None, None)),
    (("sp", "fsdp"), (4, 4), P(None, "fsdp")),
  ],
)
def test_what_an_axis_does_not_divide_stays_whole(spec, shape, expected):
  outline = meshes.outline({"fsdp": 2, "tp": 2})
  assert meshes.partition(spec, shape, outline) == expected


@pytest.mark.parametrize("owner", [gemma, qwen2, qwen3, sharding_utils])
def test_activations_are_split_as_far_as_axes_divide_them(owner):
  axes = ("fsdp", None, "tp", None)
  activations = jnp.zeros((3, 5, 2, 4))
  assert owner.shard(activations, axes) is activations
  with meshes.use(meshes.make(TP)):
    assert owner.shard(activations, axes).sharding.spec == P(*axes)
    (one, _) = owner.shard(activations[:, :, :1], axes).addressable_shards
    assert one.data.shape == (3, 5, 1, 4)
  with meshes.use(meshes.make(FSDP)):
    (one, _) = owner.shard(activations, axes).addressable_shards
    assert one.data.shape == activations.shape
    (one, _) = owner.shard(activations[:2], axes).addressable_shards
    assert one.data.shape == (1, 5, 2, 4)


@pytest.mark.parametrize("mesh", [FSDP, TP])
@pytest.mark.parametrize(
  "family",
  conftest.slow_but(
    conftest.TWO_FAMILIES, ["qwen2.5", "qwen3", "gemma", "gemma2", "gemma3"]
  ),
)
def test_every_array_is_split(family, mesh):
  changes: dict[str, Any] = {}
  if family in ("gemma2", "gemma3"):
    changes = {"sliding_window": 3, "layer_types": ("local", "global")}
  module = specs.initialize(conftest.small_spec(family, 64, **changes), 0)
  module = specs.apply_lora(
    module, rank=2, alpha=4.0, target_modules="all-linear", seed=0
  )
  before = jax.tree.map(np.asarray, specs.parameters(module))
  found = meshes.make(mesh)
  meshes.place(module, found)
  assert meshes.of(module) == found
  whole = set()
  for name, value in specs.parameters(module).items():
    np.testing.assert_array_equal(value, before[name])
    if value.sharding.is_fully_replicated:
      whole.add(name)
    else:
      (shard, other) = value.addressable_shards
      assert shard.data.size == other.data.size == value.size // 2
  # Norms, biases and halves of adapters, of which the other axis splits one
  # dimension alone, are the only ones that both devices have.
  for name in whole:
    size = before[name].size
    is_kv = any(part in name for part in KV)
    is_small = any(part in name for part in ("norm", "lora", "bias"))
    assert is_small or (mesh is TP and is_kv), name
    assert size <= 2 * 64 or is_kv


@pytest.mark.parametrize("mesh", slow_but_fsdp(TP))
def test_an_optimizer_is_split_as_what_it_trains(mesh, source, tmp_path):
  config = on(test_sft.CONFIG, mesh)
  model, _ = run_loop.adapt(
    reference_log_probs.base_model(config, source), config
  )
  (tmp_path / run_directory.METRICS).touch()
  trainer = trainer_lib.SFTTrainer(model.module, config, tmp_path)
  trainer.create_train_step_fn()
  whole = set()
  for _, value in nnx.to_flat_state(nnx.state(trainer.optimizer)):
    array = value.get_value()
    if array.sharding.is_fully_replicated:
      whole.add(array.shape)
    else:
      assert {shard.data.size for shard in array.addressable_shards} == {
        array.size // 2
      }
  expected = {
    value.shape
    for value in specs.parameters(model.module).values()
    if value.sharding.is_fully_replicated
  }
  # Besides how many steps were taken.
  assert whole - expected == {()}
  trainer.close()


def rows_alike(found, expected, tolerance=1e-5):
  assert len(found) == len(expected) > 0
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one.keys() - {"split"}:
      # A mean's rounding differs, and what is next to 0 has no more digits.
      assert one[name] == pytest.approx(other[name], rel=tolerance, abs=1e-6)


def assert_alike(run, other, tolerance=1e-4):
  a, b = (
    specs.parameters(checkpoints.load(each).module) for each in (run, other)
  )
  for name, value in a.items():
    np.testing.assert_allclose(value, b[name], atol=tolerance)


@pytest.fixture(scope="module")
def on_one(sft_run):
  return sft_run


@pytest.mark.parametrize("mesh", slow_but_fsdp(TP, SPLIT))
def test_supervised_losses_are_one_devices(on_one, mesh, tmp_path, capsys):
  config = on(test_sft.CONFIG, mesh)
  run = recipes.train_sft(config, tmp_path / "run")
  rows_alike(test_sft.rows(run), test_sft.rows(on_one), 1e-4)
  assert_alike(run, on_one)
  assert run_manifest.RunManifest.read(run).mesh == meshes.manifest_sizes(mesh)
  note = "note: 1 of 2 devices is used; the layout split is for GRPO"
  assert (note in capsys.readouterr().out) == (mesh is SPLIT)


def test_muon_on_devices(tmp_path):
  training = dataclasses.replace(
    test_sft.CONFIG.training, max_steps=2, optimizer="muon"
  )
  config = dataclasses.replace(
    test_sft.CONFIG,
    training=training,
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=1),
  )
  one, two = tmp_path / "one", tmp_path / "two"
  recipes.train_sft(config, one)
  recipes.train_sft(on(config, FSDP), two)
  rows_alike(test_sft.rows(two), test_sft.rows(one), 1e-4)
  recipes.resume(two, on(config, FSDP), step=1)
  rows_alike(test_sft.rows(two), test_sft.rows(one), 1e-4)


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(on_one, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(on_one, run)
  for mesh, step in ((FSDP, 3), (TP, 6), (ONE, 6)):
    recipes.resume(run, on(test_sft.CONFIG, mesh), step=step)
    rows_alike(test_sft.rows(run), test_sft.rows(on_one), 1e-4)
    assert_alike(run, on_one)


def games_config(mesh=ONE, **rollout):
  """Returns a run of three steps, with a checkpoint after the second."""
  return dataclasses.replace(
    test_grpo.CONFIG,
    training=dataclasses.replace(test_grpo.CONFIG.training, max_steps=3),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=2),
    rollout=dataclasses.replace(test_grpo.CONFIG.rollout, **rollout),
    lora=config_lib.LoraConfig(rank=4),
    mesh=mesh,
  )


def played(config, run):
  """Trains a run; its rows and the games that it wrote down."""
  recipes.train_grpo(config, run)
  return test_grpo.rows(run), (
    run / run_directory.ROLLOUTS
  ).read_text().splitlines()


@pytest.fixture(scope="module")
def games_on_one(tmp_path_factory):
  return played(games_config(), tmp_path_factory.mktemp("games") / "one")


def without(rows, *names):
  return [{k: v for k, v in row.items() if k not in names} for row in rows]


# What there is to say where the sampler has weights of its own.
CORRECTIONS = ("sampler_is/weight_mean", "sampler_is/share_cut")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [FSDP, SPLIT, TP])
def test_games_are_one_devices(games_on_one, mesh, tmp_path, capsys):
  rows, games = played(games_config(mesh), tmp_path / "run")
  note = "note: sampler and trainer wait for each other"
  assert (note in capsys.readouterr().out) == (mesh is SPLIT)
  one, expected = games_on_one
  rows_alike(without(rows, *CORRECTIONS), one, 1e-2)
  assert games == expected
  for row in rows:
    if mesh is SPLIT and row["split"] == "train":
      assert row["sampler_is/weight_mean"] == pytest.approx(1, abs=1e-5)
      assert row["log_ratio"] < 1e-5


@pytest.fixture(scope="module")
def a_step_ahead(tmp_path_factory):
  run = tmp_path_factory.mktemp("ahead") / "one"
  return run, *played(games_config(max_staleness=1), run)


@pytest.mark.slow
def test_a_step_ahead(games_on_one, a_step_ahead):
  one, expected = games_on_one
  _, rows, games = a_step_ahead
  trained = [row for row in rows if row["split"] == "train"]
  # Games of the first step and of that after the checkpoint have the weights
  # that they train; those between are played with the first weights.
  assert [row["log_ratio"] > 1e-4 for row in trained] == [False, True, False]
  assert trained[1]["sampler_is/weight_mean"] != 1
  assert games[:2] == expected[:2]
  first = next(row for row in one if row["split"] == "train")
  assert trained[0]["loss"] == pytest.approx(first["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_step_ahead_on_devices_of_its_own(a_step_ahead, tmp_path):
  _, rows, games = a_step_ahead
  path, config = tmp_path / "split", games_config(SPLIT, max_staleness=1)
  split, split_games = played(config, path)
  rows_alike(split, rows, 1e-2)
  assert split_games == games
  check_going_on(config, path, tmp_path / "run")


@pytest.mark.slow
def test_a_step_ahead_goes_on_as_it_was(a_step_ahead, tmp_path):
  config = games_config(max_staleness=1)
  check_going_on(config, a_step_ahead[0], tmp_path / "run")


def check_going_on(config, path, run):
  """Asserts that a copy of a run that goes on from step 2 ends as the run."""
  shutil.copytree(path, run)
  rows = test_grpo.rows(path)
  games = (path / run_directory.ROLLOUTS).read_text().splitlines()
  recipes.resume(run, config, step=2)
  assert test_grpo.rows(run) == rows
  assert (run / run_directory.ROLLOUTS).read_text().splitlines() == games
  a, b = (
    specs.parameters(checkpoints.load(each).module) for each in (run, path)
  )
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name])


def test_the_sampler_is_given_what_is_trained_alone(tmp_path):
  config = games_config(SPLIT)
  model, _ = run_loop.adapt(
    reference_log_probs.base_model(config, None), config
  )
  pool = opponent_pool.OpponentPool(config, tmp_path)
  rollout = game_rollout.GameRollout(model, config, pool)
  trained, played = model.module, rollout._module
  devices = jax.devices()

  def adapters_and_base(module):
    adapters = specs.parameters(module, nnx.LoRAParam)
    return adapters, {
      name: value
      for name, value in specs.parameters(module).items()
      if name not in adapters
    }

  def check():
    for module, device in ((trained, devices[0]), (played, devices[1])):
      for value in specs.parameters(module).values():
        assert value.devices() == {device}
    theirs = specs.parameters(played)
    for name, value in specs.parameters(trained).items():
      np.testing.assert_array_equal(value, theirs[name])

  check()
  _, base = adapters_and_base(played)
  adapters = nnx.state(trained, nnx.LoRAParam)
  nnx.update(trained, jax.tree.map(lambda value: value + 1, adapters))
  rollout.sync()
  check()
  for name, value in adapters_and_base(played)[1].items():
    assert value is base[name]


@pytest.mark.parametrize(
  "mesh, changes, message",
  [
    ({"fsdp": 4}, {}, "fsdp 4 x tp 1 is 4 devices, and there are 2"),
    ({"fsdp": 2}, {"batch_size": 7}, "does not divide the 7 rows of training"),
    ({"tp": 3}, {}, "does not divide the model's 2 query heads"),
    (
      {"fsdp": 2, "layout": "split"},
      {},
      "fsdp 2 x tp 1 and, for the sampler, 2 x 1 is 4 devices, and there are 2",
    ),
    (
      {"layout": "split", "rollout_fsdp": 5},
      {},
      "mesh.rollout_fsdp: 5 does not divide the 8 rows of training.batch_size",
    ),
  ],
)
def test_devices_that_do_not_fit(mesh, changes, message, tmp_path):
  training = dataclasses.replace(test_sft.CONFIG.training, **changes)
  config = dataclasses.replace(
    test_sft.CONFIG, mesh=config_lib.MeshConfig(**mesh), training=training
  )
  with pytest.raises(errors.UserError, match=message):
    recipes.train_sft(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_each_device_has():
  def weights(mesh):
    text = dry_run.describe(on(test_sft.CONFIG, mesh))
    (line,) = (line for line in text.splitlines() if "weights" in line)
    return text, float(line.split()[1])

  text, half = weights(FSDP)
  assert "mesh     fsdp 2 x tp 1; this machine has 2 x cpu" in text
  assert half == pytest.approx(weights(ONE)[1] / 2, rel=0.1)
  # Of a mesh that is not there, too.
  assert weights(config_lib.MeshConfig(fsdp=4))[1] < half


@pytest.mark.parametrize("mesh", [FSDP, TP])
@pytest.mark.parametrize("case", ["qwen2.5-untied", "gemma3"])
def test_weights_are_read_to_where_they_belong(case, mesh):
  path = test_hugging_face.FIXTURES / case
  found = meshes.make(mesh)
  module, _ = hub_loading.load(path, mesh=found)
  assert meshes.of(module) == found
  expected = specs.parameters(hub_loading.load(path)[0])
  before = specs.parameters(module)
  places = {name: value.sharding for name, value in before.items()}
  assert any(not place.is_fully_replicated for place in places.values())
  # There is nothing left to move.
  meshes.place(module, found)
  for name, value in specs.parameters(module).items():
    assert value.sharding.is_equivalent_to(places[name], value.ndim)
    np.testing.assert_array_equal(value, expected[name])
