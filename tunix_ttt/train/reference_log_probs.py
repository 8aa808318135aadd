"""Log-probabilities of played games by other weights than the sampler's."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import sharding_utils

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import dpo_loss
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.data import datasets
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.runs import progress

# (tokens int [..., L], mask bool [..., L]) -> float32 [..., L], 0 for the first.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def of_policy(module: nnx.Module, config: config_lib.GRPOConfig) -> Scorer:
  """Returns what scores games by a model's weights as they are when called."""
  score = _make(nnx.split(module)[0], meshes.of(module), config)
  return lambda tokens, mask: score(nnx.state(module), tokens, mask)


def of_reference(
  model: checkpoints.Model, module: nnx.Module, config: config_lib.GRPOConfig
) -> Scorer:
  """Returns a function that scores games by the reference of the KL divergence.

  There is a copy of what is trained alone: of the adapters, or of the whole
  model without any. The reference `base` of a model with adapters is the trained
  model without them, of which there is no copy.

  Args:
    model: The model as it is before training.
    module: The module that is trained, before a checkpoint is restored into it.
    config: The settings; `grpo.reference` says which model it is.
  """
  if model.lora is not None and config.grpo.reference == "base":
    graph, _ = nnx.split(nnx.eval_shape(model.spec.build))
    score = _make(graph, meshes.of(module), config)
    base = nnx.filterlib.Not(nnx.LoRAParam)
    return lambda tokens, mask: score(nnx.state(module, base), tokens, mask)
  frozen = nnx.filterlib.Not(model.trainable)
  score = _make(nnx.split(module)[0], meshes.of(module), config)
  start = jax.tree.map(jnp.copy, nnx.state(module, model.trainable))
  return lambda tokens, mask: score(
    nnx.merge_state(nnx.state(module, frozen), start), tokens, mask
  )


def starts_from_adapters(model: checkpoints.Model) -> bool:
  """Returns whether a model's adapters change what it computes."""
  adapters = specs.parameters(model.module, nnx.LoRAParam)
  # Of two factors, the second is 0 in new adapters.
  return any(
    bool(value.any()) for name, value in adapters.items() if "lora_b" in name
  )


def _make(
  graph: Any, mesh: Any, config: config_lib.GRPOConfig
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
  temperature = config.rollout.temperature
  # As much at a time as training has.
  parts = config.training.gradient_accumulation_steps

  @jax.jit
  def run(state: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    tokens, mask = meshes.constrain((tokens, mask), mesh, meshes.FSDP)
    module = nnx.merge(graph, state)
    # Traced in whatever thread; Tunix looks for the mesh in the present one.
    with meshes.use(mesh):
      found = grpo_loss.log_probs(module, tokens, mask, temperature)
    return jnp.pad(found.log_probs, ((0, 0), (1, 0)))

  def score(state: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    length = tokens.shape[-1]
    pairs = zip(np.split(tokens, parts), np.split(mask, parts), strict=True)
    found = [
      run(state, some.reshape(-1, length), there.reshape(-1, length))
      for some, there in pairs
    ]
    return np.concatenate(meshes.fetch(found)).reshape(tokens.shape)

  return score


def log_probs(
  module: nnx.Module, batches: Iterable[datasets.Batch], num_pairs: int
) -> np.ndarray:
  """Returns the log-probabilities of all answers of some pairs.

  Args:
    module: one of Tunix's.
    batches: as `batches.in_order` yields them.
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
