"""Makes device meshes and shards models over them.

The axes are Tunix's: `fsdp` splits rows and one dimension of the weights, `tp`
splits heads, feed-forward layers and the vocabulary. Tunix's model classes and
Qwix annotate each array with its sharding. Within `use`, a function of this
module replaces Tunix's `shard`, which splits activations.
"""

from collections.abc import Iterator
import contextlib
import math
from typing import Any
import warnings

from flax import nnx
import jax
from jax.experimental import multihost_utils
from jax.interpreters import pxla
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
from tunix.models.gemma import model as gemma
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3
from tunix.utils import sharding_utils

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.models.families import specs

FSDP, TP = "fsdp", "tp"
# Modules with a function `shard`; Gemma 3 uses `sharding_utils.shard`.
_SHARD_OWNERS: tuple[Any, ...] = (gemma, qwen2, qwen3, sharding_utils)
# Of a device. More are no faster on a CPU, whose caches they do not fit into.
_MAX_ROWS = 128

with warnings.catch_warnings():
  # Tunix does not know the replacement of this deprecated name.
  warnings.simplefilter("ignore", DeprecationWarning)
  _CONTEXT = pxla.thread_resources


def sizes(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns the number of the trainer's devices along each axis."""
  fsdp = config.fsdp
  if fsdp == "auto":
    fsdp = jax.device_count() // config.tp
    if config.layout == "split":
      sampler = config.rollout_fsdp
      fsdp = fsdp // 2 if sampler is None else fsdp - sampler
  return {FSDP: max(fsdp, 1), TP: config.tp}


def sampler_sizes(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns the number of the sampler's devices along each axis."""
  trainer = sizes(config)
  return {**trainer, FSDP: config.rollout_fsdp or trainer[FSDP]}


def manifest_sizes(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns the sizes of a mesh for a manifest."""
  result = sizes(config)
  if config.layout == "split":
    result["rollout_fsdp"] = sampler_sizes(config)[FSDP]
  return result


def count(config: config_lib.MeshConfig) -> int:
  """Returns the number of devices of a run."""
  total = math.prod(sizes(config).values())
  if config.layout == "split":
    total += math.prod(sampler_sizes(config).values())
  return total


def outline(sizes: dict[str, int]) -> jax.sharding.AbstractMesh:
  """Returns a mesh of devices that need not exist."""
  return jax.sharding.AbstractMesh((*sizes.values(),), (*sizes,))


def make(config: config_lib.MeshConfig) -> Mesh | None:
  """Returns the first devices as the trainer's mesh; None for a single one.

  Raises:
    errors.UserError: if there are fewer devices than the config needs.
  """
  shape, devices = sizes(config), jax.devices()
  if count(config) > len(devices):
    needed = f"fsdp {shape[FSDP]} x tp {shape[TP]}"
    advice = "make it smaller, or set fsdp: auto"
    if config.layout == "split":
      sampler = sampler_sizes(config)[FSDP]
      needed += f" and, for the sampler, {sampler} x {shape[TP]}"
      advice = "make it smaller, or set layout: colocated"
    raise errors.UserError(
      f"mesh: {needed} is {count(config)} devices, and there"
      f" {'is' if len(devices) == 1 else 'are'} {len(devices)}"
      f" ({devices[0].device_kind}); {advice}"
    )
  processes = jax.process_count()
  if processes > 1 and config.layout == "split":
    raise errors.UserError(
      "mesh.layout: split needs a single process; set layout: colocated"
    )
  if processes > 1 and count(config) < len(devices):
    raise errors.UserError(
      f"mesh: {count(config)} of the {len(devices)} devices of {processes}"
      " processes would be used, but a run must use all; set fsdp: auto"
    )
  return _grid(devices, shape) if math.prod(shape.values()) > 1 else None


def make_for_sampler(config: config_lib.MeshConfig) -> Mesh | None:
  """Returns the sampler's own devices as a mesh; None if it has none."""
  if config.layout != "split":
    return None
  first = math.prod(sizes(config).values())
  return _grid(jax.devices()[first:], sampler_sizes(config))


def _grid(devices: list[Any], shape: dict[str, int]) -> Mesh:
  array = np.array(devices[: math.prod(shape.values())])
  return Mesh(array.reshape(*shape.values()), (*shape,))


def of(node: Any) -> Mesh | None:
  """Returns the mesh of a module's arrays; None for a single device."""
  for value in jax.tree.leaves(nnx.state(node)):
    sharding = value.sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
      return sharding.mesh
  return None


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
  """Makes Tunix's models split activations over a mesh within a context."""
  with contextlib.ExitStack() as stack:
    if mesh is not None:
      with warnings.catch_warnings():
        # Tunix does not know the replacement of this deprecated context.
        warnings.simplefilter("ignore", DeprecationWarning)
        stack.enter_context(mesh)
      for owner in _SHARD_OWNERS:
        stack.callback(setattr, owner, "shard", owner.shard)
        owner.shard = shard
    yield


@contextlib.contextmanager
def in_restore() -> Iterator[None]:
  """Makes Tunix restore an optimizer's state by `shardings` within a context.

  It asks Flax, whose function fails on what Muon leaves out.
  """
  original = nnx.get_named_sharding
  nnx.get_named_sharding = shardings
  try:
    yield
  finally:
    nnx.get_named_sharding = original


def check(config: config_lib.SFTConfig, spec: specs.ModelSpec) -> None:
  """Raises a UserError if a config's mesh cannot split the rows or heads."""
  shape = sizes(config.mesh)
  fsdp, tp = shape[FSDP], shape[TP]
  sampler = sampler_sizes(config.mesh)[FSDP]
  rows = config.training.batch_size
  parts = config.training.gradient_accumulation_steps
  per_part = "training.batch_size / training.gradient_accumulation_steps"
  for axis, size, name, divided in (
    (FSDP, fsdp, per_part, rows // parts),
    (FSDP, fsdp, "play.batch_size", config.play.batch_size),
    ("rollout_fsdp", sampler, "training.batch_size", rows),
  ):
    if divided % size:
      raise errors.UserError(
        f"mesh.{axis}: {size} does not divide the {divided} rows of {name}"
      )
  heads, kv_heads = spec.num_heads, spec.num_kv_heads
  if heads % tp or (kv_heads % tp and tp % kv_heads):
    supported = [
      n
      for n in range(1, heads + 1)
      if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    raise errors.UserError(
      f"mesh.tp: {tp} does not divide the model's {heads} query heads with"
      f" {kv_heads} key-value heads; supported are"
      f" {', '.join(map(str, supported))}"
    )


def rows_at_once(config: config_lib.GRPOConfig) -> int:
  """Returns the number of rows of games that are trained at once.

  A micro-batch is split evenly, as are its parts over the devices.
  """
  training, fsdp = config.training, sizes(config.mesh)[FSDP]
  rows = training.batch_size // training.gradient_accumulation_steps
  parts = -(-rows // (_MAX_ROWS * fsdp))
  return -(-rows // (parts * fsdp)) * fsdp


def partition(
  spec: Any, shape: tuple[int, ...], mesh: Mesh | jax.sharding.AbstractMesh
) -> PartitionSpec:
  """Returns the mesh axis that each dimension is split over.

  A dimension whose size the axis does not divide is replicated, such as
  key-value heads that are fewer than the devices.
  """
  axes = (*(spec or ()), *(None for _ in shape))
  return PartitionSpec(
    *(
      axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
      for size, axis in zip(shape, axes, strict=False)
    )
  )


def shardings(state: Any, mesh: Mesh | jax.sharding.AbstractMesh) -> Any:
  """Returns the sharding of each array of a state, as a tree."""

  def of_variable(variable: Any) -> Any:
    spec = variable.get_metadata().get("out_sharding")
    # Muon's state has no array where Adam's has one, and the reverse.
    places = jax.tree.map(
      lambda value: NamedSharding(mesh, partition(spec, value.shape, mesh)),
      variable.get_value(),
    )
    return variable.replace(places)

  return jax.tree.map(
    of_variable, state, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )


def numbers_per_device(state: Any, mesh: jax.sharding.AbstractMesh) -> int:
  """Returns how many numbers of a state each device holds."""
  values, places = map(jax.tree.leaves, (state, shardings(state, mesh)))
  return sum(
    math.prod(sharding.shard_shape(value.shape))
    for value, sharding in zip(values, places, strict=True)
  )


def place(node: Any, mesh: Mesh | None) -> None:
  """Moves the arrays of a module or an optimizer onto a mesh."""
  if mesh is None:
    return
  mark(node, mesh)
  state = nnx.state(node)

  def put(value: jax.Array, sharding: NamedSharding) -> jax.Array:
    is_whole = value.is_fully_addressable or value.is_fully_replicated
    if jax.process_count() == 1 or not is_whole:
      return jax.device_put(value, sharding)
    # Each process has the whole array. `device_put` would make replicated
    # arrays that Orbax cannot save.
    get = np.asarray(value).__getitem__
    return jax.make_array_from_callback(value.shape, sharding, get)

  nnx.update(node, jax.tree.map(put, state, shardings(state, mesh)))


def copy(module: nnx.Module, mesh: Mesh) -> nnx.Module:
  """Returns a copy of a model on another mesh."""
  other = nnx.clone(module)
  place(other, mesh)
  return other


def mark(node: Any, mesh: Mesh) -> None:
  """Annotates a module's arrays with shardings that divide their sizes.

  Tunix uses the annotations to load weights, and to make and restore its
  optimizer.
  """
  for _, variable in nnx.iter_graph(node):
    if isinstance(variable, nnx.Variable) and jax.tree.leaves(variable):
      spec = variable.get_metadata().get("out_sharding")
      divided = partition(spec, variable.get_value().shape, mesh)
      variable.set_metadata(out_sharding=tuple(divided))


def feed(tree: Any, mesh: Mesh | None) -> Any:
  """Splits the rows of a batch over the devices of several processes.

  The arrays [B, ...] are on the host and equal on all processes; scalars are
  replicated. Tunix itself splits the rows of a single process.
  """
  if mesh is None or jax.process_count() == 1:
    return tree

  def one(value: Any) -> jax.Array:
    rows = PartitionSpec(FSDP) if value.ndim else PartitionSpec()
    return jax.make_array_from_callback(
      value.shape, NamedSharding(mesh, rows), value.__getitem__
    )

  return jax.tree.map(one, tree)


def fetch(tree: Any) -> Any:
  """Returns whole arrays on the host of every process."""

  def one(value: Any) -> Any:
    if isinstance(value, jax.Array) and not (
      value.is_fully_addressable or value.is_fully_replicated
    ):
      return multihost_utils.process_allgather(value, tiled=True)
    return jax.device_get(value)

  if jax.process_count() == 1:
    return jax.device_get(tree)
  return jax.tree.map(one, tree)


def constrain(tree: Any, mesh: Mesh | None, *axes: str | None) -> Any:
  """Splits the first dimensions of arrays inside a compiled program.

  A dimension whose size its axis does not divide is replicated.
  """
  if mesh is None:
    return tree

  def one(leaf: jax.Array) -> jax.Array:
    spec = partition(axes[: leaf.ndim], leaf.shape, mesh)
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

  return jax.tree.map(one, tree)


def shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
  """Splits an activation over the mesh of `use`, if any.

  Tunix's own function does nothing on CPUs, so that the compiler splits
  activations differently than on accelerators. On accelerators it ignores
  sizes: heads that `tp` does not divide raise an error or, in compiled
  programs, are padded, and then whole caches are summed for each token.
  """
  mesh = _CONTEXT.env.physical_mesh
  return constrain(x, None if mesh.empty else mesh, *axes)
