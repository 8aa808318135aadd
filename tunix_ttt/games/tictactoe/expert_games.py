"""Plays games of the solver against a random opponent."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats

# The agent moves at most five times, as X on an empty board.
MAX_TURNS = (rules.NUM_CELLS + 1) // 2


class Games(NamedTuple):
  """A batch of N games of up to T turns, from the agent's point of view.

  Attributes:
    agent: Mark of the agent, int8 [N].
    boards: Board before each move of the agent, int32 [N, T].
    last_moves: Last cell that the opponent took, int8 [N, T]; -1 for none.
    actions: Cell that the agent took, int8 [N, T].
    played: True at the turns of a game, bool [N, T].
    outcome: `env.Outcome` of the game, int8 [N].
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

  The agent is X in every other game. Random starts show the solver on positions
  that its own moves never reach. A game depends on the seed and its number only.

  Args:
    seed: Random seed.
    num_games: Number of games.
    random_starts: Probability that a game starts on a uniformly random reachable
      position instead of the empty board.
    mistakes: Probability that a move is a random legal one.
    first: Number of the first game.
  """
  # The rendered texts need most of the memory.
  requirements.check_fits(
    8000 * num_games, f"{num_games:,} games", "data.games.num_games"
  )
  numbers = np.arange(first, first + num_games)
  agent = np.where(numbers % 2, rules.O, rules.X).astype(np.int8)
  streams.check_seed(seed)
  arrays = _play(np.uint32(seed), numbers, agent, random_starts, mistakes)
  return Games(agent, *(np.asarray(array) for array in arrays))


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
    opponent_key = streams.key(seed, streams.Stream.EXPERT_OPPONENTS, number)
    opponent_seed = jax.random.bits(opponent_key)
    random_key, board_key, last_key = jax.random.split(
      streams.key(seed, streams.Stream.EXPERT_STARTS, number), 3
    )
    is_random = jax.random.uniform(random_key) < random_starts
    board, last_move = opponents.random_position(board_key, last_key, agent)
    board = jnp.where(is_random, board, rules.EMPTY_BOARD)
    last_move = jnp.where(is_random, last_move, -1)
    state = env.init(opponent_seed, agent, board, last_move)

    def turn(state: env_lib.State, turn_number: jax.Array):
      mistake_key, move_key = jax.random.split(
        streams.key(seed, streams.Stream.EXPERT_MISTAKES, number, turn_number)
      )
      action = jnp.where(
        jax.random.uniform(mistake_key) < mistakes,
        opponents.choose(move_key, opponents.legal_mask(state.board)),
        opponents.preferred(opponent_seed, state.board),
      )
      record = (
        state.board,
        state.last_move,
        action.astype(jnp.int8),
        state.outcome == env_lib.Outcome.ONGOING,
      )
      return env.step(state, action), record

    state, records = jax.lax.scan(turn, state, jnp.arange(MAX_TURNS))
    return *records, state.outcome

  return jax.vmap(game)(numbers, agent)


def keep_won(games: Games) -> Games:
  """Returns the games that the agent won."""
  is_won = games.outcome == env_lib.Outcome.WIN
  return Games(*(array[is_won] for array in games))


def keep_decisions(games: Games, share: float, seed: int) -> Games:
  """Drops most positions on which every legal move is optimal.

  Such positions teach nothing but the format; a share of them is kept. Games lose
  turns, so this is for the context `board` only.
  """
  is_any_optimal = solver.solve().optimal == rules.legal_masks()
  rng = streams.generator(seed, streams.Stream.KEPT_POSITIONS)
  is_drawn = rng.random(games.boards.shape) < share
  is_kept = is_drawn | ~is_any_optimal[games.boards]
  return games._replace(played=games.played & is_kept)


def turns(games: Games, number: int, style: str) -> list[game_turns.Turn]:
  """Returns the turns of a game, explained in a style of `text_formats.STYLES`."""
  explain, result = text_formats.STYLES[style], []
  for t in np.flatnonzero(games.played[number]):
    board, cell = int(games.boards[number, t]), int(games.actions[number, t])
    last_move = int(games.last_moves[number, t])
    result.append(
      game_turns.Turn(
        board, None if last_move < 0 else last_move, cell, explain(board, cell)
      )
    )
  return result


def rows(
  settings: config_lib.GamesConfig,
  text_format: text_formats.TextFormat,
  seed: int,
) -> Iterator[dict[str, Any]]:
  """Yields the rows of generated games.

  Raises:
    errors.UserError: if the expert is not the solver.
  """
  if settings.expert != "optimal":
    raise errors.UserError(
      f"data.games.expert: {settings.expert}: the expert of tic-tac-toe is the"
      " solver, optimal; mistakes makes it weaker"
    )
  games = expert_games(
    seed, settings.num_games, settings.random_starts, settings.mistakes
  )
  if settings.keep == "won":
    games = keep_won(games)
  if settings.context == "board":
    games = keep_decisions(games, settings.any_move_positions, seed)
  for number in range(len(games.agent)):
    turns_ = turns(games, number, settings.thoughts)
    yield from game_turns.of_game(turns_, text_format, settings.context)
