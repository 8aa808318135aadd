"""Trajectories: games with their tokens, moves and endings."""

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
  """Ending of a game; extends `games.tictactoe.env.Outcome`."""

  ONGOING = env_lib.Outcome.ONGOING
  WIN = env_lib.Outcome.WIN
  DRAW = env_lib.Outcome.DRAW
  LOSS = env_lib.Outcome.LOSS
  ILLEGAL = env_lib.Outcome.ILLEGAL
  PARSE_ERROR = 5
  # The game reached a limit of tokens or turns.
  LENGTH = 6
  # The game is not over after a single move, as requested.
  UNFINISHED = 7


# Metric names of the endings, from best to worst.
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
    agent: Mark of the model, int8 [B].
    ending: `Ending` of the game, never `ONGOING`, int8 [B].
    board: Board at the end, int32 [B].
    boards: Board at each turn of the model, int32 [B, T].
    last_moves: Cell of the opponent's last move, -1 for none, int8 [B, T].
    retried: Whether the turn follows an unreadable answer, bool [B, T].
    turn_mask: Mask of the turns that were played, bool [B, T].
    moves: Cell of the model's move, -1 if the answer is unreadable, int8
      [B, T].
    actions: Sampled tokens, int32 [B, T, A].
    action_mask: Mask of the sampled tokens, bool [B, T, A].
    log_probs: Log-probabilities of the sampled tokens, as `sampling.sample`
      returns them, 0 elsewhere, float32 [B, T, A].
    sampled_mass: Total probability of the tokens that could be sampled, 0
      elsewhere, float32 [B, T, A]; None if all tokens could be.
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
  """Returns two games for validating functions of trajectories.

  The first plays the center; the answer of the second is unreadable. Both have
  one of `num_turns` turns and one of `max_new_tokens` tokens.
  """
  turns, tokens = (2, num_turns), (2, num_turns, max_new_tokens)
  turn_mask, moves = np.zeros(turns, bool), np.full(turns, -1, np.int8)
  turn_mask[:, 0], moves[0, 0] = True, 4
  action_mask = np.zeros(tokens, bool)
  action_mask[..., 0] = turn_mask
  first = Ending.UNFINISHED if num_turns == 1 else Ending.LENGTH
  # Typed as Any: the fields are NumPy arrays on the host.
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
  """Returns the mask of turns with an optimal move: bool [B, T]."""
  masks = solver.solve().optimal[np.asarray(games.boards)].astype(np.int32)
  moves = np.asarray(games.moves).astype(np.int32)
  is_optimal = (masks >> np.maximum(moves, 0) & 1).astype(bool)
  return is_optimal & (moves >= 0) & np.asarray(games.turn_mask)


def describe(
  games: Trajectory, decode: Callable[[list[int]], str]
) -> Iterator[dict[str, Any]]:
  """Yields each game as a human-readable record."""
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
