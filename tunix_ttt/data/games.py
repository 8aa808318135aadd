"""Expert games: the solver against a random opponent, played in one batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.game import env as env_lib
from tunix_ttt.game import opponents
from tunix_ttt.game import rules

# The agent moves at most five times, as X on an empty board.
MAX_TURNS = (rules.NUM_CELLS + 1) // 2


class Games(NamedTuple):
  """A batch of games as the agent met them; N games, T turns at the most.

  Attributes:
    agent: int8 [N], the agent's mark.
    boards: int32 [N, T], the board before each of the agent's moves.
    last_moves: int8 [N, T], the cell the opponent had taken last, -1 for none.
    actions: int8 [N, T], the cell the agent took.
    played: bool [N, T], False past the end of a game.
    outcome: int8 [N], an `env.Outcome`.
  """

  agent: np.ndarray
  boards: np.ndarray
  last_moves: np.ndarray
  actions: np.ndarray
  played: np.ndarray
  outcome: np.ndarray


def expert_games(
  seed: int, num_games: int, max_opening_plies: int = 0
) -> Games:
  """Plays the solver's preferred moves against a uniformly random opponent.

  The agent is X in every other game. A game may begin past the empty board,
  after random moves of both sides, so that the expert is also seen where it
  would never have led itself.

  Args:
    seed: of the opponent's and the openings' luck.
    num_games: how many games.
    max_opening_plies: each game's opening has a random number of moves from
      none to this many, fewer where one more would end the game.
  """
  agent = env_lib.starting_marks("mixed", num_games)
  keys = jax.random.split(jax.random.key(seed), num_games)
  played = _play(keys, agent, max_opening_plies)
  return Games(np.asarray(agent), *(np.asarray(a) for a in played))


@jax.jit(static_argnums=2)
def _play(keys: jax.Array, agent: jax.Array, max_opening_plies: int):
  env = env_lib.TicTacToe(opponent=opponents.uniform_random)

  def game(key: jax.Array, agent: jax.Array):
    opening_key, luck_key, expert_key = jax.random.split(key, 3)
    board, last = _opening(opening_key, max_opening_plies)
    mine = jnp.asarray(rules.side_to_move())[board] == agent
    state = env.init(luck_key, agent, board, jnp.where(mine, last, -1))

    def turn(state: env_lib.State, _):
      action = opponents.preferred(expert_key, state.board)
      seen = (
        state.board,
        state.last_move,
        action.astype(jnp.int8),
        state.outcome == env_lib.Outcome.ONGOING,
      )
      return env.step(state, action), seen

    state, seen = jax.lax.scan(turn, state, length=MAX_TURNS)
    return *seen, state.outcome

  return jax.vmap(game)(keys, agent)


def _opening(key: jax.Array, max_plies: int) -> tuple[jax.Array, jax.Array]:
  """Plays random moves that do not end the game; the board and last cell."""
  length_key, move_key = jax.random.split(key)
  length = jax.random.randint(length_key, (), 0, max_plies + 1)
  ongoing = jnp.asarray(rules.winners() == rules.NO_WINNER)
  after_move = jnp.asarray(rules.successors())

  def ply(carry, i):
    board, last, stopped = carry
    cell = opponents.uniform_random(jax.random.fold_in(move_key, i), board)
    after = after_move[board, cell]
    stopped = stopped | (i >= length) | ~ongoing[after]
    return (
      jnp.where(stopped, board, after),
      jnp.where(stopped, last, cell),
      stopped,
    ), None

  start = (jnp.int32(rules.EMPTY_BOARD), jnp.int32(-1), jnp.array(False))
  (board, last, _), _ = jax.lax.scan(ply, start, jnp.arange(max_plies))
  return board, last
