"""Players of any game: functions from random keys and a state to an action.

A player is called where one of its seats is to act and returns a legal action.
Elsewhere, its result is ignored.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tunix_ttt import errors
from tunix_ttt.games import game as game_lib


class Keys(NamedTuple):
  """Random keys of a player.

  Attributes:
    game: Key that stays the same for all moves of a seat in a game.
    ply: Key of this move.
  """

  game: jax.Array
  ply: jax.Array


# (keys, state) -> int32 action [] of the seat to act.
Player = Callable[[Keys, Any], jax.Array]


def random(game: game_lib.Game) -> Player:
  """Returns a player of every legal action with equal probability."""
  return uniform_over(game.legal)


def uniform_over(best: Callable[[Any], jax.Array]) -> Player:
  """Returns a player of every action of a mask with equal probability.

  Args:
    best: Mask of a state's actions, for example of its optimal ones, bool [A].
  """
  return per_ply(lambda key, state: choose(key, best(state)))


def per_ply(move: Callable[[jax.Array, Any], jax.Array]) -> Player:
  """Returns a player without choices for a whole game, such as a search.

  Args:
    move: Function from the key of a ply and a state to an action, int32 [].
  """
  return lambda keys, state: move(keys.ply, state)


def tabular(
  game: game_lib.Game,
  table: jax.Array,
  index: Callable[[Any], jax.Array],
) -> Player:
  """Returns a player that looks its actions up.

  Args:
    game: Rules of the game.
    table: Action in each of N states, int [N]. A random legal action replaces
      an illegal one.
    index: Row of a state in the table, int32 [].
  """

  def play(keys: Keys, state: Any) -> jax.Array:
    legal = game.legal(state)
    is_listed = jnp.arange(game.num_actions) == table[index(state)]
    listed = is_listed & legal
    return choose(keys.ply, jnp.where(listed.any(), listed, legal))

  return play


def epsilon(game: game_lib.Game, player: Player, epsilon: float) -> Player:
  """Returns a player of random legal moves with probability `epsilon`.

  All other moves are those of `player`.

  Raises:
    errors.UserError: if `epsilon` is not a probability.
  """
  if not 0.0 <= epsilon <= 1.0:
    raise errors.UserError(f"epsilon: must be between 0 and 1, found {epsilon}")

  def play(keys: Keys, state: Any) -> jax.Array:
    slip_key, random_key, player_key = jax.random.split(keys.ply, 3)
    return jnp.where(
      jax.random.uniform(slip_key) < epsilon,
      choose(random_key, game.legal(state)),
      player(keys._replace(ply=player_key), state),
    )

  return play


def mixture(
  players: Sequence[Player], shares: Sequence[float] | jax.Array
) -> Player:
  """Returns a player that is one of several, drawn once for a whole game.

  Each seat draws its player independently.

  Args:
    players: P players.
    shares: Unnormalized probability of each player, float [P]. The values of
      an array, which can be an input of a compiled program, are not checked.

  Raises:
    errors.UserError: if the shares do not fit the players, if one is negative
      or if all are 0.
  """
  if len(players) != len(shares):
    raise errors.UserError(
      f"shares: expected one for each of {len(players)} players, found"
      f" {len(shares)}"
    )
  if not isinstance(shares, jax.Array) and not (
    min(shares, default=0) >= 0 and sum(shares) > 0
  ):
    raise errors.UserError(
      "shares: must not be negative, and one must be above 0, found"
      f" {errors.quote([float(share) for share in shares])}"
    )

  def play(keys: Keys, state: Any) -> jax.Array:
    kind_key, player_key = jax.random.split(keys.game)
    kind = draw(kind_key, jnp.asarray(shares, jnp.float32))
    keys = keys._replace(game=player_key)
    return jax.lax.switch(kind, players, keys, state)

  return play


def choose(key: jax.Array, mask: jax.Array) -> jax.Array:
  """Draws one True element of a mask, bool [N]; 0 if there is none: int32 []."""
  number = jax.random.randint(key, (), 0, jnp.maximum(mask.sum(), 1))
  return jnp.argmax(jnp.cumsum(mask) > number).astype(jnp.int32)


def draw(key: jax.Array, weights: jax.Array) -> jax.Array:
  """Draws an index with unnormalized probabilities, float32 [N]: int32 [].

  An index of weight 0 is never drawn. The result is bit-identical under `vmap`,
  which logarithms would not guarantee.
  """
  cumulative = jnp.where(weights > 0, jnp.cumsum(weights), 0.0)
  # The uniform number is below 1 by more than the product's rounding error.
  threshold = jax.random.uniform(key) * cumulative.max()
  return jnp.argmax(cumulative > threshold).astype(jnp.int32)
