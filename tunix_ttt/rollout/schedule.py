"""Schedules the turns of a batch of games."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from tunix_ttt.rollout import trajectory as trajectory_lib

# Arrays and pytrees of one turn of a trajectory, with a row for each game.
Record = dict[str, Any]


class Games(Protocol):
  """A batch of games: arrays with one row for each game."""

  ending: jax.Array


AnyGames = TypeVar("AnyGames", bound=Games)


def _is_ongoing(games: Games) -> jax.Array:
  return games.ending == trajectory_lib.Ending.ONGOING


def conversation_turns(
  play: Callable[..., tuple[Any, AnyGames, Record]],
  memory: Any,
  keys: jax.Array,
  games: AnyGames,
  max_turns: int,
) -> tuple[AnyGames, Record]:
  """Runs turns that depend on the earlier turns of their conversation.

  `play(memory, keys, games, active, is_first_turn=...)` plays one turn of the
  active games, bool [B]. The shapes of the policy's memory may grow each turn.
  `keys` [B] has a random key for each game. Returns the games at their end and
  the records [B, T, ...].
  """
  turns = []
  for number in range(max_turns):
    turn_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    def turn(
      memory: Any, keys: jax.Array, games: Any, is_first_turn=number == 0
    ) -> Any:
      active = _is_ongoing(games)
      return play(memory, keys, games, active, is_first_turn=is_first_turn)

    shapes = jax.eval_shape(turn, memory, turn_keys, games)

    def skip(memory: Any, keys: jax.Array, games: Any, shapes=shapes) -> Any:
      del memory, keys
      memory, _, record = jax.tree.map(_zeros, shapes)
      return memory, games, record

    memory, games, record = jax.lax.cond(
      _is_ongoing(games).any(), turn, skip, memory, turn_keys, games
    )
    turns.append(record)
  return games, jax.tree.map(lambda *rows: jnp.stack(rows, axis=1), *turns)


def independent_turns(
  play: Callable[[jax.Array, AnyGames, jax.Array], tuple[AnyGames, Record]],
  keys: jax.Array,
  games: AnyGames,
  max_turns: int,
  width: int,
) -> tuple[AnyGames, Record]:
  """Runs independent turns with at most `width` active games.

  Waiting games replace finished ones. `play(keys, games, active)` plays one
  turn of the active games, bool [width], and leaves the other games unchanged.
  `keys` [B] has a random key for each game; `width` is at most B. Returns the
  games at their end and the records [B, T, ...].
  """
  batch_size = len(keys)

  def is_waiting(games: Games, numbers: jax.Array) -> jax.Array:
    return _is_ongoing(games) & (numbers < max_turns)

  def step(carry: Any) -> Any:
    games, numbers, records = carry
    # Finished games sort last: they pad the batch, inactive and unrecorded.
    turn = jnp.where(is_waiting(games, numbers), numbers, max_turns)
    rows = jnp.argsort(turn)[:width]
    active = turn[rows] < max_turns
    turn_keys = jax.vmap(jax.random.fold_in)(keys[rows], numbers[rows])
    chosen = jax.tree.map(lambda leaf: leaf[rows], games)
    chosen, record = play(turn_keys, chosen, active)
    games = jax.tree.map(lambda a, b: a.at[rows].set(b), games, chosen)
    records = jax.tree.map(
      lambda a, b: a.at[rows, turn[rows]].set(b, mode="drop"), records, record
    )
    return games, numbers.at[rows].add(active), records

  subset = jax.tree.map(
    lambda leaf: leaf[:width], (keys, games, _is_ongoing(games))
  )
  records = jax.tree.map(
    lambda leaf: _zeros(leaf, (batch_size, max_turns, *leaf.shape[1:])),
    jax.eval_shape(play, *subset)[1],
  )
  numbers = jnp.zeros(batch_size, jnp.int32)
  games, _, records = jax.lax.while_loop(
    lambda carry: is_waiting(carry[0], carry[1]).any(),
    step,
    (games, numbers, records),
  )
  return games, records


def _zeros(leaf: Any, shape: tuple[int, ...] | None = None) -> jax.Array:
  return jnp.zeros(leaf.shape if shape is None else shape, leaf.dtype)
