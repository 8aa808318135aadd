"""Whole games of a model that answers on a service.

The rules of a turn are those of `rollout.sampler`; a game is the same where the
answers are. Environments run here, and text, masks and sequences are made by the
tables that the sampler uses.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import model_player
from tunix_ttt.games import catalog
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.service import connection
from tunix_ttt.service import service_models
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers

Ending = trajectory_lib.Ending
# Rank of the adapter, which changes nothing, of a model that is only evaluated.
_RANK = 8


class Weights(Protocol):
  """A model that answers, such as `connection.Weights`."""

  def sample(
    self,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    most: Sequence[int],
    stop: Sequence[int],
    temperature: float,
  ) -> list[connection.Sampled]:
    """Samples an answer to each prompt."""
    ...


class ServedModel:
  """A model on a service; see `model_player.RemoteModel`."""

  # The weights are not here.
  revision = ""

  def __init__(self, tokenizer: tokenizers.Tokenizer, weights: Weights):
    """Takes the tokenizer, which is here, and the weights on the service."""
    self.tokenizer, self._weights = tokenizer, weights

  def player(
    self,
    config: config_lib.SFTConfig,
    env: Any = None,
    play: config_lib.PlayConfig | None = None,
  ) -> "ServicePlayer":
    """Returns the model as a player; see `model_player.Player`."""
    env = model_player.environment(config) if env is None else env
    return ServicePlayer(
      self._weights, self.tokenizer, config, env, play or config.play
    )

  def answers(
    self,
    prompts: Sequence[list[int]],
    settings: config_lib.EvalConfig,
    seed: int,
  ) -> Iterator[str]:
    """Yields the completion of each prompt; see `model_policy.Generator`."""
    if settings.top_p < 1:
      raise errors.UserError("eval.top_p: must be 1 on a service")
    for start in range(0, len(prompts), settings.batch_size):
      batch = prompts[start : start + settings.batch_size]
      numbers = jnp.arange(start, start + len(batch))
      keys = streams.keys(seed, streams.Stream.COMPLETIONS, last=numbers)
      for answer in self._weights.sample(
        batch,
        _seeds(keys, 1)[:, 0].tolist(),
        most=[settings.max_new_tokens] * len(batch),
        stop=[*self.tokenizer.end_ids, self.tokenizer.eos_id()],
        temperature=settings.temperature,
      ):
        yield self.tokenizer.decode(answer.tokens)


def load(name: str | pathlib.Path, config: config_lib.SFTConfig) -> ServedModel:
  """Takes up a model that the config's service has.

  The name is a model directory of a run on a service, or `base` for the model that
  the config starts from.

  Raises:
    errors.UserError: if the service cannot be reached, or has no such model.
  """
  assert config.service is not None
  model = service_models.open_model(config, str(name))
  settings = config.service
  if settings.base_url is None:
    # Where the model was trained.
    settings = dataclasses.replace(settings, base_url=model.service)
  link = connection.Connection(settings)
  weights = connection.Weights(
    link,
    model.base,
    rank=config.lora.rank if config.lora else _RANK,
    seed=config.seed,
    start=model.start,
  )
  return ServedModel(model.tokenizer, weights)


class ServicePlayer:
  """Plays batches of games, as `model_player.Player` does on local devices.

  Attributes:
    params: Nothing: the service has the parameters.
    tables: Lookup tables of the game's text.
  """

  params: Any = None

  def __init__(
    self,
    weights: Weights,
    tokenizer: tokenizers.Tokenizer,
    config: config_lib.SFTConfig,
    env: Any,
    play: config_lib.PlayConfig,
  ):
    """Takes the parts; compiles on the first call.

    Raises:
      errors.UserError: if the service cannot play so, or the token limits are too
        small for an answer.
    """
    service_models.check_play(play, "play")
    self.game, self.decode = catalog.of(config), tokenizer.decode
    self.tables = tables = sampler.make_tables(config, tokenizer)
    sampler.check_limits(tables, play, tables.min_answer)
    self._weights, self._config = weights, play
    self._grammar = jax.tree.map(np.asarray, tables.answers)
    self._stop = np.asarray(tables.end_ids).tolist()
    begin = self.game.begin
    self._begin = jax.jit(jax.vmap(lambda key, seat: begin(env, key, seat)))

    def step(states: Any, moves: jax.Array, opponent: Any) -> Any:
      now = env if opponent is None else env.against(opponent)
      after = jax.vmap(now.step)(states, jnp.maximum(moves, 0))
      select = jax.vmap(lambda moved, a, b: jnp.where(moved, a, b))
      after = jax.tree.map(lambda a, b: select(moves >= 0, a, b), after, states)
      return after, jax.vmap(now.outcome)(after)

    self._step = jax.jit(step)
    self._sequences = jax.jit(
      lambda games: trajectory_lib.sequences(games, tables, play.context)
    )

  def begin(self, keys: jax.Array, seats: jax.Array) -> Any:
    """Returns the first states of B games, given keys [B] and seats int [B]."""
    return self._begin(keys, seats)

  def sequences(
    self, games: trajectory_lib.Trajectory
  ) -> trajectory_lib.Sequences:
    """Returns the token sequences of games, on the host."""
    return jax.device_get(self._sequences(games))

  def __call__(
    self, keys: jax.Array, states: Any, opponent: Any = None
  ) -> trajectory_lib.Trajectory:
    """Plays a game from each of B states with B keys; returns it on the host.

    `opponent` replaces the environment's.
    """
    config = self._config
    num_games, num_turns = len(keys), config.max_turns
    seeds = _seeds(keys, num_turns)
    # A move of -1 changes nothing.
    nothing = jnp.full(num_games, -1)
    states, ending = jax.device_get(self._step(states, nothing, opponent))
    ending = ending.astype(np.int8)
    shape = num_games, num_turns
    tokens = *shape, config.max_new_tokens
    fields: dict[str, Any] = {
      "ending": ending,
      "state": states,
      "states": jax.tree.map(
        lambda leaf: np.repeat(leaf[:, None], num_turns, axis=1), states
      ),
      "retried": np.zeros(shape, bool),
      "turn_mask": np.zeros(shape, bool),
      "moves": np.full(shape, -1, np.int32),
      "actions": np.zeros(tokens, np.int32),
      "action_mask": np.zeros(tokens, bool),
      "log_probs": np.zeros(tokens, np.float32),
    }
    can_retry = config.on_parse_error == "retry"
    # A single board is shown again as if for the first time.
    tells_retries = can_retry and config.context != "board"
    for turn in range(num_turns):
      active = ending == Ending.ONGOING
      if not active.any():
        break
      for every, leaf in zip(
        jax.tree.leaves(fields["states"]), jax.tree.leaves(states), strict=True
      ):
        every[:, turn] = leaf
      if turn and tells_retries:
        fields["retried"][:, turn] = active & (fields["moves"][:, turn - 1] < 0)
      prompts = self._prompts(fields, turn, active)
      room = np.full(num_games, config.max_new_tokens)
      if config.max_game_tokens is not None:
        left = config.max_game_tokens - np.array([len(p) for p in prompts])
        ending[active & (left <= 0)] = Ending.LENGTH
        active &= left > 0
        room = np.minimum(room, left)
      fields["retried"][:, turn] &= active
      fields["turn_mask"][:, turn] = active
      rows = np.flatnonzero(active)
      answers = self._answers(
        [prompts[n] for n in rows], seeds[rows, turn], room[rows]
      )
      for row, answer in zip(rows, answers, strict=True):
        state, rank, count = self._read(answer.tokens[: room[row]])
        span = row, turn, slice(count)
        fields["actions"][span] = answer.tokens[:count]
        fields["action_mask"][span] = True
        fields["log_probs"][span] = answer.log_probs[:count]
        if state == answers_lib.ENDED:
          fields["moves"][row, turn] = self._grammar.actions[rank]
        elif state != answers_lib.DEAD and count == room[row]:
          ending[row] = Ending.LENGTH
        elif not can_retry:
          ending[row] = Ending.PARSE_ERROR
      moves = fields["moves"][:, turn]
      states, outcome = jax.device_get(self._step(states, moves, opponent))
      ending = np.where(moves >= 0, outcome, ending).astype(np.int8)
    last = np.full(num_games, Ending.LENGTH, np.int8)
    if num_turns == 1:
      last[fields["moves"][:, 0] >= 0] = Ending.UNFINISHED
    fields["ending"] = np.where(ending == Ending.ONGOING, last, ending)
    fields["state"] = states
    return trajectory_lib.Trajectory(**fields)

  def _prompts(
    self, fields: dict[str, Any], turn: int, active: np.ndarray
  ) -> list[list[int]]:
    """Returns the tokens before each game's answer; none of inactive games."""
    # A sequence ends with its last sampled token: here one that is not kept.
    action_mask = fields["action_mask"].copy()
    turn_mask = fields["turn_mask"].copy()
    action_mask[active, turn, 0] = turn_mask[active, turn] = True
    fields = {**fields, "action_mask": action_mask, "turn_mask": turn_mask}
    rows = self.sequences(trajectory_lib.Trajectory(**fields))
    per_game = len(rows.tokens) // len(active)
    numbers = np.arange(len(active)) * per_game + min(turn, per_game - 1)
    return [
      rows.tokens[n][rows.mask[n]][:-1].tolist() if is_active else []
      for n, is_active in zip(numbers, active, strict=True)
    ]

  def _answers(
    self, prompts: list[list[int]], seeds: np.ndarray, room: np.ndarray
  ) -> list[connection.Sampled]:
    """Returns the answers to prompts; greedily each distinct prompt is asked once."""
    if self._config.temperature == 0:
      requests = [
        (tuple(prompt), int(most))
        for prompt, most in zip(prompts, room, strict=True)
      ]
      distinct = [*dict.fromkeys(requests)]
      answers = self._sample(distinct, [0] * len(distinct))
      by_request = dict(zip(distinct, answers, strict=True))
      return [by_request[request] for request in requests]
    return self._sample(
      [*zip(prompts, room.tolist(), strict=True)], seeds.tolist()
    )

  def _sample(
    self, requests: Sequence[tuple[Sequence[int], int]], seeds: Sequence[int]
  ) -> list[connection.Sampled]:
    return self._weights.sample(
      [prompt for prompt, _ in requests],
      seeds,
      most=[most for _, most in requests],
      stop=self._stop,
      temperature=self._config.temperature,
    )

  def _read(self, tokens: Sequence[int]) -> tuple[int, int, int]:
    """Returns state and rank after an answer, and the number of its tokens.

    What follows an unreadable token is no part of it, as in the sampler.
    """
    table, state, rank = self._grammar, answers_lib.START, 0
    for count, token in enumerate(tokens, 1):
      index = state, table.token_class[token]
      state, rank = (
        int(table.next_state[index]),
        rank + int(table.offset[index]),
      )
      if state in (answers_lib.DEAD, answers_lib.ENDED):
        return state, rank, count
    return state, rank, len(tokens)


def _seeds(keys: jax.Array, num_turns: int) -> np.ndarray:
  """Returns the seeds of each game's turns, int64 [B, T], of 31 bits."""

  def of_game(key: jax.Array) -> jax.Array:
    turns = jax.vmap(lambda n: jax.random.fold_in(key, n))(
      jnp.arange(num_turns)
    )
    return jax.vmap(lambda turn: jax.random.bits(turn, dtype=jnp.uint32))(turns)

  return np.asarray(jax.vmap(of_game)(keys)).astype(np.int64) >> 1
