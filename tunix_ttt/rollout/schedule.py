"""In which order the turns of a batch of games are played."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from tunix_ttt.rollout import trajectory as trajectory_lib

# A turn's part of a trajectory: arrays of one row a game.
Record = dict[str, jax.Array]


class Games(Protocol):
  """The interface of a batch of games: arrays with one row for each game."""

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
  """Plays conversations, in which each turn builds on those before.

  Args:
    play: `play(memory, keys, games, active, is_first_turn=…)` plays a turn of the
      active games, bool [B].
    memory: what is remembered at the beginning; its shapes grow by the turn.
    keys: [B], of each game.
    games: B games.
    max_turns: Maximum number of turns in a game.

  Returns:
    The games at their end and the records [B, T, ...].
  """
  turns = []
  for number in range(max_turns):
    turn_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    def turn(
      memory: Any, keys: jax.Array, games: Any, first=number == 0
    ) -> Any:
      return play(memory, keys, games, _is_ongoing(games), is_first_turn=first)

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
  """Plays turns that need none before them, a few games at a time.

  Args:
    play: `play(keys, games, active)` plays a turn of the active ones of `width`
      games, and leaves the others as they are; active is bool [width].
    keys: [B], of each game.
    games: B games.
    max_turns: Maximum number of turns in a game.
    width: at most B; others take the place of games that are over.

  Returns:
    The games at their end and the records [B, T, ...].
  """
  batch_size = len(keys)

  def waiting(games: Games, numbers: jax.Array) -> jax.Array:
    return _is_ongoing(games) & (numbers < max_turns)

  def step(carry: Any) -> Any:
    games, numbers, records = carry
    # Rows whose game has no turn left are sorted last: they fill up the batch,
    # are not played and are written nowhere.
    at = jnp.where(waiting(games, numbers), numbers, max_turns)
    rows = jnp.argsort(at)[:width]
    active = at[rows] < max_turns
    turn_keys = jax.vmap(jax.random.fold_in)(keys[rows], numbers[rows])
    chosen = jax.tree.map(lambda leaf: leaf[rows], games)
    chosen, record = play(turn_keys, chosen, active)
    games = jax.tree.map(lambda a, b: a.at[rows].set(b), games, chosen)
    records = jax.tree.map(
      lambda a, b: a.at[rows, at[rows]].set(b, mode="drop"), records, record
    )
    return games, numbers.at[rows].add(active), records

  some = jax.tree.map(
    lambda leaf: leaf[:width], (keys, games, _is_ongoing(games))
  )
  records = jax.tree.map(
    lambda leaf: _zeros(leaf, (batch_size, max_turns, *leaf.shape[1:])),
    jax.eval_shape(play, *some)[1],
  )
  numbers = jnp.zeros(batch_size, jnp.int32)
  games, _, records = jax.lax.while_loop(
    lambda carry: waiting(carry[0], carry[1]).any(),
    step,
    (games, numbers, records),
  )
  return games, records


def _zeros(leaf: Any, shape: tuple[int, ...] | None = None) -> jax.Array:
  return jnp.zeros(leaf.shape if shape is None else shape, leaf.dtype)
