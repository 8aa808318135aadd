"""The result of a rollout: games with their tokens, moves and endings."""

from collections.abc import Callable, Iterator
import enum
from typing import Any

from flax import struct
import jax
import numpy as np

from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver


class Ending(enum.IntEnum):
  """Endings of a game; the first values are those of `games.tictactoe.env.Outcome`."""

  ONGOING = env_lib.Outcome.ONGOING
  WIN = env_lib.Outcome.WIN
  DRAW = env_lib.Outcome.DRAW
  LOSS = env_lib.Outcome.LOSS
  ILLEGAL = env_lib.Outcome.ILLEGAL
  PARSE_ERROR = 5
  # Cut by a limit of tokens or turns.
  LENGTH = 6
  # A single move was asked for, and made; the game could go on.
  UNFINISHED = 7


# The names of the endings' rates, from the best to the worst.
RATES = {
  "win_rate": Ending.WIN,
  "draw_rate": Ending.DRAW,
  "unfinished_rate": Ending.UNFINISHED,
  "loss_rate": Ending.LOSS,
  "illegal_rate": Ending.ILLEGAL,
  "parse_error_rate": Ending.PARSE_ERROR,
  "truncated_rate": Ending.LENGTH,
}


@struct.dataclass
class Trajectory:
  """B games of at most T turns of at most A sampled tokens each.

  Attributes:
    agent: int8 [B], the model's mark.
    ending: int8 [B], an `Ending`; never `ONGOING`.
    board: int32 [B], the board at the end.
    boards: int32 [B, T], what the model was asked about.
    last_moves: int8 [B, T], the cell the opponent had taken last, -1 for none.
    retried: bool [B, T], whether the turn answers an unreadable answer.
    turn_mask: bool [B, T], which turns were played.
    moves: int8 [B, T], the cell that was played, -1 for an unreadable answer.
    actions: int32 [B, T, A], the sampled tokens.
    action_mask: bool [B, T, A], which of them exist.
    log_probs: float32 [B, T, A], their log-probabilities (see
      `sampling.sample`), 0 where there is none.
    sampled_mass: float32 [B, T, A], the total probability of the tokens that
      could be drawn in place of each, 0 where there is none; None where all
      tokens could.
  """

  agent: jax.Array
  ending: jax.Array
  board: jax.Array
  boards: jax.Array
  last_moves: jax.Array
  retried: jax.Array
  turn_mask: jax.Array
  moves: jax.Array
  actions: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  sampled_mass: jax.Array | None = None


def dummy_trajectory(num_turns: int, max_new_tokens: int) -> Trajectory:
  """Returns two games to try functions on: the centre, and no readable answer.

  Args:
    num_turns: T; the games have one turn. At 1 they are single moves.
    max_new_tokens: A; the answers have one token.
  """
  turns, tokens = (2, num_turns), (2, num_turns, max_new_tokens)
  turn_mask, moves = np.zeros(turns, bool), np.full(turns, -1, np.int8)
  turn_mask[:, 0], moves[0, 0] = True, 4
  action_mask = np.zeros(tokens, bool)
  action_mask[..., 0] = turn_mask
  first = Ending.UNFINISHED if num_turns == 1 else Ending.LENGTH
  # On the host arrays are NumPy's.
  fields: dict[str, Any] = {
    "agent": np.full(2, rules.X, np.int8),
    "ending": np.array([first, Ending.PARSE_ERROR], np.int8),
    "board": np.array([rules.X * rules.POWERS[4], rules.EMPTY_BOARD], np.int32),
    "boards": np.full(turns, rules.EMPTY_BOARD, np.int32),
    "last_moves": np.full(turns, -1, np.int8),
    "retried": np.zeros(turns, bool),
    "turn_mask": turn_mask,
    "moves": moves,
    "actions": np.zeros(tokens, np.int32),
    "action_mask": action_mask,
    "log_probs": np.zeros(tokens, np.float32),
  }
  return Trajectory(**fields)


def optimal_moves(games: Trajectory) -> np.ndarray:
  """Returns which turns played an optimal move: bool [B, T]."""
  masks = solver.solve().optimal[np.asarray(games.boards)].astype(np.int32)
  moves = np.asarray(games.moves).astype(np.int32)
  good = (masks >> np.maximum(moves, 0) & 1).astype(bool)
  return good & (moves >= 0) & np.asarray(games.turn_mask)


def describe(
  games: Trajectory, decode: Callable[[list[int]], str]
) -> Iterator[dict[str, Any]]:
  """Yields each game in words and coordinates, for people to read."""
  optimal = optimal_moves(games)
  for n in range(len(games.ending)):
    yield {
      "agent": prompts.MARK_NAMES[int(games.agent[n])],
      "ending": Ending(int(games.ending[n])).name.lower(),
      "board": board_text.to_text(int(games.board[n])),
      "turns": [
        {
          "board": board_text.to_text(int(games.boards[n, t])),
          "opponent_move": _coordinate(int(games.last_moves[n, t])),
          "response": decode(
            np.asarray(games.actions[n, t])[games.action_mask[n, t]].tolist()
          ),
          "move": _coordinate(int(games.moves[n, t])),
          "optimal": bool(optimal[n, t]),
        }
        for t in np.flatnonzero(games.turn_mask[n])
      ],
    }


def _coordinate(cell: int) -> str | None:
  return None if cell < 0 else prompts.coordinate(cell)
