"""Starts games on positions on which the model errs."""

from collections.abc import Iterable
import io
import pathlib
from typing import Any
import zipfile

import jax
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory


class MistakePool:
  """Positions on which the greedy move was not optimal in an evaluation.

  Each evaluation replaces them. They are stored in a file of the run directory.
  """

  def __init__(self, config: config_lib.GRPOConfig, run: pathlib.Path):
    """Makes an empty pool.

    Raises:
      errors.UserError: if the game is not solved.
    """
    self._game = game = catalog.of(config)
    self._share = config.episodes.mistakes
    game.require_solution("episodes.mistakes")
    self._seed, self._seats_of_groups = config.seed, range(len(game.seats))
    agent = config.episodes.agent
    if agent != "mixed":
      self._seats_of_groups = [game.seat_number(agent, "episodes.agent")]
    self._directory = run / run_directory.MISTAKES
    # Fills the rows of games that start elsewhere; no group has its seat, -1.
    filler = trajectory.dummy_trajectory(game, 1, 1).states
    positions = game.positions(filler)
    self._filler = jax.tree.map(lambda leaf: leaf[:1, 0], positions)
    self._positions, self._seats = self._filler, np.array([-1])

  def add(self, step: int, games: Iterable[trajectory.Trajectory]) -> None:
    """Replaces the positions by those of an evaluation's games, on the host."""
    every, seats = [self._filler], [np.array([-1])]
    for each in games:
      wrong = each.turn_mask & ~trajectory.optimal_moves(self._game, each)
      states = jax.tree.map(lambda leaf, rows=wrong: leaf[rows], each.states)
      place, seat = (
        self._game.positions(states),
        self._game.seat_numbers(states),
      )
      # Many lines of play pass through the same position.
      first, _ = turn_player.distinct([seat, *jax.tree.leaves(place)])
      every.append(jax.tree.map(lambda leaf, rows=first: leaf[rows], place))
      seats.append(seat[first])
    positions = jax.tree.map(lambda *rows: np.concatenate(rows), *every)
    if processes.is_first():
      self._directory.mkdir(exist_ok=True)
      content = io.BytesIO()
      np.savez(content, np.concatenate(seats), *jax.tree.leaves(positions))
      files.write_bytes(self._directory / f"{step}.npz", content.getvalue())
    processes.wait("written the positions of mistakes")
    self.restore(step)

  def restore(self, step: int) -> None:
    """Reads the positions of the last evaluation up to a step.

    Raises:
      errors.UserError: if the file is damaged.
    """
    steps = [int(path.stem) for path in self._directory.glob("*.npz")]
    steps = [number for number in steps if number <= step]
    if not steps:
      return
    path = self._directory / f"{max(steps)}.npz"
    try:
      with np.load(path, allow_pickle=False) as arrays:
        seats, *leaves = (arrays[name] for name in arrays.files)
      self._positions = jax.tree.unflatten(
        jax.tree.structure(self._filler), leaves
      )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
      raise errors.UserError(f"{path}: no positions: {error}") from None
    self._seats = seats

  def draw(self, groups: np.ndarray) -> tuple[np.ndarray, Any]:
    """Draws a position for a share of the groups.

    Args:
      groups: Group number of each game, int [B].

    Returns:
      A mask bool [B] of the games of groups with a position, and the positions, a
      pytree [B], equally likely among those of the group's seat. A group is
      without a position if its seat made no mistake.
    """
    rows = np.zeros(len(groups), int)
    for group in np.unique(groups).tolist():
      stream = streams.Stream.GROUP_MISTAKES
      rng = streams.generator(self._seed, stream, group)
      seat = self._seats_of_groups[group % len(self._seats_of_groups)]
      of_seat = np.flatnonzero(self._seats == seat)
      if rng.random() < self._share and len(of_seat):
        rows[groups == group] = rng.choice(of_seat)
    return rows > 0, jax.tree.map(lambda leaf: leaf[rows], self._positions)
