"""Decodes a batch of answers token by token and follows the answer grammar."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.rollout import kv_cache
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.text import grammar as grammar_lib


@struct.dataclass
class Answers:
  """B answers of at most A tokens.

  Attributes:
    count: Number of decoding steps so far, int32 [].
    is_active: Rows whose answer is unfinished, bool [B].
    state: State of the grammar's automaton, uint8 [B].
    actions: Sampled tokens, int32 [B, A].
    action_mask: Mask of the sampled tokens, bool [B, A].
    log_probs: Log-probabilities of the sampled tokens, float32 [B, A].
    sampled_mass: Probabilities of all tokens that could be sampled, float32
      [B, A]; None if all tokens could be.
    is_cut: Rows that reached a token limit, bool [B].
  """

  count: jax.Array
  is_active: jax.Array
  state: jax.Array
  actions: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  sampled_mass: jax.Array | None
  is_cut: jax.Array


def decode(
  policy: policy_lib.Policy,
  params: Any,
  tables: tables_lib.Tables,
  keys: jax.Array,
  memory: kv_cache.Memory,
  logits: jax.Array,
  active: jax.Array,
  *,
  sampling: sampling_lib.Sampling,
  max_new_tokens: int,
  max_game_tokens: int | None,
) -> tuple[kv_cache.Memory, Answers]:
  """Decodes until every active row has an answer or reaches a token limit.

  `keys` [B] has each row's random key, `logits` [B, V] the logits of the first
  token and `active` bool [B] the rows that answer. The memory needs
  `max_new_tokens` unused slots.
  """
  shape = active.shape[0], max_new_tokens
  answers = Answers(
    count=jnp.int32(0),
    is_active=active,
    state=jnp.full(shape[:1], grammar_lib.START, jnp.uint8),
    actions=jnp.zeros(shape, jnp.int32),
    action_mask=jnp.zeros(shape, bool),
    log_probs=jnp.zeros(shape, jnp.float32),
    sampled_mass=jnp.zeros(shape, jnp.float32) if sampling.is_cut else None,
    is_cut=jnp.zeros(shape[:1], bool),
  )

  def add_token(
    memory: kv_cache.Memory, answers: Answers, logits: jax.Array
  ) -> tuple[kv_cache.Memory, Answers]:
    count, is_active = answers.count, answers.is_active
    allowed = None
    if sampling.constrained:
      after = tables.next_state[answers.state]
      fits = tables.tokens_left[after] < max_new_tokens - count
      allowed = (after != grammar_lib.DEAD) & fits
    token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
    tokens, log_probs, mass = sampling_lib.sample(
      token_keys, logits, sampling, allowed
    )
    state = jnp.where(
      is_active, tables.next_state[answers.state, tokens], answers.state
    )
    is_done = (state == grammar_lib.DEAD) | (tables.moves[state] >= 0)
    is_cut = count + 1 == max_new_tokens
    if max_game_tokens is not None:
      is_cut |= memory.positions + 1 >= max_game_tokens

    def put(column: Any, rows: jax.Array) -> jax.Array:
      return rows.at[:, count].set(jnp.where(is_active, column, rows[:, count]))

    masses = answers.sampled_mass
    answers = Answers(
      count=count + 1,
      is_active=is_active & ~is_done & ~is_cut,
      state=state,
      actions=put(tokens, answers.actions),
      action_mask=put(is_active, answers.action_mask),
      log_probs=put(log_probs, answers.log_probs),
      sampled_mass=None if masses is None else put(mass, masses),
      is_cut=answers.is_cut | (is_active & ~is_done & is_cut),
    )
    pending = jnp.where(is_active, tokens, memory.pending)
    memory = dataclasses.replace(memory, pending=pending, is_pending=is_active)
    return memory, answers

  def step(carry: tuple[kv_cache.Memory, Answers]) -> Any:
    memory, answers = carry
    tokens, mask = memory.pending[:, None], memory.is_pending[:, None]
    memory, logits = kv_cache.feed(policy, params, memory, tokens, mask)
    return add_token(memory, answers, logits)

  return jax.lax.while_loop(
    lambda carry: carry[1].is_active.any(),
    step,
    add_token(memory, answers, logits),
  )
