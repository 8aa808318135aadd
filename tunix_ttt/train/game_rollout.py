"""Plays the games of each GRPO step with the trained model."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import self_play
from tunix_ttt.rollout import trajectory
from tunix_ttt.train import exploiter
from tunix_ttt.train import game_starts
from tunix_ttt.train import mistake_starts
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import past_weights

# Number of positions in a batch of greedy moves.
_GREEDY_BATCH = 512


class GameRollout:
  """Plays groups of games with the jitted sampler.

  Attributes:
    start: Starts the games; see `GameStarts`.
    tables: Lookup tables of the game's text.
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
    self._config, self._pool = config, pool
    self._past = past
    self._game = catalog.of(config)
    # In the layout `split`, the sampler has a copy of the model.
    self._trained = self._module = model.module
    self._trainable = model.trainable
    self._mesh = meshes.make_for_sampler(config.mesh)
    if self._mesh is not None:
      self._module = meshes.copy(model.module, self._mesh)
    self.tables = sampler.make_tables(config, model.tokenizer)
    play = dataclasses.replace(config.play, max_turns=config.num_turns)
    self._is_self_play = config.episodes.num_agents > 1
    mirror = self._game.mirror()
    env = mirror if self._is_self_play else self._game.environment()
    self.start = game_starts.GameStarts(config, prompts, mistakes)
    self._policy = model_policy.ModelPolicy(self._module, model.spec)
    size, episodes = config.grpo.num_generations, config.episodes
    is_alike = episodes.source != "games" or episodes.opponent_seed == "group"
    self._sample = sampler.Sampler(
      self._policy,
      env,
      self.tables,
      play,
      config.rollout,
      group_size=size if is_alike else 1,
      is_self_play=self._is_self_play,
    )
    if past is not None:
      self._sample_past = sampler.Sampler(
        self._policy,
        mirror,
        self.tables,
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
    self._games: dict[int, Any] = {}
    self._movers: dict[str, sampler.Sampler] = {}
    self._exploiter: exploiter.Exploiter | None = None
    self._model = model

  def play(
    self, step: int
  ) -> tuple[trajectory.Trajectory, trajectory.Sequences]:
    """Returns a step's games and their token sequences, on the host.

    In self-play a game counts twice, as that of each seat. Steps are counted from
    0. Also starts later games that may be sampled from the current weights.
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
    groups, seats = self.start.of_step(step), self.start.seats
    params, past = nnx.state(self._module), None
    if self._past is not None:
      past = self._past.draw(step, self._module)
    is_mirror = self._is_self_play or past is not None
    opponent = None if is_mirror else self._pool.opponent(step)
    keys, states, tried = self.start(groups, opponent)
    if past is not None:
      past_self = self_play.PastSelf(
        past,
        jnp.asarray(seats[groups % len(seats)], jnp.int32),
        self._config.opponents.policy == "greedy",
      )
      played = self._sample_past(
        params, keys, states, tried=tried, past=past_self
      )
    else:
      played = self._sample(params, keys, states, opponent, tried)
      if self._is_self_play:
        played = self._by_seat(played)
    return played, self._sequences(played, self.tables)

  def sync(self) -> None:
    """Copies the trained parameters to the sampler's copy, if it has one."""
    if self._mesh is not None:
      values = nnx.state(self._trained, self._trainable)
      places = meshes.shardings(values, self._mesh)
      nnx.update(self._module, jax.device_put(values, places))

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
        self.tables,
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
