"""Assertions about batches of games, and comparisons of pytrees of arrays."""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors


def fail(fault: str) -> NoReturn:
  """Raises an AssertionError for a rule that a game or its text breaks."""
  raise AssertionError(f"the game breaks a rule: {fault}")


def check(holds: np.ndarray, rule: str, values: np.ndarray) -> None:
  """Fails with the first of N values, [N, …], for which a rule does not hold."""
  if not holds.all():
    value = errors.quote(values[np.argmin(holds)].tolist())
    fail(f"{rule}, found {value}")


def type_name(leaf: Any) -> str:
  """Returns the dtype and shape of an array, such as `int32[3]`."""
  return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def to_numpy(tree: Any) -> Any:
  """Copies a pytree to NumPy arrays; those of random keys have their data."""

  def copy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(
      leaf.dtype, jax.dtypes.prng_key
    ):
      leaf = jax.random.key_data(leaf)
    return np.array(leaf)

  return jax.tree.map(copy, tree)


def rows(tree: Any, num_rows: int) -> list[bytes]:
  """Returns the bytes of each row of a pytree of NumPy arrays [N, …]."""
  leaves = jax.tree.leaves(tree)
  return [
    b"".join(leaf[n].tobytes() for leaf in leaves) for n in range(num_rows)
  ]


def is_equal(a: Any, b: Any) -> bool:
  """Compares two pytrees of NumPy arrays bit by bit."""
  return _all(lambda x, y: x.tobytes() == y.tobytes(), a, b)


def is_close(a: Any, b: Any) -> bool:
  """Compares two pytrees of NumPy arrays, floats up to their rounding."""

  def is_close_leaf(x: np.ndarray, y: np.ndarray) -> bool:
    if jnp.issubdtype(x.dtype, jnp.inexact):
      return np.allclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True)
    return np.array_equal(x, y)

  return _all(is_close_leaf, a, b)


def _all(
  compare: Callable[[np.ndarray, np.ndarray], bool], a: Any, b: Any
) -> bool:
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(type_name(x) == type_name(y) and compare(x, y) for x, y in pairs)
