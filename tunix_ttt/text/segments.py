"""Token sequences of different lengths as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Chunks(NamedTuple):
  """Token sequences of different lengths, padded at the end.

  Attributes:
    ids: Token ids, int32 [N, L].
    lengths: Number of tokens, int32 [N].
  """

  ids: np.ndarray
  lengths: np.ndarray

  def take(self, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens of rows and their mask, [B, L]."""
    tokens = jnp.asarray(self.ids)[rows]
    lengths = jnp.asarray(self.lengths)[rows]
    return tokens, jnp.arange(tokens.shape[1]) < lengths[:, None]


def pad(rows: Sequence[list[int]], pad_id: int) -> Chunks:
  """Returns token sequences as chunks."""
  lengths = np.array([len(row) for row in rows], np.int32)
  ids = np.full((len(rows), int(lengths.max())), pad_id, np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
  return Chunks(*map(read_only, (ids, lengths)))


def read_only(array: np.ndarray) -> np.ndarray:
  """Returns the array after it was made read-only."""
  array.flags.writeable = False
  return array
