"""Tic-tac-toe as a pure environment: one agent, one opponent inside `step`.

The agent plays X or O; X moves first, so an agent that plays O finds the
opponent's opening move on its first board. `init` and `step` are pure, know
no batch (map them with `jax.vmap`) and know no text.
"""

from collections.abc import Callable
import dataclasses
import enum

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.game import opponents
from tunix_ttt.game import rules


class Outcome(enum.IntEnum):
  """How a game stands for the agent."""

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
    key: the opponent's luck. Its move on a board depends on this key and that
      board only, so games that share the key meet the same opponent whatever
      else differs between them.
  """

  board: jax.Array
  agent: jax.Array
  last_move: jax.Array
  outcome: jax.Array
  key: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToe:
  """The environment.

  Attributes:
    opponent: who plays the other mark.
    fold: makes the key of one of its moves from the state's key and the board.
  """

  opponent: opponents.Opponent = opponents.uniform_random
  fold: Callable[[jax.Array, jax.Array], jax.Array] = jax.random.fold_in

  def init(
    self,
    key: jax.Array,
    agent: jax.Array | int = rules.X,
    board: jax.Array | int = rules.EMPTY_BOARD,
    last_move: jax.Array | int = -1,
  ) -> State:
    """Starts a game in which it is the agent's turn.

    Args:
      key: kept in the state as the opponent's luck.
      agent: the agent's mark.
      board: a reachable board to start from. Where the other side is to move
        on it, the opponent moves first.
      last_move: the cell the opponent took last on that board, -1 for none.
    """
    board = jnp.asarray(board, jnp.int32)
    agent = jnp.asarray(agent, jnp.int8)
    state = State(
      board=board,
      agent=agent,
      last_move=jnp.asarray(last_move, jnp.int8),
      outcome=_outcome(board, agent),
      key=key,
    )
    waits = (jnp.asarray(rules.side_to_move())[board] != agent) & (
      state.outcome == Outcome.ONGOING
    )
    return _select(waits, self._reply(state), state)

  def step(self, state: State, action: jax.Array | int) -> State:
    """Plays the agent's `action` (a cell) and then the opponent's reply.

    A cell that is taken or does not exist ends the game as `ILLEGAL` with the
    board as it was. A finished game ignores further steps.
    """
    action = jnp.asarray(action, jnp.int32)
    legal = jnp.asarray(rules.legal_masks())[state.board].astype(jnp.int32)
    in_range = (action >= 0) & (action < rules.NUM_CELLS)
    cell = jnp.where(in_range, action, 0)
    is_legal = in_range & (legal >> cell & 1).astype(bool)

    moved = _moved(state, cell, state.agent)
    replied = _select(
      moved.outcome == Outcome.ONGOING, self._reply(moved), moved
    )
    illegal = dataclasses.replace(state, outcome=jnp.int8(Outcome.ILLEGAL))
    played = _select(is_legal, replied, illegal)
    return _select(state.outcome == Outcome.ONGOING, played, state)

  def _reply(self, state: State) -> State:
    key = self.fold(state.key, state.board)
    cell = jnp.asarray(self.opponent(key, state.board), jnp.int32)
    mark = (rules.X + rules.O - state.agent).astype(jnp.int8)
    moved = _moved(state, cell, mark)
    return dataclasses.replace(moved, last_move=cell.astype(jnp.int8))


def legal_actions(state: State) -> jax.Array:
  """Returns which cells the agent may take: bool [9], none once it is over."""
  mask = jnp.asarray(rules.legal_masks())[state.board].astype(jnp.int32)
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
  winner = jnp.asarray(rules.winners())[board]
  over = jnp.where(
    winner == rules.DRAWN,
    Outcome.DRAW,
    jnp.where(winner == agent, Outcome.WIN, Outcome.LOSS),
  )
  return jnp.where(winner == rules.NO_WINNER, Outcome.ONGOING, over).astype(
    jnp.int8
  )


def _moved(state: State, cell: jax.Array, mark: jax.Array) -> State:
  powers = jnp.asarray(rules.POWERS)
  board = state.board + mark.astype(jnp.int32) * powers[cell]
  return dataclasses.replace(
    state, board=board, outcome=_outcome(board, state.agent)
  )


def _select(condition: jax.Array, yes: State, no: State) -> State:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def every_line() -> TicTacToe:
  """Returns the environment in which a state's key is the number of a line.

  A line is a choice of the opponent's at each of its turns. Those below
  `opponents.num_lines` are all there are, each as likely as any other against
  an opponent that plays at random.
  """
  return TicTacToe(opponent=opponents.line, fold=lambda line, board: line)
