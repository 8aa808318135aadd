"""Reference log-probabilities of preference pairs.

Its log-probabilities are computed once, before the first step, so that there is
never a second model in memory, and a run that goes on computes the same again.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from flax import nnx
import jax
import numpy as np
from tunix.sft import sharding_utils

from tunix_ttt.algorithms import dpo_loss
from tunix_ttt.data import datasets
from tunix_ttt.models import meshes
from tunix_ttt.runs import progress


def log_probs(
  module: nnx.Module, batches: Iterable[datasets.Batch], num_pairs: int
) -> np.ndarray:
  """Returns the log-probabilities of all answers of some pairs.

  Args:
    module: one of Tunix's.
    batches: as `batches.all_pairs` yields them.
    num_pairs: that there are in all, N.

  Returns:
    float32 [2, N], of the chosen and the rejected answers.
  """
  graph, state = nnx.split(module)

  @jax.jit
  def run(state: Any, batch: datasets.Batch) -> Any:
    return dpo_loss.log_probs(nnx.merge(graph, state), batch)

  found = np.zeros((2, num_pairs), np.float32)
  mesh = meshes.of(module)
  bar = progress.bar(total=num_pairs, desc="reference", unit="pair")
  told = progress.stage("asking the reference", has_bar=True)
  with bar, told, meshes.use(mesh):
    for batch in batches:
      there = batch["pairs"] >= 0
      rows: Any = meshes.feed(batch, mesh)
      split: Any = sharding_utils.shard_input(rows, (meshes.FSDP,))
      of_batch = meshes.fetch(run(state, split))
      found[:, batch["pairs"][there]] = of_batch[:, there]
      bar.update(int(there.sum()))
  return found


def attach(
  batches: Iterable[datasets.Batch], found: np.ndarray
) -> Iterator[datasets.Batch]:
  """Adds `reference` float32 [B, 2] to batches: what was found of their pairs."""
  for batch in batches:
    yield {**batch, "reference": found[:, batch["pairs"]].T}
