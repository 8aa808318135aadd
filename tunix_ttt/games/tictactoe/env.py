"""Tic-tac-toe as a functional environment with the opponent inside `step`.

The agent plays X or O. X moves first, so if the agent plays O, `init` plays the
opponent's first move. `init` and `step` are pure functions of a single game;
batch them with `jax.vmap`.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import game as game_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules

Outcome = game_lib.Outcome


@struct.dataclass
class State:
  """State of one game; every field is a scalar.

  Attributes:
    board: Index of the board, int32.
    agent: Mark of the agent, X or O, int8.
    last_move: Cell of the opponent's last move, -1 before its first, int8.
    outcome: An `Outcome`, int8.
    opponent_seed: Random seed of the opponent, uint32. The opponent's move is a
      function of this seed and the board, so games with equal seeds meet the
      same opponent.
  """

  board: jax.Array
  agent: jax.Array
  last_move: jax.Array
  outcome: jax.Array
  opponent_seed: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToe:
  """The environment, in which `opponent` plays the other mark."""

  opponent: opponents.Opponent = opponents.uniform_random

  def init(
    self,
    opponent_seed: jax.Array | int,
    agent: jax.Array | int = rules.X,
    board: jax.Array | int = rules.EMPTY_BOARD,
    last_move: jax.Array | int = -1,
  ) -> State:
    """Starts a game in which it is the agent's turn.

    `opponent_seed` is, for example, `jax.random.bits(key)` or an element of
    `opponents.enumerate_opponent_seeds`. The opponent moves first if it is the
    opponent's turn on the reachable `board`. `last_move` is the cell of the
    opponent's last move on this board, -1 for none.
    """
    board, agent = jnp.asarray(board, jnp.int32), jnp.asarray(agent, jnp.int8)
    outcome = _outcome(board, agent)
    state = State(
      board=board,
      agent=agent,
      last_move=jnp.asarray(last_move, jnp.int8),
      outcome=outcome,
      opponent_seed=jnp.asarray(opponent_seed, jnp.uint32),
    )
    is_turn = jnp.asarray(rules.side_to_move())[board] != agent
    return self._reply(state, is_turn & (outcome == Outcome.ONGOING))

  def step(self, state: State, action: jax.Array | int) -> State:
    """Plays the agent's `action` (a cell) and the opponent's reply.

    An illegal action ends the game as `ILLEGAL` and leaves the board unchanged.
    A finished game ignores further steps.
    """
    is_ongoing = state.outcome == Outcome.ONGOING
    action = jnp.asarray(action, jnp.int32)
    in_range = (action >= 0) & (action < rules.NUM_CELLS)
    cell = jnp.where(in_range, action, 0)
    is_free = (opponents.legal_mask(state.board) >> cell & 1).astype(bool)
    is_played = is_ongoing & in_range & is_free
    moved = _placed(state, cell, state.agent, is_played)
    is_continued = _outcome(moved.board, state.agent) == Outcome.ONGOING
    replied = self._reply(moved, is_played & is_continued)
    outcome = jnp.where(is_played, replied.outcome, Outcome.ILLEGAL)
    return dataclasses.replace(
      replied,
      outcome=jnp.where(is_ongoing, outcome, state.outcome).astype(jnp.int8),
    )

  def against(self, opponent: opponents.Opponent) -> "TicTacToe":
    """Returns the environment with another opponent."""
    return dataclasses.replace(self, opponent=opponent)

  def legal(self, state: State) -> jax.Array:
    """Returns the mask of legal cells: bool [9], all False after the end."""
    mask = opponents.legal_mask(state.board)
    legal = (mask >> jnp.arange(rules.NUM_CELLS) & 1).astype(bool)
    return legal & (state.outcome == Outcome.ONGOING)

  def outcome(self, state: State) -> jax.Array:
    """Returns the `Outcome` for the agent, int8 []."""
    return state.outcome

  def _reply(self, state: State, is_turn: jax.Array) -> State:
    """Plays the opponent's move if `is_turn` and updates the outcome."""
    reply = self.opponent(state.opponent_seed, state.board)
    cell = jnp.asarray(reply, jnp.int32)
    mark = (rules.X + rules.O - state.agent).astype(jnp.int8)
    placed = _placed(state, cell, mark, is_turn)
    return dataclasses.replace(
      placed,
      last_move=jnp.where(is_turn, cell.astype(jnp.int8), state.last_move),
      outcome=_outcome(placed.board, state.agent),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror(TicTacToe):
  """The environment in which the agent plays both marks in turn.

  `State.agent` is the mark to move, and after the end the mark that moved last.
  """

  def step(self, state: State, action: jax.Array | int) -> State:
    """Plays the move of the mark `state.agent`; the other one is next."""
    after = super().step(state, action)
    cell = jnp.asarray(action, jnp.int8)
    is_passed_on = after.agent != state.agent
    last_move = jnp.where(is_passed_on, cell, state.last_move)
    return dataclasses.replace(after, last_move=last_move)

  def seat(self, state: State) -> jax.Array:
    """Returns 0 where X is to move or moved last, 1 for O: int32 []."""
    return state.agent.astype(jnp.int32) - rules.X

  def seen_by(self, state: State, seat: jax.Array) -> State:
    """Returns a game that ended by the rules as a seat's."""
    agent = jnp.asarray(seat + rules.X, jnp.int8)
    outcome = _outcome(state.board, agent)
    return dataclasses.replace(state, agent=agent, outcome=outcome)

  def _reply(self, state: State, is_turn: jax.Array) -> State:
    """Passes the turn to the other mark if `is_turn`."""
    other = (rules.X + rules.O - state.agent).astype(jnp.int8)
    return dataclasses.replace(
      state,
      agent=jnp.where(is_turn, other, state.agent),
      outcome=_outcome(state.board, state.agent),
    )


def starting_marks(agent: str, num_games: int) -> jax.Array:
  """Returns the agent's mark in each game of a batch: int8 [num_games].

  `agent` is `x`, `o`, or `mixed` for alternating X and O; other names raise a
  `ValueError`.
  """
  marks = {"x": (rules.X,), "o": (rules.O,), "mixed": (rules.X, rules.O)}
  if agent not in marks:
    raise ValueError(f"agent must be x, o or mixed, got {agent!r}")
  return jnp.resize(jnp.array(marks[agent], jnp.int8), (num_games,))


def _outcome(board: jax.Array, agent: jax.Array) -> jax.Array:
  winner = jnp.asarray(rules.status())[board] >> rules.NUM_CELLS
  over = jnp.where(
    winner == rules.DRAWN,
    Outcome.DRAW,
    jnp.where(winner == agent, Outcome.WIN, Outcome.LOSS),
  )
  return jnp.where(winner == rules.NO_WINNER, Outcome.ONGOING, over).astype(
    jnp.int8
  )


def _placed(
  state: State, cell: jax.Array, mark: jax.Array, is_played: jax.Array
) -> State:
  added = mark.astype(jnp.int32) * jnp.asarray(rules.POWERS)[cell]
  return dataclasses.replace(
    state, board=state.board + jnp.where(is_played, added, 0)
  )
