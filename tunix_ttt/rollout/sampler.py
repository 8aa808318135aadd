"""Samples whole games of a policy against an opponent in one compiled program.

Each turn feeds the chunk of tokens that presents the board and decodes until
every row has answered.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.games import catalog
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import schedule
from tunix_ttt.rollout import self_play
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers

Ending = trajectory_lib.Ending


class Environment(Protocol):
  """A game in which it is always the model's turn, such as `games.view.View`.

  States are pytrees of arrays of one game.
  """

  def step(self, state: Any, action: jax.Array) -> Any:
    """Plays the model's action and all others up to its next turn."""
    ...

  def legal(self, state: Any) -> jax.Array:
    """Returns the mask of the model's legal actions, bool [A]."""
    ...

  def outcome(self, state: Any) -> jax.Array:
    """Returns the `game.Outcome` for the model, int8 []."""
    ...


@struct.dataclass
class _Games:
  """State of B games."""

  state: Any
  # `Ending` of each game, int8 [B].
  ending: jax.Array
  # Action of the last answer, or `Tables.unreadable`, int32 [B].
  last_answer: jax.Array
  # Action of the next answer, -1 for any, int32 [B]; None if all may be any.
  tried: jax.Array | None
  # Seat of the policy, int32 [B]; None if it plays all seats or no other policy.
  agents: jax.Array | None


class Sampler:
  """Plays batches of games; compiles once per batch size.

  Attributes:
    num_traces: Number of times that the program was traced.
  """

  def __init__(
    self,
    policy: policy_lib.Policy,
    env: Environment,
    tables: tables_lib.Tables,
    play: config_lib.PlayConfig,
    sampling: config_lib.RolloutConfig | None = None,
    *,
    rows_at_once: int | None = None,
    group_size: int = 1,
    is_self_play: bool = False,
  ):
    """Checks the settings; the first call compiles.

    Args:
      policy: Policy that plays.
      env: Environment of the games.
      tables: Tables of the text format.
      play: Settings of games.
      sampling: Settings of token sampling; None for those in `play`.
      rows_at_once: Number of active games in the context `board`; finished
        games are replaced. Results do not depend on it. None selects a quarter
        of the batch, but at least 32, on a CPU and the whole batch elsewhere.
      group_size: Number of consecutive games that begin with the same
        observation, which is read once; all games then answer at a time. Of no
        use in the context `board` with several turns.
      is_self_play: Whether `env` is a `self_play.MirrorEnvironment`, in which the
        policy plays both seats, each with a conversation of its own.

    Raises:
      errors.UserError: if the token limits are too small for an answer.
    """
    self._policy = policy
    self._env = env
    self._tables = tables
    self._config, self._rows_at_once = play, rows_at_once
    self._is_self_play = is_self_play
    is_single = play.context == "board"
    if is_single and (play.max_turns > 1 or is_self_play):
      # Waiting games replace finished ones, so that rows are of any turn.
      group_size = 1
    self._group_size = group_size
    self._is_single = is_single and group_size == 1
    self._sampling = sampling_lib.Sampling.of(sampling or play)
    self.num_traces = 0
    self._play = jax.jit(self._rollout)
    shortest, answer = tables.min_answer, "the shortest answer"
    if self._sampling.constrained == "legal":
      shortest, answer = tables.min_legal_answer, "an answer with any move"
    check_limits(tables, play, shortest, answer)

  def __call__(
    self,
    params: Any,
    keys: jax.Array,
    states: Any,
    opponent: Callable[..., jax.Array] | None = None,
    tried: jax.Array | None = None,
    past: self_play.PastSelf | None = None,
  ) -> trajectory_lib.Trajectory:
    """Plays B games from their initial `states` to their end.

    Args:
      params: Parameters of the policy.
      keys: Random key of each game's tokens, [B]; consumed.
      states: States at the policy's first turn, [B].
      opponent: Opponent that replaces the environment's; arrays of a
        `jax.tree_util.Partial` may change between calls.
      tried: Action of each game's first answer, whose tokens are sampled so that
        it is tried (`answers.try_action`); -1 for any, int32 [B].
      past: Earlier parameters that play the other seat in self-play; the games
        are then of the seats of `params` alone.
    """
    return self._play(params, self._tables, keys, states, opponent, tried, past)

  def _rollout(
    self,
    params: Any,
    tables: tables_lib.Tables,
    keys: jax.Array,
    states: Any,
    opponent: Callable[..., jax.Array] | None,
    tried: jax.Array | None,
    past: self_play.PastSelf | None,
  ) -> trajectory_lib.Trajectory:
    self.num_traces += 1
    env: Any = self._env
    if opponent is not None:
      env = env.against(opponent)
    batch_size = keys.shape[0]
    games = _Games(
      state=states,
      ending=jax.vmap(env.outcome)(states),
      last_answer=jnp.full(batch_size, tables.unreadable),
      tried=tried,
      agents=None if past is None else past.agents,
    )
    play = functools.partial(self._turn, params, tables, env)

    # What all prompts begin with is read once.
    begun = [
      policy_lib.begin(self._policy, of, tables.prefix)
      for of in ([params] if past is None else [params, past.params])
    ]

    def begin(size: int) -> Any:
      memories = [policy_lib.repeat(one, size) for one in begun]
      if past is None:
        return memories[0]
      last_answer = jnp.full(size, tables.unreadable)
      return tuple((memory, last_answer) for memory in memories)

    memory = begin(batch_size)
    if past is not None:
      replies = self_play.Replies(
        play=play,
        reply=functools.partial(
          self._turn, past.params, tables, env, is_greedy=past.is_greedy
        ),
        env=env,
        has_memory=not self._is_single,
      )
      play = replies.turn
      memory, games = replies.open(memory, keys, games)
    if self._is_single:
      fastest = batch_size
      if jax.default_backend() == "cpu":
        fastest = max(32, batch_size // 4)
      width = min(batch_size, self._rows_at_once or fastest)
      games, records = schedule.independent_turns(
        lambda *rows: play(begin(width), *rows, is_first_turn=True)[1:],
        keys,
        games,
        self._config.max_turns,
        width,
      )
    else:
      has_rows = self._is_self_play and past is None
      if has_rows:
        play = self_play.in_turn(play, env)
        keys, games = self_play.for_both_seats((keys, games))
        memory = begin(len(keys))
      games, records = schedule.conversation_turns(
        play, memory, keys, games, self._config.max_turns
      )
      if has_rows:
        games = jax.tree.map(lambda leaf: leaf[:batch_size], games)
        records = self_play.joined(records)
    moves = records.pop("moves")
    # Ending of games that ran out of turns.
    ending = jnp.full(batch_size, Ending.LENGTH, jnp.int8)
    if self._config.max_turns == 1:
      has_moved = (moves >= 0).any(axis=1)
      ending = jnp.where(has_moved, jnp.int8(Ending.UNFINISHED), ending)
    played = trajectory_lib.Trajectory(
      ending=jnp.where(games.ending == Ending.ONGOING, ending, games.ending),
      state=games.state,
      moves=jnp.where(records["turn_mask"], moves, -1),
      **records,
    )
    if past is None:
      return played
    return self_play.of_agents(env, played, past.agents)

  def _turn(
    self,
    params: Any,
    tables: tables_lib.Tables,
    env: Environment,
    memory: policy_lib.Memory,
    keys: jax.Array,
    games: _Games,
    active: jax.Array,
    *,
    is_first_turn: bool,
    is_greedy: bool = False,
  ) -> tuple[policy_lib.Memory, _Games, schedule.Record]:
    """Plays one turn of the games in the mask `active`, bool [B]."""
    sampling = self._sampling
    if is_greedy:
      sampling = dataclasses.replace(sampling, temperature=0.0)
    tokens, mask, retried = self._chunk(
      tables, memory, games, is_first_turn=is_first_turn
    )
    limit = self._config.max_game_tokens
    if limit is not None:
      fits = memory.positions + mask.sum(axis=1) < limit
      ending = jnp.where(active & ~fits, jnp.int8(Ending.LENGTH), games.ending)
      games, active = dataclasses.replace(games, ending=ending), active & fits
    num_before = memory.valid.shape[1]
    num_slots = num_before + tokens.shape[1]
    if self._config.context == "truncated" and not is_first_turn:
      # The slots of the last answer are reused.
      num_slots -= self._config.max_new_tokens
    memory = policy_lib.grow(self._policy, memory, max(num_before, num_slots))
    size = self._group_size if is_first_turn else 1
    inputs: Any = memory, tokens, mask & active[:, None]
    if size > 1:
      inputs = jax.tree.map(lambda x: x[::size] if x.ndim else x, inputs)
    read = policy_lib.feed(self._policy, params, *inputs)
    memory, logits = policy_lib.repeat(read, size)
    memory_after_prompt = memory
    legal = None
    if self._sampling.constrained == "legal":
      legal = jax.vmap(env.legal)(games.state)
    memory, answers = sampling_lib.decode(
      self._policy,
      params,
      tables.answers,
      keys,
      memory,
      logits,
      active,
      sampling=sampling,
      num_slots=num_slots,
      max_new_tokens=self._config.max_new_tokens,
      max_game_tokens=self._config.max_game_tokens,
      legal=legal,
      tried=games.tried,
    )
    moves = answers_lib.action(tables.answers, answers.state, answers.rank)
    games_after = self._move(tables, env, games, active, answers, moves)
    if self._config.context == "truncated":
      # Drop the sampled tokens; the next chunk starts with their replacement.
      memory = dataclasses.replace(
        memory,
        end=memory_after_prompt.end,
        positions=memory_after_prompt.positions,
        is_pending=memory_after_prompt.is_pending,
      )
    record = {
      "states": games.state,
      "retried": retried & active,
      "turn_mask": active,
      "moves": moves,
      "actions": answers.actions,
      "action_mask": answers.action_mask,
      "log_probs": answers.log_probs,
      "sampled_mass": answers.sampled_mass,
      "tried": None if games.tried is None else active & (games.tried >= 0),
    }
    return memory, games_after, record

  def _chunk(
    self,
    tables: tables_lib.Tables,
    memory: policy_lib.Memory,
    games: _Games,
    *,
    is_first_turn: bool,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the next tokens [B, L], their mask and the rows to retry [B]."""
    config, observations = self._config, tables.observations
    retried = jnp.zeros(games.ending.shape, bool)
    if is_first_turn:
      return *_first_chunk(tables, games.state), retried
    tokens, mask = observations.chunks("follow", games.state)
    if config.on_parse_error == "retry":
      retried = games.last_answer == tables.unreadable
      # In `truncated` the answer and its end token are dropped.
      is_kept = config.context == "full"
      last_token = jnp.where(is_kept, memory.pending, -1)
      retry = tables.retry(games.state, last_token)
      tokens, mask = _where(retried, retry, (tokens, mask))
    if config.context == "full":
      head = memory.pending[:, None], memory.is_pending[:, None]
    else:
      head = observations.answers.take(games.last_answer)
    chunk = (
      jnp.concatenate([head[0], tokens], axis=1),
      jnp.concatenate([head[1], mask], axis=1),
    )
    if self._is_self_play:
      # The second seat's conversation begins at a later turn.
      is_first = memory.positions == len(tables.prefix)
      first = _first_chunk(tables, games.state)
      chunk, retried = _where(is_first, first, chunk), retried & ~is_first
    return *chunk, retried

  def _move(
    self,
    tables: tables_lib.Tables,
    env: Environment,
    games: _Games,
    active: jax.Array,
    answers: sampling_lib.Answers,
    moves: jax.Array,
  ) -> _Games:
    """Plays the moves of the answers and the opponent's replies."""
    is_answered = active & (moves >= 0)
    stepped = jax.vmap(env.step)(games.state, jnp.maximum(moves, 0))
    select = jax.vmap(lambda chosen, a, b: jnp.where(chosen, a, b))
    state = jax.tree.map(
      functools.partial(select, is_answered), stepped, games.state
    )
    ending = jnp.where(is_answered, jax.vmap(env.outcome)(state), games.ending)
    ending = jnp.where(answers.is_cut, jnp.int8(Ending.LENGTH), ending)
    if self._config.on_parse_error == "end":
      is_unreadable = active & (answers.state == answers_lib.DEAD)
      ending = jnp.where(is_unreadable, jnp.int8(Ending.PARSE_ERROR), ending)
    last_answer = jnp.where(is_answered, moves, tables.unreadable)
    tried = games.tried
    return _Games(
      state=state,
      ending=ending,
      last_answer=jnp.where(active, last_answer, games.last_answer),
      tried=None if tried is None else jnp.where(active, -1, tried),
      agents=games.agents,
    )


def check_limits(
  tables: tables_lib.Tables,
  play: config_lib.PlayConfig,
  shortest: int,
  answer: str = "the shortest answer",
) -> None:
  """Raises a UserError if the token limits are too small for an answer."""
  if play.max_new_tokens < shortest:
    raise errors.UserError(
      f"max_new_tokens: {play.max_new_tokens} is too few; use at least"
      f" {shortest}, the length of {answer}"
    )
  limit = play.max_game_tokens
  needed = tables.observations.max_begin + shortest
  if limit is not None and limit < needed:
    raise errors.UserError(
      f"max_game_tokens: {limit} is too few; use at least {needed}, the"
      f" length of a board and {answer}"
    )


def _first_chunk(
  tables: tables_lib.Tables, states: Any
) -> tuple[jax.Array, jax.Array]:
  """Returns the first chunks of conversations after the prefix of all, [B, L]."""
  tokens, mask = tables.observations.chunks("begin", states)
  first = len(tables.prefix)
  return tokens[:, first:], mask[:, first:]


def _where(
  condition: jax.Array,
  this: tuple[jax.Array, jax.Array],
  that: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Returns tokens and mask [B, L] of `this` in rows of a condition, bool [B]."""
  width = max(this[0].shape[1], that[0].shape[1])
  tokens, mask = (
    jnp.where(
      condition[:, None], policy_lib.widen(a, width), policy_lib.widen(b, width)
    )
    for a, b in zip(this, that, strict=True)
  )
  return tokens, mask


def make_tables(
  config: config_lib.SFTConfig, tokenizer: tokenizers.Tokenizer
) -> tables_lib.Tables:
  """Returns the lookup tables of the config's game."""
  return tables_lib.build(catalog.of(config), tokenizer)


def greedy_single_moves(
  play: config_lib.PlayConfig,
) -> config_lib.PlayConfig:
  """Returns the settings with one greedy move per game in context `board`."""
  return dataclasses.replace(
    play, max_turns=1, context="board", temperature=0.0, on_parse_error="end"
  )
