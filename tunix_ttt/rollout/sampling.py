"""Samples tokens from logits."""

import dataclasses
import math
from typing import Any, Literal

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.text import answers as answers_lib

# Number of an answer's tokens that are decoded with a small cache.
_SHORT = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    temperature: Divisor of the logits; 0 selects the most likely token.
    top_k: Number of most likely tokens to sample from; None for all.
    top_p: Smallest total probability of the most likely tokens to sample from
      (Holtzman et al., 2020).
    constrained: Whether to sample only tokens that can complete an answer
      within the limit of the turn; `legal` for answers with a legal action.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float = 1.0
  constrained: bool | Literal["legal"] = False

  def __post_init__(self):
    """Raises a ValueError for settings out of range."""
    if self.temperature < 0:
      raise ValueError(f"temperature must not be negative: {self.temperature}")
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f"top_k must be at least 1: {self.top_k}")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p must be in (0, 1]: {self.top_p}")

  @classmethod
  def of(
    cls, settings: config_lib.PlayConfig | config_lib.RolloutConfig
  ) -> "Sampling":
    """Returns the settings of token sampling in a section of a config."""
    names = (field.name for field in dataclasses.fields(cls))
    return cls(**{name: getattr(settings, name) for name in names})

  @property
  def is_cut(self) -> bool:
    """Whether tokens with a positive probability may be excluded."""
    has_limits = self.top_k is not None or self.top_p < 1
    return bool(self.constrained) or (self.temperature > 0 and has_limits)


def sample(
  keys: jax.Array,
  logits: jax.Array,
  settings: Sampling,
  allowed: jax.Array | None = None,
  drawn: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Samples a token for each row.

  The returned probabilities are the model's at the temperature (1 if the
  temperature is 0), before `top_k`, `top_p` and `allowed` exclude tokens. A
  trainer computes the same values from the same weights.

  Args:
    keys: Random key of each row, [B]; consumed.
    logits: Logits of the model, float [B, V].
    settings: Settings of the sampler.
    allowed: Mask of the tokens to sample from, bool [B, V]; None for all.
    drawn: Logits to sample from, float [B, V]; None for the model's.

  Returns:
    The tokens, int32 [B]; their log-probabilities, float32 [B]; and the total
    probability of the tokens that could be sampled, float32 [B], or None if
    `settings.is_cut` is False.
  """
  logits = _scale(logits, settings)
  log_probs = jax.nn.log_softmax(logits)
  if drawn is not None:
    logits = _scale(drawn, settings)
  logits = _restrict(logits, settings, allowed)
  if settings.temperature == 0:
    tokens = logits.argmax(axis=-1)
  else:
    tokens = _draw(keys, logits)
  tokens = tokens.astype(jnp.int32)
  chosen = jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]
  mass = None
  if settings.is_cut:
    mass = jnp.where(logits > -jnp.inf, jnp.exp(log_probs), 0).sum(axis=-1)
  return tokens, chosen, mass


def _draw(keys: jax.Array, logits: jax.Array) -> jax.Array:
  """Draws a token of each row of logits [B, V] by one uniform number, [B].

  `jax.random.categorical` draws V numbers for each, which takes longer than all
  else of sampling. A block of tokens is chosen first, and then one of its tokens:
  their sums are of few numbers, and where devices split the tokens, they send
  one another a block.
  """
  probs = jax.nn.softmax(logits)
  size = math.isqrt(probs.shape[1] - 1) + 1
  padding = ((0, 0), (0, -probs.shape[1] % size))
  blocks = jnp.pad(probs, padding).reshape(len(probs), -1, size)
  uniform = jax.vmap(jax.random.uniform)(keys)
  block, rest = _choose(blocks.sum(axis=-1), uniform, is_share=True)
  chosen = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  return block * size + _choose(chosen, rest)[0]


def _choose(
  weights: jax.Array, target: jax.Array, *, is_share: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns the first index at which the sum of weights [B, N] exceeds a target.

  Also returns what of the target, [B], is left there. Where `is_share`, the target
  is a share of the sum of all weights. An index without weight is never returned,
  however sums are rounded.
  """
  total = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0)
  most = total.max(axis=-1)
  if is_share:
    target = target * most
  target = jnp.clip(target, 0, jnp.nextafter(most, jnp.float32(0)))
  index = (total > target[:, None]).argmax(axis=-1)
  here = index[:, None]
  before = jnp.take_along_axis(total - weights, here, axis=-1)[:, 0]
  return index, target - before


def probabilities(
  logits: jax.Array, settings: Sampling, allowed: jax.Array | None = None
) -> jax.Array:
  """Returns the probabilities with which `sample` takes each token.

  The arguments are those of `sample`; `logits` and the result are [..., V]. A
  row without an allowed token has probabilities 0.
  """
  logits = _restrict(_scale(logits, settings), settings, allowed)
  is_kept = logits > -jnp.inf
  if settings.temperature == 0:
    best = logits.argmax(axis=-1, keepdims=True)
    chosen = (jnp.arange(logits.shape[-1]) == best).astype(jnp.float32)
  else:
    chosen = jax.nn.softmax(logits)
  return jnp.where(is_kept, chosen, 0)


def _scale(logits: jax.Array, settings: Sampling) -> jax.Array:
  logits = logits.astype(jnp.float32)
  return logits / settings.temperature if settings.temperature > 0 else logits


def _restrict(
  logits: jax.Array, settings: Sampling, allowed: jax.Array | None
) -> jax.Array:
  """Sets the scaled logits of tokens that are not sampled from to -inf."""
  if allowed is not None:
    logits = jnp.where(allowed, logits, -jnp.inf)
  return logits if settings.temperature == 0 else _cut(logits, settings)


def _cut(logits: jax.Array, settings: Sampling) -> jax.Array:
  """Sets the logits of the tokens outside `top_k` and `top_p` to -inf."""
  size = logits.shape[-1]
  if settings.top_k is not None and settings.top_k < size:
    smallest = jax.lax.top_k(logits, settings.top_k)[0][..., -1:]
    logits = jnp.where(logits < smallest, -jnp.inf, logits)
  if settings.top_p < 1:
    descending = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(descending)
    # Keep a token if the total before it is below `top_p`.
    is_kept = jnp.cumsum(probs, axis=-1) - probs < settings.top_p
    smallest = jnp.where(is_kept, descending, jnp.inf).min(
      axis=-1, keepdims=True
    )
    logits = jnp.where(logits < smallest, -jnp.inf, logits)
  return logits


@struct.dataclass
class Answers:
  """B answers of at most A tokens.

  Attributes:
    count: Number of decoding steps so far, int32 [].
    is_active: Rows whose answer is unfinished, bool [B].
    state: State of the grammar's automaton, int32 [B].
    rank: Rank of the spellings in the grammar, int32 [B].
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
  rank: jax.Array
  actions: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  sampled_mass: jax.Array | None
  is_cut: jax.Array


def decode(
  policy: policy_lib.Policy,
  params: Any,
  table: answers_lib.AnswerTable,
  keys: jax.Array,
  memory: policy_lib.Memory,
  logits: jax.Array,
  active: jax.Array,
  *,
  sampling: Sampling,
  num_slots: int,
  max_new_tokens: int,
  max_game_tokens: int | None,
  legal: jax.Array | None = None,
  tried: jax.Array | None = None,
) -> tuple[policy_lib.Memory, Answers]:
  """Decodes until every active row has an answer or reaches a token limit.

  `keys` [B] has each row's random key, `logits` [B, V] the logits of the first
  token and `active` bool [B] the rows that answer. `num_slots` is the number of
  the memory's slots that are used; it grows to hold the answers. `legal` bool [B, A] has the legal actions, to
  which answers are constrained; None for all actions. `tried` int32 [B] has the
  action of each row's answer, -1 for any; see `answers.try_action`.
  """
  shape = active.shape[0], max_new_tokens
  answers = Answers(
    count=jnp.int32(0),
    is_active=active,
    state=jnp.full(shape[:1], answers_lib.START),
    rank=jnp.zeros(shape[:1], jnp.int32),
    actions=jnp.zeros(shape, jnp.int32),
    action_mask=jnp.zeros(shape, bool),
    log_probs=jnp.zeros(shape, jnp.float32),
    sampled_mass=jnp.zeros(shape, jnp.float32) if sampling.is_cut else None,
    is_cut=jnp.zeros(shape[:1], bool),
  )
  counts = None if legal is None else answers_lib.count_legal(table, legal)

  def add_token(
    memory: policy_lib.Memory, answers: Answers, logits: jax.Array
  ) -> tuple[policy_lib.Memory, Answers]:
    count, is_active = answers.count, answers.is_active
    allowed = drawn = None
    place = table, answers.state, answers.rank
    room = max_new_tokens - count
    if sampling.constrained:
      allowed = answers_lib.allowed(*place, counts, room=room)
    if tried is not None:
      drawn = answers_lib.try_action(*place, logits, tried, room=room)
    token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
    tokens, log_probs, mass = sample(
      token_keys, logits, sampling, allowed, drawn
    )
    state, rank = (
      jnp.where(is_active, after, before)
      for before, after in zip(
        (answers.state, answers.rank),
        answers_lib.advance(table, answers.state, answers.rank, tokens),
        strict=True,
      )
    )
    is_done = (state == answers_lib.DEAD) | (state == answers_lib.ENDED)
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
      rank=rank,
      actions=put(tokens, answers.actions),
      action_mask=put(is_active, answers.action_mask),
      log_probs=put(log_probs, answers.log_probs),
      sampled_mass=None if masses is None else put(mass, masses),
      is_cut=answers.is_cut | (is_active & ~is_done & is_cut),
    )
    pending = jnp.where(is_active, tokens, memory.pending)
    memory = dataclasses.replace(memory, pending=pending, is_pending=is_active)
    return memory, answers

  def step(carry: tuple[policy_lib.Memory, Answers]) -> Any:
    memory, answers = carry
    tokens, mask = memory.pending[:, None], memory.is_pending[:, None]
    memory, logits = policy_lib.feed(policy, params, memory, tokens, mask)
    return add_token(memory, answers, logits)

  memory, answers = add_token(memory, answers, logits)
  # Most answers are much shorter than the limit, and attention is over all slots.
  short = max(_SHORT, max_new_tokens // 4)
  for limit in sorted({min(short, max_new_tokens), max_new_tokens}):
    slots = max(memory.valid.shape[1], num_slots + limit)
    memory, answers = jax.lax.while_loop(
      lambda carry, limit=limit: (
        carry[1].is_active.any() & (carry[1].count < limit)
      ),
      step,
      (policy_lib.grow(policy, memory, slots), answers),
    )
  return memory, answers
