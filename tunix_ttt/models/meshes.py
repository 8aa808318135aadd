"""Devices as a mesh, and where a model's arrays are on it.

The axes are Tunix's: rows and, crosswise, weights are split over `fsdp`; heads,
feed-forward layers and the vocabulary over `tp`. Where an array is split is
written on it by Tunix's model classes and by Qwix. Activations are split by
Tunix's `shard`, which a function of this module takes the place of.
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
# Modules with a function `shard`; Gemma 3 uses that of `sharding_utils`.
_OWNERS: tuple[Any, ...] = (gemma, qwen2, qwen3, sharding_utils)

with warnings.catch_warnings():
  # JAX has a newer way to say it, which Tunix does not know.
  warnings.simplefilter("ignore", DeprecationWarning)
  _CONTEXT = pxla.thread_resources


def sizes(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns how many devices the trainer has along each axis, there or not."""
  fsdp = config.fsdp
  if fsdp == "auto":
    fsdp = jax.device_count() // config.tp
    if config.layout == "split":
      theirs = config.rollout_fsdp
      fsdp = fsdp // 2 if theirs is None else fsdp - theirs
  return {FSDP: max(fsdp, 1), TP: config.tp}


def sampler_sizes(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns how many devices the sampler has along each axis."""
  shared = sizes(config)
  return {**shared, FSDP: config.rollout_fsdp or shared[FSDP]}


def described(config: config_lib.MeshConfig) -> dict[str, int]:
  """Returns the sizes that a manifest has of a mesh."""
  found = sizes(config)
  if config.layout == "split":
    found["rollout_fsdp"] = sampler_sizes(config)[FSDP]
  return found


def count(config: config_lib.MeshConfig) -> int:
  """Returns how many devices a run has."""
  of_all = math.prod(sizes(config).values())
  if config.layout == "split":
    of_all += math.prod(sampler_sizes(config).values())
  return of_all


def outline(sizes: dict[str, int]) -> jax.sharding.AbstractMesh:
  """Returns a mesh of devices that need not be there."""
  return jax.sharding.AbstractMesh((*sizes.values(),), (*sizes,))


def make(config: config_lib.MeshConfig) -> Mesh | None:
  """Returns the first devices as the trainer's mesh; None for a single one.

  Raises:
    errors.UserError: if there are not as many as the config has.
  """
  shape, devices = sizes(config), jax.devices()
  if count(config) > len(devices):
    needed = f"fsdp {shape[FSDP]} x tp {shape[TP]}"
    advice = "make it smaller, or say fsdp: auto"
    if config.layout == "split":
      theirs = sampler_sizes(config)[FSDP]
      needed += f" and, for the sampler, {theirs} x {shape[TP]}"
      advice = "make it smaller, or say layout: colocated"
    raise errors.UserError(
      f"mesh: {needed} is {count(config)} devices, and there"
      f" {'is' if len(devices) == 1 else 'are'} {len(devices)}"
      f" ({devices[0].device_kind}); {advice}"
    )
  _check_processes(config)
  if math.prod(shape.values()) == 1:
    return None
  return _grid(devices, shape)


def _check_processes(config: config_lib.MeshConfig) -> None:
  """Raises a UserError if a process would have no part in a run."""
  processes, devices = jax.process_count(), jax.device_count()
  if processes > 1 and config.layout == "split":
    raise errors.UserError(
      "mesh.layout: split is for a single process; with several, say colocated"
    )
  if processes > 1 and count(config) < devices:
    raise errors.UserError(
      f"mesh: {count(config)} of the {devices} devices of {processes} processes"
      " would be used, and each must have a part; say fsdp: auto"
    )


def make_for_sampler(config: config_lib.MeshConfig) -> Mesh | None:
  """Returns the sampler's own devices as a mesh; None if it has none."""
  if config.layout != "split":
    return None
  first = math.prod(sizes(config).values())
  return _grid(jax.devices()[first:], sampler_sizes(config))


def _grid(devices: list[Any], shape: dict[str, int]) -> Mesh:
  some = np.array(devices[: math.prod(shape.values())])
  return Mesh(some.reshape(*shape.values()), (*shape,))


def of(node: Any) -> Mesh | None:
  """Returns the mesh that a module's arrays are on; None for a single device."""
  for value in jax.tree.leaves(nnx.state(node)):
    sharding = value.sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
      return sharding.mesh
  return None


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
  """A context in which Tunix's models split activations over a mesh."""
  with contextlib.ExitStack() as stack:
    if mesh is not None:
      with warnings.catch_warnings():
        # JAX has a newer way to say it, which Tunix does not know.
        warnings.simplefilter("ignore", DeprecationWarning)
        stack.enter_context(mesh)
      for owner in _OWNERS:
        stack.callback(setattr, owner, "shard", owner.shard)
        owner.shard = _shard
    yield


def check(config: config_lib.SFTConfig, spec: specs.ModelSpec) -> None:
  """Raises a UserError if rows or heads cannot be split over a config's mesh."""
  shape = sizes(config.mesh)
  fsdp, tp = shape[FSDP], shape[TP]
  training = config.training
  theirs = sampler_sizes(config.mesh)[FSDP]
  for axis, size, name, rows in (
    (
      FSDP,
      fsdp,
      "training.batch_size / training.gradient_accumulation_steps",
      training.batch_size // training.gradient_accumulation_steps,
    ),
    (FSDP, fsdp, "play.batch_size", config.play.batch_size),
    ("rollout_fsdp", theirs, "training.batch_size", training.batch_size),
  ):
    if rows % size:
      raise errors.UserError(
        f"mesh.{axis}: {size} does not divide the {rows} rows of {name}"
      )
  heads, kv_heads = spec.num_heads, spec.num_kv_heads
  if heads % tp or (kv_heads % tp and tp % kv_heads):
    fitting = [
      n
      for n in range(1, heads + 1)
      if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    raise errors.UserError(
      f"mesh.tp: {tp} does not divide the model's {heads} query heads with"
      f" {kv_heads} heads of keys and values; possible are"
      f" {', '.join(map(str, fitting))}"
    )


def partition(
  spec: Any, shape: tuple[int, ...], mesh: Mesh | jax.sharding.AbstractMesh
) -> PartitionSpec:
  """Returns which axis each dimension is split over.

  A dimension that an axis does not divide, as that of fewer heads of keys and
  values than devices, stays whole: each device has all of it.

  Args:
    spec: what Tunix would have; None for nothing.
    shape: Shape of the array.
    mesh: with the axes.
  """
  axes = [*(spec or ())][: len(shape)]
  axes += [None] * (len(shape) - len(axes))
  found = []
  for size, axis in zip(shape, axes, strict=True):
    known = axis if axis in mesh.shape else None
    divides = known is not None and size % mesh.shape[known] == 0
    found.append(known if divides else None)
  return PartitionSpec(*found)


def shardings(state: Any, mesh: Mesh | jax.sharding.AbstractMesh) -> Any:
  """Returns where each array of a state goes, in the state's own structure."""
  wanted = nnx.get_partition_spec(state)

  def place(value: Any, spec: Any) -> NamedSharding:
    return NamedSharding(mesh, partition(spec, value.shape, mesh))

  return jax.tree.map(place, state, wanted)


def held(state: Any, mesh: jax.sharding.AbstractMesh) -> int:
  """Returns how many numbers of a state each device has."""
  shapes = jax.tree.map(
    lambda value, sharding: math.prod(sharding.shard_shape(value.shape)),
    state,
    shardings(state, mesh),
  )
  return sum(jax.tree.leaves(shapes))


def place(node: Any, mesh: Mesh | None) -> None:
  """Moves the arrays of a module or an optimizer to where they belong."""
  if mesh is not None:
    mark(node, mesh)
    state = nnx.state(node)
    nnx.update(node, jax.tree.map(_put, state, shardings(state, mesh)))


def _put(value: jax.Array, sharding: NamedSharding) -> jax.Array:
  is_whole = value.is_fully_addressable or value.is_fully_replicated
  if jax.process_count() == 1 or not is_whole:
    return jax.device_put(value, sharding)
  # Each process has the whole of it. JAX's own way makes an array that cannot
  # be saved, where it is to be whole on all devices.
  whole = np.asarray(value)
  return jax.make_array_from_callback(value.shape, sharding, whole.__getitem__)


def copy(module: nnx.Module, mesh: Mesh) -> nnx.Module:
  """Returns the same model on other devices."""
  other = nnx.clone(module)
  place(other, mesh)
  return other


def mark(node: Any, mesh: Mesh) -> None:
  """Writes on a module's arrays where they belong, as far as axes divide them.

  By that Tunix reads weights, and makes and restores its optimizer.
  """
  for _, variable in nnx.iter_graph(node):
    if isinstance(variable, nnx.Variable):
      wanted = variable.get_metadata().get("out_sharding")
      found = partition(wanted, variable.get_value().shape, mesh)
      variable.set_metadata(out_sharding=tuple(found))


def feed(tree: Any, mesh: Mesh | None) -> Any:
  """Splits the rows of a batch over the devices of several processes.

  Of a single process Tunix does it, and nothing is done here.

  Args:
    tree: Arrays [B, ...] on the host, the same on all processes, each of
      which takes the rows of its own devices; a scalar goes to all.
    mesh: None where there is one device.
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
  """Returns arrays on the host, whole on every process."""

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
  """Splits arrays inside a compiled program, as far as their sizes allow.

  Args:
    tree: A tree of arrays.
    mesh: None leaves them as they are.
    *axes: Mesh axes of the arrays' first dimensions.
  """
  if mesh is None:
    return tree

  def one(leaf: jax.Array) -> jax.Array:
    spec = partition(axes[: leaf.ndim], leaf.shape, mesh)
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

  return jax.tree.map(one, tree)


def _shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
  """Splits an activation over the mesh that Tunix is in, if any.

  Tunix's own function does nothing on CPUs, where the compiler then splits
  activations in other ways than on accelerators. On those it has no regard for
  sizes: heads that `tp` does not divide are an error or, in compiled programs,
  padded, at the price of adding up whole caches at each token.
  """
  mesh = _CONTEXT.env.physical_mesh
  return constrain(x, None if mesh.empty else mesh, *axes)


def split_rows(x: jax.Array) -> jax.Array:
  """Splits the rows of an activation over the mesh of `use`, if any."""
  return _shard(x, (FSDP,))
