"""Feed-forward products whose derivatives are fast on a CPU.

JAX's derivative by a kernel is a product whose result is transposed. XLA moves the
transpose onto the operand, together with what computes it, and writes that against
the order of its inputs: a third of a training step of a small model. Here tokens
are one axis, over which a plain product adds up.
"""

from typing import Any

from flax import nnx
import jax


def use(module: nnx.Module) -> None:
  """Makes a model's feed-forward layers use `dot_general` of this module."""
  for _, part in nnx.iter_modules(module):
    if isinstance(part, nnx.Linear):
      part.dot_general = dot_general


def dot_general(
  inputs: jax.Array, kernel: jax.Array, _: Any, **options: Any
) -> jax.Array:
  """Returns `inputs` [..., D] times `kernel` [D, F], as `nnx.Linear` asks for."""
  assert not any(value is not None for value in options.values()), options
  return _product(inputs, kernel)


@jax.custom_vjp
def _product(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  return inputs @ kernel


def _forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
  return inputs @ kernel, (inputs, kernel)


def _derivatives(saved: Any, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  inputs, kernel = saved
  rows = inputs.reshape(-1, inputs.shape[-1])
  by_row = outputs.reshape(-1, outputs.shape[-1])
  last = outputs.ndim - 1
  return (
    # Not by a transposed kernel, which a mesh would gather once more.
    jax.lax.dot_general(outputs, kernel, (((last,), (1,)), ((), ()))),
    jax.lax.dot_general(rows, by_row, (((0,), (0,)), ((), ()))),
  )


_product.defvjp(_forward, _derivatives)
