"""The interface of games that play every line, and picture first moves.

Exact results then hold for any context, also one of whole conversations. Games
here are `rollout.trajectory.Trajectory`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np


class LinePlay(Protocol):
  """The lines of a game: everything that the others may do in it."""

  def starts(self, seat: int) -> Any:
    """Returns the first states of every line against random opponents, [N]."""
    ...

  def distinct(self, games: Any) -> np.ndarray:
    """Returns the index of each distinct game of all lines, int [M]."""
    ...

  def optimal_weights(self, games: Any) -> np.ndarray:
    """Returns importance weights of optimal over random opponents, [N]."""
    ...

  def opening_states(self, seat: int, numbers: jax.Array) -> Any:
    """Returns states of first moves to sample, [B]."""
    ...

  def count_openings(self, games: Sequence[Any]) -> dict[str, Any]:
    """Returns fields of `BoardPage.openings`, given games of each seat."""
    ...
