"""Measures what a machine's memory and arithmetic can do at the most."""

from collections.abc import Callable
import time
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.models.families import specs


class Ceilings(NamedTuple):
  """Speeds that no program exceeds.

  Attributes:
    bytes_per_second: Bandwidth of memory, reads and writes together.
    flops_per_second: Operations of bfloat16 products of matrices.
  """

  bytes_per_second: float
  flops_per_second: float


def seconds(function: Callable[[], Any], repeats: int) -> float:
  """Returns the median time of a call, after one that compiles."""
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - began)
  return float(np.median(times))


def ceilings(repeats: int) -> Ceilings:
  """Measures a large copy and a large product of matrices."""
  is_cpu = jax.default_backend() == "cpu"
  values = jnp.ones((2**24 if is_cpu else 2**29,), jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  size = 1024 if is_cpu else 8192
  matrix = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(lambda a, b: a @ b)
  return Ceilings(
    2 * values.nbytes / seconds(lambda: copy(values), repeats),
    2 * size**3 / seconds(lambda: product(matrix, matrix), repeats),
  )


def random_model(spec: specs.ModelSpec) -> nnx.Module:
  """Returns a model of normal values, made on the device."""
  abstract = nnx.eval_shape(spec.build)
  draw = jax.jit(
    lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype),
    static_argnums=(1, 2),
  )
  values = {
    name: draw(
      streams.key(0, streams.Stream.MODEL_VALUES, n), leaf.shape, leaf.dtype
    )
    for n, (name, leaf) in enumerate(specs.parameters(abstract).items())
  }
  return specs.with_parameters(abstract, values)
