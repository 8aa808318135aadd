"""Tic-tac-toe as a pure environment: one agent, one opponent inside `step`.

The agent plays X or O; X moves first, so an agent that plays O finds the
opponent's opening move on its first board. `init` and `step` are pure, know
no batch (map them with `jax.vmap`) and know no text.
"""

import dataclasses
import enum

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules


class Outcome(enum.IntEnum):
  """Outcome of a game for the agent."""

  ONGOING = 0
  WIN = 1
  DRAW = 2
  LOSS = 3
  ILLEGAL = 4


@struct.dataclass
class State:
  """One game; every field is a scalar.

  Attributes:
    board: int32, index of the board (see `rules`).
    agent: int8, the agent's mark, X or O.
    last_move: int8, the cell the opponent took last, -1 before it has moved.
    outcome: int8, an `Outcome`.
    opponent_seed: uint32, the opponent's. Its move on a board depends on this and that
      board only, so games that share it meet the same opponent whatever else
      differs between them.
  """

  board: jax.Array
  agent: jax.Array
  last_move: jax.Array
  outcome: jax.Array
  opponent_seed: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToe:
  """The environment.

  Attributes:
    opponent: who plays the other mark.
  """

  opponent: opponents.Opponent = opponents.uniform_random

  def init(
    self,
    opponent_seed: jax.Array | int,
    agent: jax.Array | int = rules.X,
    board: jax.Array | int = rules.EMPTY_BOARD,
    last_move: jax.Array | int = -1,
  ) -> State:
    """Starts a game in which it is the agent's turn.

    Args:
      opponent_seed: the opponent's, such as `jax.random.bits(key)`, or the number of a
        line (see `opponents.uniform_random`).
      agent: the agent's mark.
      board: a reachable board to start from. Where the other side is to move
        on it, the opponent moves first.
      last_move: the cell the opponent took last on that board, -1 for none.
    """
    board = jnp.asarray(board, jnp.int32)
    agent = jnp.asarray(agent, jnp.int8)
    outcome = _outcome(board, agent)
    state = State(
      board=board,
      agent=agent,
      last_move=jnp.asarray(last_move, jnp.int8),
      outcome=outcome,
      opponent_seed=jnp.asarray(opponent_seed, jnp.uint32),
    )
    waits = jnp.asarray(rules.side_to_move())[board] != agent
    return self._reply(state, waits & (outcome == Outcome.ONGOING))

  def step(self, state: State, action: jax.Array | int) -> State:
    """Plays the agent's `action` (a cell) and then the opponent's reply.

    A cell that is taken or does not exist ends the game as `ILLEGAL` with the
    board as it was. A finished game ignores further steps.
    """
    is_ongoing = state.outcome == Outcome.ONGOING
    action = jnp.asarray(action, jnp.int32)
    in_range = (action >= 0) & (action < rules.NUM_CELLS)
    cell = jnp.where(in_range, action, 0)
    is_free = (opponents.legal_mask(state.board) >> cell & 1).astype(bool)
    is_played = is_ongoing & in_range & is_free
    moved = _placed(state, cell, state.agent, is_played)
    goes_on = _outcome(moved.board, state.agent) == Outcome.ONGOING
    replied = self._reply(moved, is_played & goes_on)
    outcome = jnp.where(is_played, replied.outcome, Outcome.ILLEGAL)
    return dataclasses.replace(
      replied,
      outcome=jnp.where(is_ongoing, outcome, state.outcome).astype(jnp.int8),
    )

  def _reply(self, state: State, waits: jax.Array) -> State:
    """Plays the opponent's move where it `waits`, and judges the board."""
    cell = jnp.asarray(
      self.opponent(state.opponent_seed, state.board), jnp.int32
    )
    mark = (rules.X + rules.O - state.agent).astype(jnp.int8)
    placed = _placed(state, cell, mark, waits)
    return dataclasses.replace(
      placed,
      last_move=jnp.where(waits, cell.astype(jnp.int8), state.last_move),
      outcome=_outcome(placed.board, state.agent),
    )


def legal_actions(state: State) -> jax.Array:
  """Returns which cells the agent may take: bool [9], none once it is over."""
  mask = opponents.legal_mask(state.board)
  legal = (mask >> jnp.arange(rules.NUM_CELLS) & 1).astype(bool)
  return legal & (state.outcome == Outcome.ONGOING)


def starting_marks(agent: str, num_games: int) -> jax.Array:
  """Returns who the agent is in each game of a batch: int8 [num_games].

  Args:
    agent: `x`, `o`, or `mixed` for alternating X and O.
    num_games: the batch size.

  Raises:
    ValueError: if `agent` is none of these.
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
  state: State, cell: jax.Array, mark: jax.Array, condition: jax.Array
) -> State:
  added = mark.astype(jnp.int32) * jnp.asarray(rules.POWERS)[cell]
  return dataclasses.replace(
    state, board=state.board + jnp.where(condition, added, 0)
  )
