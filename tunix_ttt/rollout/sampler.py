"""Whole games of a policy against an opponent, as one compiled program.

A turn prefills the chunk of tokens that shows a board and decodes until every
row has answered. Rows share the slots of the key-value cache and have their
own mask of those they may read, so a chunk that is shorter than its neighbour's
leaves slots empty, which cost a little work and change nothing.
"""

import dataclasses
import functools
from typing import Any, Literal

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import schedule
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import grammar as grammar_lib

Ending = trajectory_lib.Ending
# A turn's part of a trajectory.
_Record = dict[str, jax.Array]
# Answers that were not readable have their own row in the table of answers.
_UNREADABLE = rules.NUM_CELLS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
  """Settings of a rollout.

  Attributes:
    context: what a turn is shown: `full` the whole conversation, `truncated`
      the same with past thoughts replaced, `board` the present board alone.
    max_turns: turns of the model in a game; more than five make sense where
      unreadable answers are answered. At 1 the model is asked for single moves.
    max_new_tokens: tokens of a turn's answer.
    max_game_tokens: tokens of a conversation, chunks and answers; None for no
      limit of its own.
    rows_at_once: in the context `board`, how many games have their turn
      together; others take the place of those that end. None for what is fast:
      a quarter of them, 32 at least, on a CPU, and all of them elsewhere.
      Results do not depend on it.
    on_parse_error: `end` ends the game at an unreadable answer; `retry` shows
      the board again.
    sampling: how tokens are drawn.
  """

  context: Literal["full", "truncated", "board"] = "board"
  max_turns: int = 5
  max_new_tokens: int = 32
  max_game_tokens: int | None = None
  rows_at_once: int | None = None
  on_parse_error: Literal["end", "retry"] = "end"
  sampling: sampling_lib.Sampling = dataclasses.field(
    default_factory=sampling_lib.Sampling
  )


@struct.dataclass
class _Memory:
  """The state of the model between turns: its KV cache and positions.

  Attributes:
    cache: the policy's.
    valid: bool [B, S], the slots a row may read.
    end: int32 [], the first slot that is not in use.
    positions: int32 [B], the position of a row's next token.
    pending: int32 [B], a row's last token, where it is not in the cache yet.
    is_pending: bool [B], where that is so.
  """

  cache: Any
  valid: jax.Array
  end: jax.Array
  positions: jax.Array
  pending: jax.Array
  is_pending: jax.Array


@struct.dataclass
class _Games:
  """The state of all games.

  Attributes:
    state: the environment's, of B games.
    ending: int8 [B].
    last_answer: int32 [B], the cell played last, `_UNREADABLE` for none.
  """

  state: env_lib.State
  ending: jax.Array
  last_answer: jax.Array


@struct.dataclass
class _Answers:
  """Answers as they grow.

  Attributes:
    count: int32 [], tokens sampled so far, in rows that are not done.
    generating: bool [B], rows that are not done.
    state: uint8 [B], of the automaton.
    actions: int32 [B, A].
    action_mask: bool [B, A].
    log_probs: float32 [B, A].
    sampled_mass: float32 [B, A], see `Trajectory`.
    cut: bool [B], rows that ran into a limit.
  """

  count: jax.Array
  generating: jax.Array
  state: jax.Array
  actions: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  sampled_mass: jax.Array | None
  cut: jax.Array


class Sampler:
  """Plays batches of games; compiles once for each batch size.

  Attributes:
    num_traces: how often the program has been traced for compilation.
  """

  def __init__(
    self,
    policy: policy_lib.Policy,
    env: env_lib.TicTacToe,
    tables: tables_lib.Tables,
    config: RolloutConfig,
  ):
    """Makes the program; nothing is compiled yet.

    Raises:
      errors.UserError: if the limits leave no room for an observation and an
        answer.
    """
    self._policy = policy
    self._env = env
    self._tables = tables
    self._config = config
    self.num_traces = 0
    self._check_limits()
    self._play = jax.jit(self._rollout)

  def __call__(
    self,
    params: Any,
    keys: jax.Array,
    states: env_lib.State,
    opponent: opponents.Opponent | None = None,
  ) -> trajectory_lib.Trajectory:
    """Plays games to their end.

    Args:
      params: the policy's values.
      keys: [B], of each game's tokens; not consumed elsewhere.
      states: B games, as `TicTacToe.init` under `jax.vmap` makes them.
      opponent: in place of the environment's; a `jax.tree_util.Partial`, whose
        arrays may change from call to call.
    """
    return self._play(params, self._tables, keys, states, opponent)

  def _check_limits(self) -> None:
    config, tables = self._config, self._tables
    shortest = int(tables.tokens_left[grammar_lib.START])
    if config.max_new_tokens < shortest:
      raise errors.UserError(
        f"max_new_tokens: {config.max_new_tokens} is too few; the shortest"
        f" answer takes {shortest} tokens"
      )
    limit = config.max_game_tokens
    needed = int(tables.observations.begin.lengths.max()) + shortest
    if limit is not None and limit < needed:
      raise errors.UserError(
        f"max_game_tokens: {limit} is too few; a board and the shortest answer"
        f" take {needed} tokens"
      )

  def _rollout(
    self,
    params: Any,
    tables: tables_lib.Tables,
    keys: jax.Array,
    states: env_lib.State,
    opponent: opponents.Opponent | None,
  ) -> trajectory_lib.Trajectory:
    self.num_traces += 1
    env = self._env
    if opponent is not None:
      env = dataclasses.replace(env, opponent=opponent)
    batch_size = keys.shape[0]
    games = _Games(
      state=states,
      ending=states.outcome,
      last_answer=jnp.full(batch_size, _UNREADABLE),
    )
    play = functools.partial(self._turn, params, tables, env)
    if self._config.context == "board":
      fastest = batch_size
      if jax.default_backend() == "cpu":
        fastest = max(32, batch_size // 4)
      width = min(batch_size, self._config.rows_at_once or fastest)

      def turn(
        keys: jax.Array, games: _Games, active: jax.Array
      ) -> tuple[_Games, _Record]:
        return play(
          self._empty(width), keys, games, active, is_first_turn=True
        )[1:]

      games, records = schedule.independent_turns(
        turn, keys, games, self._config.max_turns, width
      )
    else:
      games, records = schedule.conversation_turns(
        play, self._empty(batch_size), keys, games, self._config.max_turns
      )
    moves = records.pop("moves")
    # What it means that the turns ran out.
    ending = jnp.full(batch_size, Ending.LENGTH, jnp.int8)
    if self._config.max_turns == 1:
      has_moved = games.last_answer != _UNREADABLE
      ending = jnp.where(has_moved, jnp.int8(Ending.UNFINISHED), ending)
    return trajectory_lib.Trajectory(
      agent=states.agent,
      ending=jnp.where(games.ending == Ending.ONGOING, ending, games.ending),
      board=games.state.board,
      moves=jnp.where(records["turn_mask"], moves, jnp.int8(-1)),
      **records,
    )

  def _empty(self, batch_size: int) -> _Memory:
    return _Memory(
      cache=self._policy.init_cache(batch_size, 0),
      valid=jnp.zeros((batch_size, 0), bool),
      end=jnp.int32(0),
      positions=jnp.zeros(batch_size, jnp.int32),
      pending=jnp.zeros(batch_size, jnp.int32),
      is_pending=jnp.zeros(batch_size, bool),
    )

  def _turn(
    self,
    params: Any,
    tables: tables_lib.Tables,
    env: env_lib.TicTacToe,
    memory: _Memory,
    keys: jax.Array,
    games: _Games,
    active: jax.Array,
    *,
    is_first_turn: bool,
  ) -> tuple[_Memory, _Games, _Record]:
    """Plays a turn of the active games [B]; the others stay as they are."""
    tokens, mask, retried = self._chunk(
      tables, memory, games, is_first_turn=is_first_turn
    )
    limit = self._config.max_game_tokens
    if limit is not None:
      fits = memory.positions + mask.sum(axis=1) < limit
      ending = jnp.where(active & ~fits, jnp.int8(Ending.LENGTH), games.ending)
      games, active = dataclasses.replace(games, ending=ending), active & fits
    memory = self._grow(memory, tokens.shape[1] + self._config.max_new_tokens)
    memory, logits = self._feed(params, memory, tokens, mask & active[:, None])
    asked = memory
    memory, answers = self._answer(params, tables, keys, memory, logits, active)
    games_after = self._move(tables, env, games, active, answers)
    if self._config.context == "truncated":
      # What was sampled is forgotten; the next chunk has what stands for it.
      memory = dataclasses.replace(
        memory,
        end=asked.end,
        positions=asked.positions,
        is_pending=asked.is_pending,
      )
    record = {
      "boards": games.state.board,
      "last_moves": games.state.last_move,
      "retried": retried & active,
      "turn_mask": active,
      "moves": tables.moves[answers.state],
      "actions": answers.actions,
      "action_mask": answers.action_mask,
      "log_probs": answers.log_probs,
      "sampled_mass": answers.sampled_mass,
    }
    return memory, games_after, record

  def _chunk(
    self,
    tables: tables_lib.Tables,
    memory: _Memory,
    games: _Games,
    *,
    is_first_turn: bool,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the next tokens to feed [B, L], their mask and who is retried."""
    config, known = self._config, tables.observations
    row = known.rows[games.state.board, games.state.last_move + 1]
    tokens, mask = tables_lib.look_up(known.begin, row)
    nobody = jnp.zeros(row.shape, bool)
    if is_first_turn:
      return tokens, mask, nobody
    retried = games.last_answer == _UNREADABLE
    tokens, mask = tables_lib.look_up(known.follow, row)
    if config.on_parse_error == "retry":
      # In `truncated` the answer is gone, and its end with it.
      is_kept = config.context == "full"
      said_last = jnp.where(is_kept, memory.pending, -1)
      again = tables_lib.retry_chunk(tables, row, said_last)
      width = max(tokens.shape[1], again[0].shape[1])
      tokens, mask = (
        jnp.where(retried[:, None], _widen(b, width), _widen(a, width))
        for a, b in zip((tokens, mask), again, strict=True)
      )
    else:
      retried = nobody
    if config.context == "full":
      head = memory.pending[:, None], memory.is_pending[:, None]
    else:
      head = tables_lib.look_up(known.answers, games.last_answer)
    return (
      jnp.concatenate([head[0], tokens], axis=1),
      jnp.concatenate([head[1], mask], axis=1),
      retried,
    )

  def _grow(self, memory: _Memory, added: int) -> _Memory:
    # `truncated` gives back the slots of its last answer.
    num_slots = memory.valid.shape[1] + added
    if self._config.context == "truncated" and memory.valid.shape[1]:
      num_slots -= self._config.max_new_tokens
    return dataclasses.replace(
      memory,
      cache=self._policy.grow_cache(memory.cache, num_slots),
      valid=_widen(memory.valid, num_slots),
    )

  def _feed(
    self, params: Any, memory: _Memory, tokens: jax.Array, mask: jax.Array
  ) -> tuple[_Memory, jax.Array]:
    """Feeds [B, L] tokens, of which `mask` exist; returns the last's logits."""
    length = tokens.shape[1]
    order = jnp.cumsum(mask, axis=1)
    positions = memory.positions[:, None] + jnp.maximum(order - 1, 0)
    valid = jax.lax.dynamic_update_slice(
      memory.valid, mask, (jnp.int32(0), memory.end)
    )
    slots = jnp.arange(valid.shape[1])
    causal = slots <= memory.end + jnp.arange(length)[:, None]
    # The last of the tokens that exist; any of them where none does.
    read = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    logits, cache = self._policy(
      params,
      tokens,
      positions,
      memory.cache,
      memory.end,
      valid[:, None, :] & causal,
      read,
    )
    memory = dataclasses.replace(
      memory,
      cache=cache,
      valid=valid,
      end=memory.end + length,
      positions=memory.positions + order[:, -1],
      is_pending=jnp.zeros_like(memory.is_pending),
    )
    return memory, logits

  def _answer(
    self,
    params: Any,
    tables: tables_lib.Tables,
    keys: jax.Array,
    memory: _Memory,
    logits: jax.Array,
    active: jax.Array,
  ) -> tuple[_Memory, _Answers]:
    """Decodes until every row has an answer or has run out of tokens."""
    batch_size, width = active.shape[0], self._config.max_new_tokens
    answers = _Answers(
      count=jnp.int32(0),
      generating=active,
      state=jnp.full(batch_size, grammar_lib.START, jnp.uint8),
      actions=jnp.zeros((batch_size, width), jnp.int32),
      action_mask=jnp.zeros((batch_size, width), bool),
      log_probs=jnp.zeros((batch_size, width), jnp.float32),
      sampled_mass=jnp.zeros((batch_size, width), jnp.float32)
      if self._config.sampling.is_cut
      else None,
      cut=jnp.zeros(batch_size, bool),
    )

    def step(carry: tuple[_Memory, _Answers]) -> tuple[_Memory, _Answers]:
      memory, answers = carry
      memory, logits = self._feed(
        params, memory, memory.pending[:, None], memory.is_pending[:, None]
      )
      return self._sample(tables, keys, memory, answers, logits)

    return jax.lax.while_loop(
      lambda carry: carry[1].generating.any(),
      step,
      self._sample(tables, keys, memory, answers, logits),
    )

  def _sample(
    self,
    tables: tables_lib.Tables,
    keys: jax.Array,
    memory: _Memory,
    answers: _Answers,
    logits: jax.Array,
  ) -> tuple[_Memory, _Answers]:
    """Adds a token to every answer that is not done."""
    config, count, on = self._config, answers.count, answers.generating
    allowed = None
    if config.sampling.constrained:
      after = tables.next_state[answers.state]
      fits = tables.tokens_left[after] < config.max_new_tokens - count
      allowed = (after != grammar_lib.DEAD) & fits
    token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
    tokens, log_probs, mass = sampling_lib.sample(
      token_keys, logits, config.sampling, allowed
    )
    state = jnp.where(
      on, tables.next_state[answers.state, tokens], answers.state
    )
    done = (state == grammar_lib.DEAD) | (tables.moves[state] >= 0)
    cut = count + 1 == config.max_new_tokens
    if config.max_game_tokens is not None:
      cut |= memory.positions + 1 >= config.max_game_tokens

    def put(column: Any, rows: jax.Array) -> jax.Array:
      return rows.at[:, count].set(jnp.where(on, column, rows[:, count]))

    masses = answers.sampled_mass
    answers = _Answers(
      count=count + 1,
      generating=on & ~done & ~cut,
      state=state,
      actions=put(tokens, answers.actions),
      action_mask=put(on, answers.action_mask),
      log_probs=put(log_probs, answers.log_probs),
      sampled_mass=None if masses is None else put(mass, masses),
      cut=answers.cut | (on & ~done & cut),
    )
    memory = dataclasses.replace(
      memory, pending=jnp.where(on, tokens, memory.pending), is_pending=on
    )
    return memory, answers

  def _move(
    self,
    tables: tables_lib.Tables,
    env: env_lib.TicTacToe,
    games: _Games,
    active: jax.Array,
    answers: _Answers,
  ) -> _Games:
    """Plays the answers' moves and the opponent's replies."""
    cell = tables.moves[answers.state].astype(jnp.int32)
    answered = active & (cell >= 0)
    stepped = jax.vmap(env.step)(games.state, jnp.maximum(cell, 0))
    state = jax.tree.map(
      lambda new, old: jnp.where(answered, new, old), stepped, games.state
    )
    ending = jnp.where(answered, state.outcome, games.ending)
    ending = jnp.where(answers.cut, jnp.int8(Ending.LENGTH), ending)
    if self._config.on_parse_error == "end":
      unreadable = active & (answers.state == grammar_lib.DEAD)
      ending = jnp.where(unreadable, jnp.int8(Ending.PARSE_ERROR), ending)
    last_answer = jnp.where(answered, cell, _UNREADABLE)
    return _Games(
      state=state,
      ending=ending,
      last_answer=jnp.where(active, last_answer, games.last_answer),
    )


def _widen(rows: jax.Array, width: int) -> jax.Array:
  return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))
