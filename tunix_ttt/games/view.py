"""One agent's view of a game: chance and all opponents play inside `step`.

`View` turns a `Game` of any number of seats into a program of one agent. Its
functions are pure and unbatched; batch them with `jax.vmap`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import enum
from typing import Any, Generic

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players


class Ending(enum.IntEnum):
  """Whether and how a game has ended for the agent."""

  ONGOING = 0
  OVER = 1
  ILLEGAL = 2


@struct.dataclass
class ViewState(Generic[game_lib.StateT]):
  """State of one game of an agent; it is the agent's turn or the game is over.

  Attributes:
    game: State of the game.
    seat: Seat of the agent, int32 [].
    key: Data of the game's random key, uint32 [...]. Chance and opponents are functions of this key,
      the ply and the game's state, so games with equal keys meet the same
      chance and the same opponents.
    plies: Number of steps of the game so far, int32 [].
    ending: An `Ending`, int8 [].
  """

  game: game_lib.StateT
  seat: jax.Array
  key: jax.Array
  plies: jax.Array
  ending: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class View(Generic[game_lib.StateT]):
  """A game as a functional environment of one agent.

  A game that is not over after `game.max_plies` steps, against its interface,
  is cut and counts as `OVER`.

  Attributes:
    game: Rules of the game.
    opponents: Player of all other seats, or a player for each seat, of which
      the agent's is ignored. A game with one seat needs none.

  Raises:
    errors.UserError: if the number of opponents is not the number of seats.
  """

  game: game_lib.Game[game_lib.StateT]
  opponents: players.Player | Sequence[players.Player] = ()

  def __post_init__(self):
    if callable(self.opponents):
      return
    number, seats = len(self.opponents), self.game.num_seats
    if number != seats and (number, seats) != (0, 1):
      raise errors.UserError(
        f"opponents: expected one player, or {seats}, one for each seat, found"
        f" {number}"
      )

  def against(self, opponents: Any) -> "View[game_lib.StateT]":
    """Returns the environment with other opponents."""
    return dataclasses.replace(self, opponents=opponents)

  def init(
    self,
    key: jax.Array,
    seat: jax.Array | int,
    first: game_lib.StateT | None = None,
  ) -> ViewState[game_lib.StateT]:
    """Starts a game and plays up to the agent's first turn.

    Args:
      key: Random key of opponents and chance.
      seat: Seat of the agent, int32 [].
      first: State of the game to start from; None for its first.

    Raises:
      errors.UserError: if `seat` is an int and no seat of the game.
    """
    if isinstance(seat, int) and not 0 <= seat < self.game.num_seats:
      raise errors.UserError(
        f"seat: expected 0 to {self.game.num_seats - 1}, found {seat}"
      )
    if first is None:
      first_key = streams.fold_in(key, streams.Stream.GAME_STARTS)
      first = self.game.init(first_key)
    return self._advance(
      ViewState(
        game=first,
        seat=jnp.asarray(seat, jnp.int32),
        key=jax.random.key_data(key),
        plies=jnp.int32(0),
        ending=jnp.int8(Ending.ONGOING),
      )
    )

  def step(
    self, state: ViewState[game_lib.StateT], action: jax.Array | int
  ) -> ViewState[game_lib.StateT]:
    """Plays the agent's action, then up to its next turn or the game's end.

    An illegal action, or one out of range, ends the game as `ILLEGAL` and leaves
    the game's state unchanged. A finished game ignores further steps.
    """
    action = jnp.asarray(action, jnp.int32)
    in_range = (action >= 0) & (action < self.game.num_actions)
    action = jnp.where(in_range, action, 0)
    is_legal = in_range & self.legal(state)[action]
    # Where the action is illegal it is no opponent's turn, and `_advance` plays
    # nothing.
    played = self._advance(_where(is_legal, self._played(state, action), state))
    is_illegal = (state.ending == Ending.ONGOING) & ~is_legal
    ending = jnp.where(is_illegal, jnp.int8(Ending.ILLEGAL), state.ending)
    return dataclasses.replace(
      played, ending=jnp.where(is_legal, played.ending, ending)
    )

  def legal(self, state: ViewState[game_lib.StateT]) -> jax.Array:
    """Returns the agent's legal actions, bool [A], none after the end."""
    return self.game.legal(state.game) & (state.ending == Ending.ONGOING)

  def returns(self, state: ViewState[game_lib.StateT]) -> jax.Array:
    """Returns the agent's return, float32 []; 0 before the end and if `ILLEGAL`."""
    return self.game.returns(state.game)[state.seat]

  def outcome(self, state: ViewState[game_lib.StateT]) -> jax.Array:
    """Returns the `game.Outcome` for the agent, int8 []."""
    outcome = game_lib.Outcome
    sign = jnp.sign(self.returns(state)).astype(jnp.int8)
    tie = outcome.LOSS if self.game.num_seats == 1 else outcome.DRAW
    ends = jnp.array([outcome.LOSS, tie, outcome.WIN], jnp.int8)
    return jnp.select(
      [state.ending == Ending.OVER, state.ending == Ending.ILLEGAL],
      [ends[sign + 1], jnp.int8(outcome.ILLEGAL)],
      jnp.int8(outcome.ONGOING),
    )

  def _advance(
    self, state: ViewState[game_lib.StateT]
  ) -> ViewState[game_lib.StateT]:
    """Plays chance and opponents, and says whether the game goes on."""

    def is_waiting(state: ViewState[game_lib.StateT]) -> jax.Array:
      turn = self.game.to_act(state.game)
      is_other = ~self._is_agents(turn, state) & (turn != game_lib.OVER)
      return is_other & (state.plies < self.game.max_plies)

    def play(
      state: ViewState[game_lib.StateT],
    ) -> ViewState[game_lib.StateT]:
      return self._played(state, self._action(state))

    state = jax.lax.while_loop(is_waiting, play, state)
    is_turn = self._is_agents(self.game.to_act(state.game), state)
    is_ongoing = is_turn & (state.plies < self.game.max_plies)
    ending = jnp.where(is_ongoing, Ending.ONGOING, Ending.OVER)
    return dataclasses.replace(state, ending=ending.astype(jnp.int8))

  def _is_agents(
    self, turn: jax.Array, state: ViewState[game_lib.StateT]
  ) -> jax.Array:
    """Returns whether the agent is to act, given the result of `to_act`."""
    return turn == state.seat

  def _played(
    self, state: ViewState[game_lib.StateT], action: jax.Array
  ) -> ViewState[game_lib.StateT]:
    return dataclasses.replace(
      state, game=self.game.step(state.game, action), plies=state.plies + 1
    )

  def _action(self, state: ViewState[game_lib.StateT]) -> jax.Array:
    """Returns the action of the opponent to act, or an outcome of chance."""
    turn = self.game.to_act(state.game)
    stream, key = streams.Stream, jax.random.wrap_key_data(state.key)
    keys = players.Keys(
      game=streams.fold_in(key, stream.PLAYER_GAMES, turn),
      ply=streams.fold_in(key, stream.PLAYER_MOVES, state.plies),
    )

    def chance() -> jax.Array:
      outcome_key = streams.fold_in(key, stream.CHANCE_OUTCOMES, state.plies)
      return players.draw(outcome_key, self.game.chance(state.game))

    def turn_of(player: players.Player) -> Callable[[], jax.Array]:
      return lambda: jnp.asarray(player(keys, state.game), jnp.int32)

    if callable(self.opponents):
      branches, branch = [turn_of(self.opponents)], jnp.int32(0)
    else:
      branches, branch = [turn_of(each) for each in self.opponents], turn
    if jax.eval_shape(self.game.chance, state.game).shape != (0,):
      is_chance = turn == game_lib.CHANCE
      branch = jnp.where(is_chance, len(branches), branch)
      branches.append(chance)
    if not branches:  # A game with one seat and without chance.
      return jnp.int32(0)
    return jax.lax.switch(branch, branches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirrorView(View[game_lib.StateT]):
  """A game as an environment in which one agent plays all seats.

  `ViewState.seat` is the seat to act, and after the end the seat that acted last.
  Only chance moves inside `step`; no opponent is ever called.
  """

  def seat(self, state: ViewState[game_lib.StateT]) -> jax.Array:
    """Returns the seat to act, or the one that acted last: int32 []."""
    return state.seat

  def seen_by(
    self, state: ViewState[game_lib.StateT], seat: jax.Array
  ) -> ViewState[game_lib.StateT]:
    """Returns a finished game as a seat's, for `returns` and `outcome`."""
    return dataclasses.replace(state, seat=jnp.asarray(seat, jnp.int32))

  def _is_agents(
    self, turn: jax.Array, state: ViewState[game_lib.StateT]
  ) -> jax.Array:
    del state
    return turn >= 0

  def _advance(
    self, state: ViewState[game_lib.StateT]
  ) -> ViewState[game_lib.StateT]:
    state = super()._advance(state)
    is_ongoing = state.ending == Ending.ONGOING
    turn = self.game.to_act(state.game).astype(jnp.int32)
    seat = jnp.where(is_ongoing, turn, state.seat)
    return dataclasses.replace(state, seat=seat)


def at_turns(
  states: game_lib.StateT,
  seats: jax.Array,
  is_turn: jax.Array | bool = True,
) -> ViewState[game_lib.StateT]:
  """Returns games of agents that are about to move, [N].

  Args:
    states: States of the game, a pytree [N].
    seats: Seat of each agent, int32 [N].
    is_turn: Mask of the seats that are to act; the other games are over.
  """
  count = len(seats)
  # A single answer depends neither on the key nor on the number of plies.
  key = jax.random.key_data(streams.key(0, streams.Stream.GREEDY))
  ending = jnp.where(is_turn, Ending.ONGOING, Ending.OVER).astype(jnp.int8)
  return ViewState(
    game=states,
    seat=seats,
    key=jnp.tile(key, (count, 1)),
    plies=jnp.zeros(count, jnp.int32),
    ending=jnp.broadcast_to(ending, (count,)),
  )


def _where(
  condition: jax.Array,
  this: ViewState[game_lib.StateT],
  that: ViewState[game_lib.StateT],
) -> ViewState[game_lib.StateT]:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
