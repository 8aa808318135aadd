"""Keeps earlier weights of a run, as opponents of whole steps."""

import pathlib
from typing import Any

from flax import nnx
import jax
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory

SUFFIX = ".model"


def steps(config: config_lib.GRPOConfig) -> frozenset[int]:
  """Returns the steps against past weights, counted from 0.

  Their share is that of `opponents.past_selves`, spread evenly over the run.
  """
  opponents = config.opponents
  progress = np.linspace(0, 1, config.training.max_steps)
  courses = {
    name: first + progress * (last - first)
    for name, (first, last) in opponents.shares.items()
  }
  past = courses["past_selves"] * opponents.has_past_weights
  # Rounded, so that a share of 1/10 is every tenth step.
  due = np.cumsum(past / sum(courses.values())).round(9)
  is_past = np.diff(np.floor(due), prepend=0) > 0
  return frozenset(np.flatnonzero(is_past).tolist())


def needed(
  config: config_lib.SFTConfig, run: pathlib.Path, step: int
) -> list[pathlib.Path]:
  """Returns the directories of the past selves that games after a step may meet.

  They are model directories, of the trained parameters alone, and named by the
  number of the step after which they were saved.
  """
  if not isinstance(config, config_lib.GRPOConfig):
    return []
  opponents = config.opponents
  if not opponents.has_past_weights:
    return []
  every = opponents.add_every_n_steps
  kept = range(every, step + 1, every)[-opponents.pool_size :]
  return [run / run_directory.OPPONENTS / f"{n}{SUFFIX}" for n in kept]


class PastWeights:
  """The trained parameters after earlier steps, on the host and in the run.

  At most `opponents.pool_size` of them are in memory. The run directory also
  keeps those that its checkpoints need to be resumed from.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.GRPOConfig,
    run: pathlib.Path,
  ):
    """Makes an empty pool for a model in training."""
    self._model, self._config, self._run = model, config, run
    self._steps = steps(config)
    self._weights: dict[pathlib.Path, dict[str, np.ndarray]] = {}

  def add_if_due(self, step: int) -> None:
    """Adds the present weights, if they are due after a step, counted from 1."""
    kept = needed(self._config, self._run, step)
    if step % self._config.opponents.add_every_n_steps:
      return
    # A killed session may have left another.
    processes.remove(kept[-1])
    checkpoints.save(self._model, kept[-1])
    self._weights[kept[-1]] = meshes.fetch(self._parameters())
    self._weights = {path: self._weights[path] for path in kept}
    for other in run_directory.checkpoint_steps(self._run):
      kept += needed(self._config, self._run, other)
    if processes.is_first():
      for path in (self._run / run_directory.OPPONENTS).glob(f"*{SUFFIX}"):
        if path not in kept:
          files.remove(path)

  def restore(self, step: int) -> None:
    """Reads the past selves of a step.

    Raises:
      errors.UserError: if one is missing or damaged.
    """
    self._weights = {}
    for path in needed(self._config, self._run, step):
      if fault := integrity.damage(path):
        raise errors.UserError(fault)
      values = checkpoints.read_params(path, self._parameters())
      self._weights[path] = jax.device_get(values)

  def draw(self, step: int, module: nnx.Module) -> Any:
    """Returns the state of `module` with the opponent of a step's games.

    The step is counted from 0. None if its games are against other opponents or
    there is no past self yet.
    """
    if step not in self._steps or not self._weights:
      return None
    stream = streams.Stream.PAST_SELVES
    rng = streams.generator(self._config.seed, stream, step)
    past = [*self._weights.values()][rng.integers(len(self._weights))]
    values = specs.parameters(module)
    for name, value in past.items():
      values[name] = jax.make_array_from_callback(
        value.shape, values[name].sharding, value.__getitem__
      )
    return nnx.state(specs.with_parameters(module, values))

  def _parameters(self) -> dict[str, jax.Array]:
    return specs.parameters(self._model.module, self._model.trainable)
