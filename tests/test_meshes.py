"""Runs on two devices: where arrays are, and results that are one device's."""

import dataclasses
import shutil
from typing import Any

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
from tunix_ttt import errors
from tunix_ttt import runs
from tunix_ttt.evaluate import in_training
from tunix_ttt.models import checkpoints
from tunix_ttt.models import lora
from tunix_ttt.models import meshes
from tunix_ttt.models import specs
from tunix_ttt.models.hugging_face import loading
from tunix_ttt.train import dry_run
from tunix_ttt.train import grpo
from tunix_ttt.train import sft

ONE = config_lib.MeshConfig()
FSDP = config_lib.MeshConfig(fsdp=2)
TP = config_lib.MeshConfig(tp=2)
# Both divide all sizes of the model but its one head of keys and values.
KV = ("k_proj", "v_proj", "kv_einsum")


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
  outline = meshes.outline(config_lib.MeshConfig(fsdp=2, tp=2))
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
  "family", ["qwen2.5", "qwen3", "gemma", "gemma2", "gemma3"]
)
def test_every_array_is_split(family, mesh):
  changes: dict[str, Any] = {}
  if family in ("gemma2", "gemma3"):
    changes = {"sliding_window": 3, "layer_types": ("local", "global")}
  module = specs.initialize(conftest.small_spec(family, 64, **changes), 0)
  module = lora.apply_lora(
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
def on_one(tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "one"
  return sft.train(test_sft.CONFIG, path)


@pytest.mark.parametrize("mesh", [FSDP, TP])
def test_supervised_losses_are_one_devices(on_one, mesh, tmp_path):
  config = on(test_sft.CONFIG, mesh)
  run = sft.train(config, tmp_path / "run")
  rows_alike(test_sft.rows(run), test_sft.rows(on_one), 1e-4)
  assert_alike(run, on_one)
  assert runs.RunManifest.read(run).mesh == meshes.sizes(mesh)


def test_a_run_goes_on_on_other_devices(on_one, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(on_one, run)
  for mesh, step in ((FSDP, 3), (TP, 6), (ONE, 6)):
    sft.resume(on(test_sft.CONFIG, mesh), run, step)
    rows_alike(test_sft.rows(run), test_sft.rows(on_one), 1e-4)
    assert_alike(run, on_one)


@pytest.mark.parametrize(
  "mesh", [FSDP, pytest.param(TP, marks=pytest.mark.slow)]
)
def test_games_are_one_devices(mesh, tmp_path):
  config = dataclasses.replace(
    test_grpo.CONFIG,
    training=dataclasses.replace(test_grpo.CONFIG.training, max_steps=2),
    lora=config_lib.LoraConfig(rank=4),
  )
  one = grpo.train(config, in_training.Evaluator, tmp_path / "one")
  run = tmp_path / "run"
  grpo.train(on(config, mesh), in_training.Evaluator, run)
  rows_alike(test_grpo.rows(run), test_grpo.rows(one), 1e-2)
  games, expected = (
    (each / runs.ROLLOUTS).read_text().splitlines()[:2] for each in (run, one)
  )
  assert games == expected


@pytest.mark.parametrize(
  "mesh, changes, message",
  [
    ({"fsdp": 4}, {}, "fsdp 4 x tp 1 is 4 devices, and there are 2"),
    ({"fsdp": 2}, {"batch_size": 7}, "does not divide the 7 rows of training"),
    ({"tp": 3}, {}, "does not divide the model's 2 query heads"),
  ],
)
def test_devices_that_do_not_fit(mesh, changes, message, tmp_path):
  training = dataclasses.replace(test_sft.CONFIG.training, **changes)
  config = dataclasses.replace(
    test_sft.CONFIG, mesh=config_lib.MeshConfig(**mesh), training=training
  )
  with pytest.raises(errors.UserError, match=message):
    sft.train(config, tmp_path / "run")
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
  module, _ = loading.load(path, mesh=found)
  assert meshes.of(module) == found
  expected = specs.parameters(loading.load(path)[0])
  before = specs.parameters(module)
  places = {name: value.sharding for name, value in before.items()}
  assert any(not place.is_fully_replicated for place in places.values())
  # There is nothing left to move.
  meshes.place(module, found)
  for name, value in specs.parameters(module).items():
    assert value.sharding.is_equivalent_to(places[name], value.ndim)
    np.testing.assert_array_equal(value, expected[name])
