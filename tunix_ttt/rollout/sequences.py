"""From trajectories to the token sequences that a trainer reads.

What the sampler left in slots with gaps between them is put together here
without gaps: the same tokens in the same order, and at each sampled token the
log-probability it was sampled with.
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
  """N sequences of at most L tokens, filled up at the end.

  In the context `full` there is one a game, N = B; in the others one a turn,
  N = B * T, the turns of a game in a row, those not played empty.

  Attributes:
    tokens: int32 [N, L].
    mask: bool [N, L], which tokens exist.
    action_mask: bool [N, L], which of them the model sampled.
    log_probs: float32 [N, L], what it sampled them with, 0 elsewhere.
    turns: int32 [N, L], of which turn a sampled token is, 0 elsewhere.
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
  """Returns what the model read and said, as it read and said it.

  Args:
    games: Games of a sampler in this context.
    tables: Tables of the same sampler.
    context: see `sampler.RolloutConfig`.
  """
  num_turns = games.turn_mask.shape[1]
  first = [_chunk(games, tables, t) for t in range(num_turns)]
  said_last = _said_last(games, kept=context == "full")
  later = [
    _chunk(games, tables, t, said_last=said_last[:, t - 1])
    for t in range(1, num_turns)
  ]
  said = [_said(games, t) for t in range(num_turns)]
  if context == "board":
    rows = [[a, b] for a, b in zip(first, said, strict=True)]
  else:
    kept = said if context == "full" else _stand_ins(games, tables)
    # What is read before each turn's answer.
    past = [[first[0]]]
    for t, chunk in enumerate(later):
      past.append([*past[-1], kept[t], chunk])
    rows = [[*read, answer] for read, answer in zip(past, said, strict=True)]
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
  said_last: jax.Array | None = None,
) -> Sequences:
  """Returns what begins a conversation, or follows on the last token said."""
  known = tables.observations
  row = known.rows[games.boards[:, turn], games.last_moves[:, turn] + 1]
  played = games.turn_mask[:, turn, None]
  if said_last is None:
    tokens, mask = tables_lib.look_up(known.begin, row)
  else:
    again = games.retried[:, turn, None]
    plain = tables_lib.look_up(known.follow, row)
    retry = tables_lib.retry_chunk(tables, row, said_last)
    tokens, mask = (
      jnp.concatenate([a, b], axis=1) for a, b in zip(plain, retry, strict=True)
    )
    is_retry = jnp.arange(tokens.shape[1]) >= plain[0].shape[1]
    mask = mask & (is_retry == again)
  return _read(tokens, mask & played)


def _said_last(games: trajectory_lib.Trajectory, *, kept: bool) -> jax.Array:
  """Returns the last token [B, T] that is kept of each answer, -1 for none."""
  if not kept:
    return jnp.full(games.turn_mask.shape, -1)
  last = jnp.maximum(games.action_mask.sum(axis=-1) - 1, 0)
  return jnp.take_along_axis(games.actions, last[..., None], axis=-1)[..., 0]


def _said(games: trajectory_lib.Trajectory, turn: int) -> Sequences:
  mask = games.action_mask[:, turn]
  return Sequences(
    tokens=games.actions[:, turn],
    mask=mask,
    action_mask=mask,
    log_probs=games.log_probs[:, turn],
    turns=jnp.full(mask.shape, turn, jnp.int32),
  )


def _stand_ins(
  games: trajectory_lib.Trajectory, tables: tables_lib.Tables
) -> list[Sequences]:
  """Returns what stands for each answer but the last, where a turn follows."""
  kept = []
  for turn in range(games.turn_mask.shape[1] - 1):
    move = games.moves[:, turn].astype(jnp.int32)
    row = jnp.where(move < 0, rules.NUM_CELLS, move)
    tokens, mask = tables_lib.look_up(tables.observations.answers, row)
    kept.append(_read(tokens, mask & games.turn_mask[:, turn + 1, None]))
  return kept


def _read(tokens: jax.Array, mask: jax.Array) -> Sequences:
  return Sequences(
    tokens=tokens,
    mask=mask,
    action_mask=jnp.zeros_like(mask),
    log_probs=jnp.zeros(tokens.shape, jnp.float32),
    turns=jnp.zeros(tokens.shape, jnp.int32),
  )


def _compact(parts: list[Sequences], width: int) -> Sequences:
  """Joins parts and moves the tokens that exist to the front, in order."""
  joined = jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)
  # A sequence without an action is a turn that was not played.
  played = joined.action_mask.any(axis=1, keepdims=True)
  mask = joined.mask & played
  order = jnp.argsort(~mask, axis=1, stable=True)

  def arrange(leaf: jax.Array) -> jax.Array:
    leaf = jnp.where(mask, leaf, jnp.zeros_like(leaf))
    leaf = jnp.take_along_axis(leaf, order, axis=1)
    return jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1])))

  return jax.tree.map(arrange, joined.replace(mask=mask))
