"""Converts trajectories to the token sequences of a trainer.

Each sequence holds the tokens that the model read and sampled, in order and
without gaps, and the log-probabilities of the sampled tokens.
"""

from typing import Literal

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib


@struct.dataclass
class Sequences:
  """N sequences of at most L tokens, padded at the end.

  The context `full` has one sequence per game, N = B. The other contexts have
  one per turn, N = B * T, in the order of games and then turns; turns that were
  not played are empty.

  Attributes:
    tokens: Token ids, int32 [N, L].
    mask: Mask of the tokens that exist, bool [N, L].
    action_mask: Mask of the tokens that the model sampled, bool [N, L].
    log_probs: Log-probabilities of the sampled tokens, 0 elsewhere, float32
      [N, L].
    turns: Turn number of the sampled tokens, 0 elsewhere, int32 [N, L].
  """

  tokens: jax.Array
  mask: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  turns: jax.Array


def sequences(
  games: trajectory_lib.Trajectory,
  tables: tables_lib.Tables,
  context: Literal["full", "truncated", "board"],
) -> Sequences:
  """Returns the token sequences of a sampler's games in its context."""
  num_turns = games.turn_mask.shape[1]
  first = [_chunk(games, tables, turn) for turn in range(num_turns)]
  last_tokens = _last_tokens(games, is_kept=context == "full")
  later = [
    _chunk(games, tables, turn, last_token=last_tokens[:, turn - 1])
    for turn in range(1, num_turns)
  ]
  answers = [_answer(games, turn) for turn in range(num_turns)]
  if context == "board":
    rows = [[a, b] for a, b in zip(first, answers, strict=True)]
  else:
    past_answers = (
      answers if context == "full" else _replacements(games, tables)
    )
    # All parts before the answer of each turn.
    prompts = [[first[0]]]
    for turn, chunk in enumerate(later):
      prompts.append([*prompts[-1], past_answers[turn], chunk])
    rows = [[*prompt, a] for prompt, a in zip(prompts, answers, strict=True)]
    rows = rows[-1:] if context == "full" else rows
  width = max(sum(part.tokens.shape[1] for part in row) for row in rows)
  compact = [_compact(row, width) for row in rows]
  return jax.tree.map(
    lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, width), *compact
  )


def _chunk(
  games: trajectory_lib.Trajectory,
  tables: tables_lib.Tables,
  turn: int,
  last_token: jax.Array | None = None,
) -> Sequences:
  """Returns the chunk of a turn; the first of a conversation if no last token."""
  observations = tables.observations
  row = observations.rows[games.boards[:, turn], games.last_moves[:, turn] + 1]
  is_played = games.turn_mask[:, turn, None]
  if last_token is None:
    tokens, mask = tables_lib.look_up(observations.begin, row)
  else:
    retried = games.retried[:, turn, None]
    follow = tables_lib.look_up(observations.follow, row)
    retry = tables_lib.retry_chunk(tables, row, last_token)
    tokens, mask = (
      jnp.concatenate([a, b], axis=1)
      for a, b in zip(follow, retry, strict=True)
    )
    is_retry = jnp.arange(tokens.shape[1]) >= follow[0].shape[1]
    mask = mask & (is_retry == retried)
  return _read(tokens, mask & is_played)


def _last_tokens(
  games: trajectory_lib.Trajectory, *, is_kept: bool
) -> jax.Array:
  """Returns the last token of each answer, or -1 if not kept: int32 [B, T]."""
  if not is_kept:
    return jnp.full(games.turn_mask.shape, -1)
  last = jnp.maximum(games.action_mask.sum(axis=-1) - 1, 0)
  return jnp.take_along_axis(games.actions, last[..., None], axis=-1)[..., 0]


def _answer(games: trajectory_lib.Trajectory, turn: int) -> Sequences:
  mask = games.action_mask[:, turn]
  return Sequences(
    tokens=games.actions[:, turn],
    mask=mask,
    action_mask=mask,
    log_probs=games.log_probs[:, turn],
    turns=jnp.full(mask.shape, turn, jnp.int32),
  )


def _replacements(
  games: trajectory_lib.Trajectory, tables: tables_lib.Tables
) -> list[Sequences]:
  """Returns the truncated form of each answer that a turn follows."""
  parts = []
  for turn in range(games.turn_mask.shape[1] - 1):
    move = games.moves[:, turn].astype(jnp.int32)
    row = jnp.where(move < 0, rules.NUM_CELLS, move)
    tokens, mask = tables_lib.look_up(tables.observations.answers, row)
    parts.append(_read(tokens, mask & games.turn_mask[:, turn + 1, None]))
  return parts


def _read(tokens: jax.Array, mask: jax.Array) -> Sequences:
  return Sequences(
    tokens=tokens,
    mask=mask,
    action_mask=jnp.zeros_like(mask),
    log_probs=jnp.zeros(tokens.shape, jnp.float32),
    turns=jnp.zeros(tokens.shape, jnp.int32),
  )


def _compact(parts: list[Sequences], width: int) -> Sequences:
  """Concatenates parts and moves padding to the end."""
  joined = jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)
  # A turn without sampled tokens was not played.
  is_played = joined.action_mask.any(axis=1, keepdims=True)
  mask = joined.mask & is_played
  order = jnp.argsort(~mask, axis=1, stable=True)

  def arrange(leaf: jax.Array) -> jax.Array:
    leaf = jnp.where(mask, leaf, jnp.zeros_like(leaf))
    leaf = jnp.take_along_axis(leaf, order, axis=1)
    return jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1])))

  return jax.tree.map(arrange, joined.replace(mask=mask))
