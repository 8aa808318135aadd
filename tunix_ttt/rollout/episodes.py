"""Trajectories as people read them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory


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
