"""Mixes opponents that move inside the game, past selves as tables among them."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games import catalog
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory
from tunix_ttt.train import past_weights


class OpponentPool:
  """Mixes opponents by shares that change linearly over a run.

  A past self is a table of the model's moves, stored in a file of the run
  directory, and with it the table of the exploiter, if there is one.
  """

  def __init__(self, config: config_lib.GRPOConfig, run: pathlib.Path):
    """Makes a pool without past selves.

    Raises:
      errors.UserError: if an opponent does not exist for the game.
    """
    self._game, self._settings = catalog.of(config), config.opponents
    self._max_steps = config.training.max_steps
    # The mixture of these steps only replaces weights that there are not yet.
    self._past_steps = past_weights.steps(config)
    self._directory = run / run_directory.OPPONENTS
    # Each has the past self and the exploiter, if there is one.
    self._tables: list[np.ndarray] = []
    settings, game = self._settings, self._game
    self._custom, self._players, self._num_tables = None, {}, 0
    self._has_exploiter = any(settings.exploiter)
    if settings.custom is not None:
      self._custom = game.player(settings.custom, "opponents.custom")
      return
    for name in ("random", "optimal", "mcts"):
      # The random opponent replaces past selves that there are not yet.
      if name == "random" or any(settings.shares[name]):
        full = name
        if name == "mcts" and settings.mcts:
          full = f"mcts:{settings.mcts.simulations}"
        self._players[name] = game.player(full, f"opponents.{name}")
    self._mixture = game.mixture([*self._players.values()])
    for key, is_met in (
      ("exploiter", self._has_exploiter),
      ("pool: weights", settings.has_past_weights),
    ):
      if is_met and len(game.seats) != 2:
        raise errors.UserError(
          f"opponents.{key}: {game.name} is not a game of two seats; remove"
          " this opponent"
        )
    has_past = any(settings.past_selves) and settings.pool == "tables"
    # Fails early for a game whose positions cannot be listed.
    is_listed = has_past or self._has_exploiter
    self._num_positions = game.num_positions if is_listed else 0
    self._dtype = np.min_scalar_type(-max(game.game.num_actions, 1))
    if has_past:
      self._num_tables = settings.pool_size

  def is_due(self, step: int) -> bool:
    """Returns whether to add a past self after a step, counted from 1."""
    is_listed = self._has_exploiter or self._num_tables
    return bool(is_listed) and step % self._settings.add_every_n_steps == 0

  def add(self, step: int, moves: np.ndarray) -> None:
    """Adds the tables of `GameRollout.listed_moves` to the run directory."""
    if processes.is_first():
      self._directory.mkdir(exist_ok=True)
      table = moves.astype(self._dtype).tobytes()
      files.write_bytes(self._directory / f"{step}.bin", table)
    processes.wait("written a past self")
    self.restore(step)

  def restore(self, step: int) -> None:
    """Reads the past selves up to a step.

    Raises:
      errors.UserError: if a file is not a table of moves.
    """
    paths = {int(p.stem): p for p in self._directory.glob("*.bin")}
    tables, count = [], 1 + self._has_exploiter
    for _, path in sorted((n, p) for n, p in paths.items() if n <= step):
      content = path.read_bytes()
      if len(content) != count * self._num_positions * self._dtype.itemsize:
        raise errors.UserError(f"{path}: not a table of moves")
      table = np.frombuffer(content, self._dtype)
      tables.append(table.reshape(count, self._num_positions))
    self._tables = tables[-self._settings.pool_size :]

  def opponent(self, step: int) -> Any:
    """Returns the opponent of a step's games, counted from 0."""
    if self._custom is not None:
      return jax.tree_util.Partial(self._custom)
    progress = step / max(self._max_steps - 1, 1)

    def share(name: str) -> float:
      ends = self._settings.shares[name]
      return ends[0] + progress * (ends[1] - ends[0])

    count, size = len(self._players), self._num_tables
    shares = np.zeros(count + size + self._has_exploiter, np.float32)
    shares[:count] = [*map(share, self._players)]
    past, added = share("past_selves") if size else 0.0, len(self._tables)
    tables = np.full(
      (len(shares) - count, self._num_positions), -1, self._dtype
    )
    if not added:
      shares[0] += past + share("exploiter")
    if added and size:
      shares[count : count + added] = past / added
      tables[:added] = [each[0] for each in self._tables]
    if added and self._has_exploiter:
      shares[-1] = share("exploiter")
      tables[-1] = self._tables[-1][1]
    if step in self._past_steps:
      shares[:] = np.arange(len(shares)) == 0
    # One function for all steps, so that the program is compiled once.
    return jax.tree_util.Partial(
      self._mixture, jnp.asarray(shares), jnp.asarray(tables)
    )
