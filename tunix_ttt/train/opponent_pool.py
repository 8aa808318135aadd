"""Opponents of a GRPO run: random, optimal, and past selves of the model."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory


class OpponentPool:
  """Mixes opponents by shares that change in the course of a run.

  A past self is the model's greedy move on every board, one file in the run
  directory for each step at which it was added.
  """

  def __init__(self, config: config_lib.GRPOConfig, run: pathlib.Path):
    """Takes the settings and the run directory; the pool is empty.

    Raises:
      errors.UserError: if a custom opponent cannot be found or compiled.
    """
    self._custom = None
    if config.opponents.custom is not None:
      self._custom = opponents.from_name(config.opponents.custom)
    self._shares, self._max_steps = config.opponents, config.training.max_steps
    self._directory = run / run_directory.OPPONENTS
    self._tables: list[np.ndarray] = []

  def is_due(self, step: int) -> bool:
    """Returns whether a past self is added after a step, counted from 1."""
    every = self._shares.add_every_n_steps
    return any(self._shares.past_selves) and step % every == 0

  def add(self, step: int, moves: np.ndarray) -> None:
    """Writes a past self, int8 [3^9], and takes it into the pool."""
    if processes.is_first():
      self._directory.mkdir(exist_ok=True)
      files.write_bytes(self._directory / f"{step}.bin", moves.tobytes())
    processes.wait("written a past self")
    self.restore(step)

  def restore(self, step: int) -> None:
    """Reads the past selves that were added up to a step.

    Raises:
      errors.UserError: if a file is not a table of moves.
    """
    paths = {int(p.stem): p for p in self._directory.glob("*.bin")}
    tables = []
    for _, path in sorted((n, p) for n, p in paths.items() if n <= step):
      table = np.frombuffer(path.read_bytes(), np.int8)
      if table.shape != (rules.NUM_BOARDS,):
        raise errors.UserError(f"{path}: not a table of moves")
      tables.append(table)
    self._tables = tables[-self._shares.pool_size :]

  def opponent(self, step: int) -> Any:
    """Returns the opponent of a step's games, counted from 0."""
    if self._custom is not None:
      return jax.tree_util.Partial(self._custom)
    done = step / max(self._max_steps - 1, 1)

    def share(course: tuple[float, float]) -> float:
      return course[0] + done * (course[1] - course[0])

    size = self._shares.pool_size
    shares = np.zeros(2 + size, np.float32)
    shares[0], shares[1] = (
      share(self._shares.random),
      share(self._shares.optimal),
    )
    past = share(self._shares.past_selves)
    tables = np.full((size, rules.NUM_BOARDS), -1, np.int8)
    if self._tables:
      shares[2 : 2 + len(self._tables)] = past / len(self._tables)
      tables[: len(self._tables)] = self._tables
    else:
      shares[0] += past
    return jax.tree_util.Partial(
      opponents.mixture, jnp.asarray(shares), jnp.asarray(tables)
    )
