"""Positions of games from their plies, for play move by move."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games import game as game_lib


class Position(NamedTuple):
  """A state on the host, and what the rules say of it; see `game.Game`."""

  state: Any
  to_act: Any
  legal: Any
  chance: Any
  returns: Any


def follower(
  rules: game_lib.Game[Any],
) -> Callable[[Sequence[int]], Position]:
  """Returns a function from plies, those of chance included, to the position."""

  @jax.jit
  def follow(plies: jax.Array, count: jax.Array) -> Position:
    # Games with explicit chance ignore the key.
    first = rules.init(streams.key(0, streams.Stream.GAME_STARTS))
    state = jax.lax.fori_loop(
      0, count, lambda ply, state: rules.step(state, plies[ply]), first
    )
    return Position(
      state=state,
      to_act=rules.to_act(state),
      legal=rules.legal(state),
      chance=rules.chance(state),
      returns=rules.returns(state),
    )

  def position_after(plies: Sequence[int]) -> Position:
    padded = np.zeros(rules.max_plies, np.int32)
    padded[: len(plies)] = plies
    return jax.device_get(follow(padded, len(plies)))

  return position_after
