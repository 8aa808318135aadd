"""Starts the games of each GRPO step."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.data import datasets
from tunix_ttt.games import catalog
from tunix_ttt.train import mistake_starts


class GameStarts:
  """Starts the games of groups.

  Groups are numbered consecutively through the run. The random numbers of a
  game depend only on the run's seed, the group's number and the game's index in
  the group, so a run can resume from any step.

  Attributes:
    seats: Seats of the groups, in turn, int [S].
  """

  def __init__(
    self,
    config: config_lib.GRPOConfig,
    prompts: Sequence[Any] = (),
    mistakes: mistake_starts.MistakePool | None = None,
  ):
    """Compiles on the first call.

    `prompts` are the start positions of the episode source `prompts`, and
    `mistakes` those of `episodes.mistakes`.
    """
    self._config, self._mistakes = config, mistakes
    self._game = catalog.of(config)
    self.seats = np.arange(len(self._game.seats))
    if config.episodes.agent not in ("mixed", "both"):
      agent = config.episodes.agent
      self.seats = np.array([self._game.seat_number(agent, "episodes.agent")])
    self._start = jax.jit(self._start_game_batch)
    self._boards = np.array([each.board for each in prompts], np.int32)
    last = [-1 if p.last_move is None else p.last_move for p in prompts]
    self._last_moves = np.array(last, np.int8)

  def of_step(self, step: int) -> np.ndarray:
    """Returns the group of each game of a step, counted from 0: int [B]."""
    size = self._config.training.batch_size
    games = np.arange(step * size, (step + 1) * size)
    return games // self._config.grpo.num_generations

  def __call__(
    self, groups: np.ndarray, opponent: Any
  ) -> tuple[jax.Array, Any, jax.Array | None]:
    """Returns the token keys [B], the initial states and the first moves.

    `groups` has the group numbers of the games, int [B]. The opponent opens
    some of the games; None stands for games of which the model plays all seats.
    The moves are int32 [B], -1 for sampled ones; None if all are sampled.
    """
    members = np.arange(len(groups)) % self._config.grpo.num_generations
    return self._start(
      jnp.asarray(groups),
      jnp.asarray(members),
      opponent,
      self.has_random_start(groups),
      self._prompt_boards(groups),
      None if self._mistakes is None else self._mistakes.draw(groups),
    )

  def has_random_start(self, groups: np.ndarray) -> np.ndarray:
    """Returns the mask bool [B] of games that start on a random position.

    As many consecutive groups as there are seats have the same value.
    """
    episodes = self._config.episodes
    share = 1.0 if episodes.source == "positions" else episodes.starts
    sets = groups // len(self._game.seats)
    return np.floor((sets + 1) * share) > np.floor(sets * share)

  def _prompt_boards(
    self, groups: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns boards int32 [B] and last moves int8 [B] of prompts, if any."""
    if self._config.episodes.source != "prompts":
      return None
    count = len(self._boards)
    epochs, indices = np.divmod(groups, count)
    rows = np.empty_like(groups)
    for epoch in np.unique(epochs):
      in_epoch = epochs == epoch
      order = datasets.epoch_order(count, self._config.seed, int(epoch))
      rows[in_epoch] = order[indices[in_epoch]]
    return self._boards[rows], self._last_moves[rows]

  def _start_game_batch(
    self,
    groups: jax.Array,
    members: jax.Array,
    opponent: Any,
    has_random_start: jax.Array,
    prompts: Any,
    mistakes: Any,
  ) -> tuple[jax.Array, Any, jax.Array | None]:
    config, game, names = self._config, self._game, streams.Stream
    episodes, seats = config.episodes, jnp.asarray(self.seats)
    env = game.mirror() if opponent is None else game.environment(opponent)
    can_start_anywhere = episodes.source == "positions" or episodes.starts > 0

    def key(stream: streams.Stream, *counters: Any) -> jax.Array:
      return streams.key(config.seed, stream, *counters)

    def start_game(
      group: jax.Array,
      member: jax.Array,
      has_random_start: Any,
      prompt: Any,
      mistake: Any,
    ) -> Any:
      token_key = key(names.GAME_TOKENS, group, member)
      opponent_member = member if episodes.opponent_seed == "game" else 0
      game_key = key(names.GAME_OPPONENTS, group, opponent_member)
      seat = seats[group % len(seats)]
      if prompt is not None:
        return token_key, game.begin_prompt(env, game_key, prompt)
      if not can_start_anywhere:
        return token_key, game.begin(env, game_key, seat)
      start_keys = (
        key(names.GROUP_STARTS, group),
        key(names.GROUP_LAST_MOVES, group),
      )
      anywhere = game.random_position(start_keys, seat)
      if mistake is not None:
        anywhere = jax.tree.map(
          functools.partial(jnp.where, mistake[0]), mistake[1], anywhere
        )
      position = jax.tree.map(
        functools.partial(jnp.where, has_random_start),
        anywhere,
        game.first_position(start_keys[0]),
      )
      return token_key, game.begin_at(env, game_key, seat, position)

    keys, states = jax.vmap(start_game)(
      groups, members, has_random_start, prompts, mistakes
    )
    if not episodes.try_all:
      return keys, states, None

    def try_one(state: Any, group: jax.Array, member: jax.Array) -> jax.Array:
      legal = env.legal(state)
      first = jax.random.randint(
        key(names.GROUP_TRIED_MOVES, group), (), 0, len(legal)
      )
      return jnp.flatnonzero(legal, size=len(legal))[
        (first + member) % jnp.maximum(legal.sum(), 1)
      ]

    moves = jax.vmap(try_one)(states, groups, members)
    return keys, states, jnp.where(has_random_start, moves, -1)
