"""Plays the games of each GRPO step with the trained model."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.data import datasets
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import self_play
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import exploiter
from tunix_ttt.train import mistake_starts
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import past_weights

# Number of positions in a batch of greedy moves.
_GREEDY_BATCH = 512


class GameRollout:
  """Plays groups of games with the jitted sampler.

  Groups are numbered consecutively through the run. The random numbers of a
  game depend only on the run's seed, the group's number and the game's index in
  the group, so a run can resume from any step.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.GRPOConfig,
    pool: opponent_pool.OpponentPool,
    prompts: Sequence[Any] = (),
    mistakes: mistake_starts.MistakePool | None = None,
    past: past_weights.PastWeights | None = None,
  ):
    """Builds the sampler, without compiling it.

    `prompts` are the start positions of the episode source `prompts`, and
    `mistakes` those of `episodes.mistakes`. `past` has earlier weights, which
    play the other seat in some steps.
    """
    self._config, self._pool, self._mistakes = config, pool, mistakes
    self._past = past
    self._game = catalog.of(config)
    # In the layout `split`, the sampler has a copy of the model.
    self._trained = self._module = model.module
    self._trainable = model.trainable
    self._mesh = meshes.make_for_sampler(config.mesh)
    if self._mesh is not None:
      self._module = meshes.copy(model.module, self._mesh)
    self._tables = sampler.make_tables(config, model.tokenizer)
    play = dataclasses.replace(config.play, max_turns=config.num_turns)
    self._is_self_play = config.episodes.num_agents > 1
    mirror = self._game.mirror()
    env = mirror if self._is_self_play else self._game.environment()
    self._seats = np.arange(len(self._game.seats))
    if config.episodes.agent not in ("mixed", "both"):
      agent = config.episodes.agent
      self._seats = np.array([self._game.seat_number(agent, "episodes.agent")])
    self._policy = model_policy.ModelPolicy(self._module, model.spec)
    size, episodes = config.grpo.num_generations, config.episodes
    is_alike = episodes.source != "games" or episodes.opponent_seed == "group"
    self._sample = sampler.Sampler(
      self._policy,
      env,
      self._tables,
      play,
      config.rollout,
      group_size=size if is_alike else 1,
      is_self_play=self._is_self_play,
    )
    if past is not None:
      self._sample_past = sampler.Sampler(
        self._policy,
        mirror,
        self._tables,
        play,
        config.rollout,
        is_self_play=True,
      )
    self._by_seat = jax.jit(lambda games: self_play.by_seat(env, games, size))
    self._sequences = jax.jit(
      lambda games, tables: trajectory.sequences(
        games, tables, config.play.context
      )
    )
    self._start = jax.jit(self._start_game_batch)
    self._boards = np.array([each.board for each in prompts], np.int32)
    last = [-1 if p.last_move is None else p.last_move for p in prompts]
    self._last_moves = np.array(last, np.int8)
    self._games: dict[int, Any] = {}
    self._movers: dict[str, sampler.Sampler] = {}
    self._exploiter: exploiter.Exploiter | None = None
    self._model = model

  def play(
    self, step: int
  ) -> tuple[trajectory.Trajectory, trajectory.Sequences]:
    """Returns a step's games and their token sequences, on the host.

    In self-play a game counts twice, as that of each seat. Steps are counted from 0. Also starts later games that may be sampled from
    the current weights.
    """
    config = self._config
    ahead = step + config.rollout.max_staleness
    for number in range(step, min(ahead, config.training.max_steps - 1) + 1):
      if number not in self._games and self._weights_of(number) <= step:
        self._games[number] = self._start_games(number)
    return meshes.fetch(self._games.pop(step))

  def _weights_of(self, step: int) -> int:
    """Returns the step whose initial weights play a step's games."""
    every = self._config.checkpoint.save_interval_steps
    oldest = step - self._config.rollout.max_staleness
    # A run that resumes from a checkpoint has no older weights.
    return max(oldest, step - step % every)

  def _start_games(self, step: int) -> Any:
    """Starts a step's games asynchronously."""
    size = self._config.training.batch_size
    games = np.arange(step * size, (step + 1) * size)
    groups = games // self._config.grpo.num_generations
    params, past = nnx.state(self._module), None
    if self._past is not None:
      past = self._past.draw(step, self._module)
    is_mirror = self._is_self_play or past is not None
    opponent = None if is_mirror else self._pool.opponent(step)
    keys, states, tried = self.start(groups, opponent)
    if past is not None:
      past_self = self_play.PastSelf(
        past,
        jnp.asarray(self._seats[groups % len(self._seats)], jnp.int32),
        self._config.opponents.policy == "greedy",
      )
      played = self._sample_past(
        params, keys, states, tried=tried, past=past_self
      )
    else:
      played = self._sample(params, keys, states, opponent, tried)
      if self._is_self_play:
        played = self._by_seat(played)
    return played, self._sequences(played, self._tables)

  def sync(self) -> None:
    """Copies the trained parameters to the sampler's copy, if it has one."""
    if self._mesh is not None:
      values = nnx.state(self._trained, self._trainable)
      places = meshes.shardings(values, self._mesh)
      nnx.update(self._module, jax.device_put(values, places))

  def start(
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
      self._has_random_start(groups),
      self._prompt_boards(groups),
      None if self._mistakes is None else self._mistakes.draw(groups),
    )

  def _has_random_start(self, groups: np.ndarray) -> np.ndarray:
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
    episodes, seats = config.episodes, jnp.asarray(self._seats)
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

  def listed_moves(self, step: int) -> np.ndarray:
    """Returns a past self, and the exploiter if there is one.

    They are moves in every position, int [1 or 2, num_positions], of the
    weights after a step, counted from 1.
    """
    settings = self._config.opponents
    tables = [self._moves(settings.policy, step)]
    if any(settings.exploiter):
      if self._exploiter is None:
        self._exploiter = exploiter.of_model(self._model, self._config)
      greedy, params = tables[0], nnx.state(self._trained)
      tables.append(self._exploiter.moves(greedy, params))
    return np.stack(tables)

  def _moves(self, policy: str, step: int) -> np.ndarray:
    """Returns the model's move in every position, int [num_positions].

    Unreadable answers and finished games have the move -1.
    """
    numbers, states = self._game.turns()
    is_greedy = policy == "greedy"
    if policy not in self._movers:
      play = sampler.greedy_single_moves(self._config.play)
      self._movers[policy] = sampler.Sampler(
        self._policy,
        self._game.environment(),
        self._tables,
        play,
        None if is_greedy else self._config.rollout,
      )
    params, moves = nnx.state(self._module), []
    for first in range(0, len(numbers), _GREEDY_BATCH):
      order = np.arange(first, first + _GREEDY_BATCH)
      rows = order % len(numbers)
      if is_greedy:
        keys = streams.keys(
          0, streams.Stream.GREEDY, last=jnp.arange(_GREEDY_BATCH)
        )
      else:
        stream = streams.Stream.PAST_TOKENS
        last = jnp.asarray(order)
        keys = streams.keys(self._config.seed, stream, step, last=last)
      batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], states)
      played = self._movers[policy](params, keys, batch)
      moves.append(meshes.fetch(played.moves)[:, 0])
    table = np.full(self._game.num_positions, -1, np.int32)
    table[numbers] = np.concatenate(moves)[: len(numbers)]
    return table
