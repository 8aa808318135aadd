"""Starts games on positions on which the model errs."""

from collections.abc import Iterable
import io
import pathlib
from typing import Any
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import decisions
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory

# Number of random positions for each seat.
_NUM_SAMPLED = 512


class MistakePool:
  """Positions on which the greedy move was not optimal in an evaluation.

  They are of two kinds, those of its games and random ones. Each evaluation
  replaces them. They are stored in a file of the run directory.
  """

  def __init__(self, config: config_lib.GRPOConfig, run: pathlib.Path):
    """Makes an empty pool.

    Raises:
      errors.UserError: if the game is not solved.
    """
    self._game = game = catalog.of(config)
    episodes = config.episodes
    self._shares = np.cumsum([episodes.mistakes, episodes.sampled_mistakes])
    for name in ("mistakes", "sampled_mistakes"):
      if getattr(episodes, name):
        game.require_solution(f"episodes.{name}")
    self._seed, self._seats_of_groups = config.seed, range(len(game.seats))
    agent = config.episodes.agent
    if agent not in ("mixed", "both"):
      self._seats_of_groups = [game.seat_number(agent, "episodes.agent")]
    self._directory = run / run_directory.MISTAKES
    # Fills the rows of games that start elsewhere; no group has its seat, -1.
    filler = trajectory.dummy_trajectory(game, 1, 1).states
    positions = game.positions(filler)
    self._filler = jax.tree.map(lambda leaf: leaf[:1, 0], positions)
    self._positions = self._filler
    self._seats = self._kinds = np.array([-1])

  def add(
    self,
    step: int,
    games: Iterable[trajectory.Trajectory],
    sampled: trajectory.Trajectory | None = None,
  ) -> None:
    """Replaces the positions by those of an evaluation, on the host.

    Args:
      step: Step of the evaluation.
      games: Games of each seat.
      sampled: Answers on random positions.
    """
    every, seats, kinds = [self._filler], [np.array([-1])], [np.array([-1])]
    for kind, group in enumerate(
      [games, () if sampled is None else (sampled,)]
    ):
      for each in group:
        wrong = each.turn_mask & ~trajectory.optimal_moves(self._game, each)
        states = jax.tree.map(lambda leaf, rows=wrong: leaf[rows], each.states)
        place = self._game.positions(states)
        seat = self._game.seat_numbers(states)
        # Many lines of play pass through the same position.
        first, _ = turn_player.distinct([seat, *jax.tree.leaves(place)])
        every.append(jax.tree.map(lambda leaf, rows=first: leaf[rows], place))
        seats.append(seat[first])
        kinds.append(np.full(len(first), kind))
    positions = jax.tree.map(lambda *rows: np.concatenate(rows), *every)
    if processes.is_first():
      self._directory.mkdir(exist_ok=True)
      content, leaves = io.BytesIO(), jax.tree.leaves(positions)
      np.savez(content, np.concatenate(kinds), np.concatenate(seats), *leaves)
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
        kinds, seats, *leaves = (arrays[name] for name in arrays.files)
      self._positions = jax.tree.unflatten(
        jax.tree.structure(self._filler), leaves
      )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
      raise errors.UserError(f"{path}: no positions: {error}") from None
    self._seats, self._kinds = seats, kinds

  def draw(self, groups: np.ndarray) -> tuple[np.ndarray, Any]:
    """Draws a position for a share of the groups.

    Args:
      groups: Group number of each game, int [B].

    Returns:
      A mask bool [B] of the games of groups with a position, and the positions, a
      pytree [B], equally likely among those of the group's seat and its share. A
      group takes a position of the other share where there is none of its own, and
      is without one if its seat made no mistake.
    """
    rows = np.zeros(len(groups), int)
    for group in np.unique(groups).tolist():
      stream = streams.Stream.GROUP_MISTAKES
      rng = streams.generator(self._seed, stream, group)
      seat = self._seats_of_groups[group % len(self._seats_of_groups)]
      kind = int(np.searchsorted(self._shares, rng.random(), side="right"))
      of_seat = np.flatnonzero(self._seats == seat)
      of_kind = of_seat[self._kinds[of_seat] == kind]
      if kind < len(self._shares) and len(of_seat):
        rows[groups == group] = rng.choice(of_kind if len(of_kind) else of_seat)
    return rows > 0, jax.tree.map(lambda leaf: leaf[rows], self._positions)


class SampledPositions:
  """A greedy model's answers on random positions; compiled once."""

  def __init__(self, model: checkpoints.Model, config: config_lib.GRPOConfig):
    """Builds the sampler.

    Raises:
      errors.UserError: as `model_player.Player` does.
    """
    game = catalog.of(config)
    env, self._answers = (
      game.environment(),
      turn_player.GreedyAnswers(model, config),
    )
    self._play = turn_player.TurnPlayer(
      game,
      self._answers,
      model.tokenizer.decode,
      num_turns=1,
      env=decisions.SingleTurn(env),
    )
    names = streams.Stream

    @jax.jit
    def start(step: jax.Array) -> Any:
      def one(seat: jax.Array, number: jax.Array) -> Any:
        keys = [
          streams.key(config.seed, stream, step, seat, number)
          for stream in (names.SAMPLED_STARTS, names.SAMPLED_LAST_MOVES)
        ]
        position = game.random_position((keys[0], keys[1]), seat)
        return game.begin_at(env, keys[0], seat, position)

      numbers = jnp.arange(len(game.seats) * _NUM_SAMPLED)
      return jax.vmap(one)(numbers // _NUM_SAMPLED, numbers % _NUM_SAMPLED)

    self._start = start

  def __call__(self, params: Any, step: int) -> trajectory.Trajectory:
    """Returns one turn on each of 512 positions for each seat, on the host."""
    self._answers.player.params = params
    return self._play(None, self._start(step))
