"""Games of the solver, or of a worse player, against a random opponent."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.data import rows
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thoughts as thoughts_lib
from tunix_ttt.text import chat

# The agent moves at most five times, as X on an empty board.
MAX_TURNS = (rules.NUM_CELLS + 1) // 2
_STREAMS = streams.Stream


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
  seed: int,
  num_games: int,
  random_starts: float = 0.0,
  mistakes: float = 0.0,
  first: int = 0,
) -> Games:
  """Plays the solver's preferred moves against a uniformly random opponent.

  The agent is X in every other game. A game may begin on a random position
  instead of the empty board, so that the expert is also seen where it would
  never have led itself.

  Args:
    seed: Random seed of the games; each depends on it and its number alone.
    num_games: how many games.
    random_starts: probability that a game starts on a reachable position, each
      as likely as any other, instead of the empty board.
    mistakes: probability that a move is any legal one instead.
    first: Number of the first game.
  """
  # Mostly the texts that are made of them.
  requirements.check_fits(
    8000 * num_games, f"{num_games:,} games", "data.games.num_games"
  )
  numbers = np.arange(first, first + num_games)
  agent = np.where(numbers % 2, rules.O, rules.X).astype(np.int8)
  streams.check_seed(seed)
  played = _play(np.uint32(seed), numbers, agent, random_starts, mistakes)
  return Games(agent, *(np.asarray(a) for a in played))


@jax.jit
def _play(
  seed: jax.Array,
  numbers: jax.Array,
  agent: jax.Array,
  random_starts: float,
  mistakes: float,
):
  env = env_lib.TicTacToe(opponent=opponents.uniform_random)

  def game(number: jax.Array, agent: jax.Array):
    opponent_seed = jax.random.bits(
      streams.key(seed, _STREAMS.EXPERT_OPPONENTS, number)
    )
    start_key = streams.key(seed, _STREAMS.EXPERT_STARTS, number)
    board, last_move = _start(start_key, agent, random_starts)
    state = env.init(opponent_seed, agent, board, last_move)

    def turn(state: env_lib.State, turn_number: jax.Array):
      slip_key, move_key = jax.random.split(
        streams.key(seed, _STREAMS.EXPERT_MISTAKES, number, turn_number)
      )
      slips = jax.random.uniform(slip_key) < mistakes
      action = jnp.where(
        slips,
        opponents.choose(move_key, opponents.legal_mask(state.board)),
        opponents.preferred(opponent_seed, state.board),
      )
      seen = (
        state.board,
        state.last_move,
        action.astype(jnp.int8),
        state.outcome == env_lib.Outcome.ONGOING,
      )
      return env.step(state, action), seen

    state, seen = jax.lax.scan(turn, state, jnp.arange(MAX_TURNS))
    return *seen, state.outcome

  return jax.vmap(game)(numbers, agent)


def _start(
  key: jax.Array, agent: jax.Array, random_starts: float
) -> tuple[jax.Array, jax.Array]:
  """Draws a board on which `agent` is to move, and the move before it."""
  random_key, board_key, last_key = jax.random.split(key, 3)
  is_random = jax.random.uniform(random_key) < random_starts
  board, last_move = opponents.random_position(board_key, last_key, agent)
  return (
    jnp.where(is_random, board, rules.EMPTY_BOARD),
    jnp.where(is_random, last_move, -1),
  )


def keep_won(games: Games) -> Games:
  """Returns the games that the agent won."""
  won = np.flatnonzero(games.outcome == env_lib.Outcome.WIN)
  return Games(*(values[won] for values in games))


def keep_decisions(games: Games, share: float, seed: int) -> Games:
  """Drops most positions on which any legal move is as good as any other.

  They teach a player nothing but the format. Dropping them leaves holes in
  games, so this is for positions that stand alone.

  Args:
    games: what was played.
    share: how many such positions to keep, drawn at random.
    seed: Random seed of the draw.
  """
  any_move = solver.solve().optimal == rules.legal_masks()
  rng = streams.generator(seed, _STREAMS.KEPT_POSITIONS)
  drawn = rng.random(games.boards.shape) < share
  return games._replace(played=games.played & (drawn | ~any_move[games.boards]))


def turns(games: Games, number: int, style: str) -> list[rows.Turn]:
  """Returns the turns of a game.

  Args:
    games: what was played.
    number: Number of the game.
    style: how moves are explained, a key of `thoughts.STYLES`.
  """
  explain, found = thoughts_lib.STYLES[style], []
  for t in np.flatnonzero(games.played[number]):
    board, cell = int(games.boards[number, t]), int(games.actions[number, t])
    last_move = int(games.last_moves[number, t])
    found.append(
      rows.Turn(
        board=board,
        last_move=None if last_move < 0 else last_move,
        cell=cell,
        thought=explain(board, cell),
      )
    )
  return found


def conversations(
  games: Games, *, context: str, thoughts: bool
) -> Iterator[list[chat.Message]]:
  """Yields the games as conversations, in order.

  Args:
    games: what was played.
    context: `board` for one conversation of each position, `full` for one of
      each game.
    thoughts: whether an answer explains its move first.
  """
  text_format = text_formats.GridFormat(thoughts=thoughts)
  style = "template" if thoughts else "none"
  for number in range(len(games.agent)):
    played = turns(games, number, style)
    for row in rows.of_game(played, text_format, context):
      yield row["messages"]
