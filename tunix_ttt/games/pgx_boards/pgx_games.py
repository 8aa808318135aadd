"""Board games of pgx (Koyamada et al., 2023) as games of this library.

Seat 0 moves first, where pgx draws the players by lot. States hold what the
rules need, in narrow integers: equal positions are equal states, whatever moves
led to them, except in Go, whose superko rule needs the boards of the past.
"""

from collections.abc import Callable
import itertools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.games import game as game_lib

MAX_ACTIONS = 130


@struct.dataclass
class State:
  """A position of a game with A actions.

  Attributes:
    board: State of pgx's rules, a pytree that differs by game.
    legal: Legal actions, bool [A].
    player: Seat to move, or that would move after the end, int8 [].
    is_over: Whether the game has ended, bool [].
    returns: Return of each seat, 0 before the end, float32 [2].
  """

  board: Any
  legal: jax.Array
  player: jax.Array
  is_over: jax.Array
  returns: jax.Array


class PgxGame:
  """A pgx game of two seats without chance; `init` ignores its key.

  Attributes:
    name: Name in pgx: connect_four, go_9x9, hex, othello or tic_tac_toe.
    num_seats: Number of seats, 2.
    num_actions: Number of pgx's actions A.
    max_plies: Upper bound on the plies of a game.
  """

  def __init__(self, name: str):
    """Loads a game.

    Raises:
      errors.UserError: if pgx is missing, or the game does not fit.
    """
    if name not in _GAMES:
      raise errors.UserError(
        f"pgx game {errors.quote(name)}: {_misfit(name)}; use one of"
        f" {', '.join(_GAMES)}"
      )
    self.name, self.num_seats = name, 2
    self._rules = _GAMES[name]
    self._env = self._rules.make(name)
    keys = (
      streams.key(0, streams.Stream.PGX_PLAYERS, n) for n in itertools.count()
    )
    starts = map(jax.device_get, map(self._env.init, keys))
    self._start = next(start for start in starts if start.current_player == 0)
    self.num_actions = len(self._start.legal_action_mask)
    self.max_plies = self._rules.max_plies

  def init(self, key: jax.Array) -> State:
    """Returns the first position."""
    del key
    return self._from_pgx(jax.tree.map(jnp.asarray, self._start))

  def to_act(self, state: State) -> jax.Array:
    """Returns the seat to move or `OVER`: int32 []."""
    player = state.player.astype(jnp.int32)
    return jnp.where(state.is_over, game_lib.OVER, player)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal actions: bool [A]."""
    return state.legal

  def chance(self, state: State) -> jax.Array:
    """Returns no outcomes: float32 [0]."""
    del state
    return jnp.zeros(0)

  def step(self, state: State, action: jax.Array) -> State:
    """Plays a legal action; a finished game stays as it is."""
    action = jnp.asarray(action, jnp.int32)
    after = self._env.step(self._to_pgx(state), action)
    board = self._rules.canonical(after._x, action)
    return jax.tree.map(
      lambda old, new: jnp.where(state.is_over, old, new),
      state,
      self._from_pgx(after.replace(_x=board)),
    )

  def returns(self, state: State) -> jax.Array:
    """Returns each seat's return: float32 [2]."""
    return state.returns

  def marks(self, state: State) -> jax.Array:
    """Returns 0 for free cells, 1 for seat 0's and 2 for seat 1's: int32 [N].

    The N cells are listed row by row from the top left.
    """
    # The first two planes are the stones of the player to move, and the others.
    planes = self._env.observe(self._to_pgx(state))
    mine, others = planes[..., 0].ravel(), planes[..., 1].ravel()
    player = state.player.astype(jnp.int32)
    return jnp.where(mine, player + 1, jnp.where(others, 2 - player, 0))

  def _from_pgx(self, state: Any) -> State:
    is_over = state.terminated
    return State(
      board=jax.tree.map(self._narrow, state._x),
      legal=state.legal_action_mask & ~is_over,
      player=state.current_player.astype(jnp.int8),
      is_over=is_over,
      returns=jnp.where(is_over, state.rewards, 0.0),
    )

  def _to_pgx(self, state: State) -> Any:
    """Returns an ongoing pgx state in which every action counts as legal."""
    start = jax.tree.map(jnp.asarray, self._start)
    return start.replace(
      current_player=state.player.astype(jnp.int32),
      legal_action_mask=jnp.ones(self.num_actions, bool),
      _x=jax.tree.map(
        lambda value, like: value.astype(like.dtype), state.board, start._x
      ),
    )

  def _narrow(self, value: jax.Array) -> jax.Array:
    return (
      value.astype(self._rules.dtype) if value.dtype == jnp.int32 else value
    )


def _misfit(name: str) -> str:
  """Returns why a game is none of this module's."""
  pgx = requirements.import_extra("pgx", "games")
  if name not in pgx.available_envs():
    return "pgx has no game of this name"
  env = pgx.make(name)
  if env.num_players != 2:
    return f"found {env.num_players} players, expected 2"
  start = jax.eval_shape(env.init, streams.key(0, streams.Stream.PGX_PLAYERS))
  if (size := start.legal_action_mask.size) > MAX_ACTIONS:
    return f"found {size:,} actions, at most {MAX_ACTIONS} are supported"
  return "it has hidden information or chance"


def _make(name: str) -> Any:
  return requirements.import_extra("pgx", "games").make(name)


def _make_go(name: str) -> Any:
  """Returns Go without observations of past boards."""
  del name
  go = requirements.import_extra("pgx.go", "games")
  return go.Go(size=9, komi=7.5, history_length=1)


def _unchanged(board: Any, action: jax.Array) -> Any:
  del action
  return board


def _canonical_hex(board: Any, action: jax.Array) -> Any:
  """Numbers the chain of the last stone by its first cell; bounds the counter.

  pgx numbers a chain by its last stone. Of the number of plies the rules need
  the parity, and whether it is 1, when the first stone may be swapped.
  """
  cells, plies = board.board, board.step_count
  last = cells[jnp.minimum(action, cells.size - 1)]
  is_chain = (cells == last) & (cells != 0)
  number = jnp.sign(last) * (jnp.argmax(is_chain).astype(jnp.int32) + 1)
  return board._replace(
    board=jnp.where(is_chain, number, cells),
    step_count=jnp.where(plies >= 4, plies - 2, plies),
  )


def _canonical_go(board: Any, action: jax.Array) -> Any:
  """Clears the number of captured stones, which does not count under area rules."""
  del action
  return board._replace(num_captured=jnp.zeros_like(board.num_captured))


class _Rules(NamedTuple):
  """Settings of the adapter for one game.

  Attributes:
    max_plies: Upper bound on the plies of a game.
    dtype: Type that holds the integers of a position.
    canonical: Function of pgx's rules state after an action, and the action,
      that makes states of equal positions equal.
    make: Function of the name that returns pgx's environment.
  """

  max_plies: int
  dtype: Any = np.int8
  canonical: Callable[[Any, jax.Array], Any] = _unchanged
  make: Callable[[str], Any] = _make


_GAMES = {
  "connect_four": _Rules(6 * 7),
  # pgx ends a game after two moves a point.
  "go_9x9": _Rules(2 * 9 * 9, np.int16, _canonical_go, _make_go),
  # A swap fills no cell.
  "hex": _Rules(11 * 11 + 1, canonical=_canonical_hex),
  # At most one pass before each of the moves that fill 60 cells.
  "othello": _Rules(2 * 60),
  "tic_tac_toe": _Rules(3 * 3),
}
