"""The running mean of each seat's return, as a baseline of its games.

In self-play both seats of a game learn, and one of them may have the better
chances. The baseline is that of SPIRAL (Liu et al., 2025, "role-conditioned
advantage estimation").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import advantages as advantages_lib


class RoleBaseline:
  """Exponential running mean of the returns of each seat.

  Attributes:
    means: Running mean of each seat's returns, float64 [S]; NaN before its first
      games, which are compared with their own mean.
  """

  def __init__(
    self,
    seats: Sequence[str],
    config: config_lib.AlgorithmConfig,
    row: Mapping[str, Any],
  ):
    """Continues from a row of metrics, which are exact; an empty one starts.

    Args:
      seats: Name of each of the S seats.
      config: Settings of the algorithm.
      row: Metrics of the step before the next one.
    """
    self._names = [f"role_baseline/{seat}" for seat in seats]
    self._config, self._decay = config, config.role_baseline_decay or 0.0
    self.means = np.array([row.get(n, np.nan) for n in self._names])

  def metrics(self) -> dict[str, float]:
    """Returns the known means by their names in metrics."""
    named = zip(self._names, self.means.tolist(), strict=True)
    return {name: mean for name, mean in named if np.isfinite(mean)}

  def advantages(
    self, rewards: np.ndarray, played: np.ndarray, seats: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns advantages and the mask of trained turns, and updates the means.

    An advantage is the return minus the mean before the update. All arrays are
    [B, T] as for `advantages.advantages`.
    """
    config = self._config
    if config.advantage_level == "turn":
      values = advantages_lib.returns(rewards, config.discount)
      counted = played
    else:
      values = np.broadcast_to(rewards.sum(axis=1)[:, None], played.shape)
      # A game counts once, however many turns it has.
      counted = played & (np.cumsum(played, axis=1) == 1)
    batch = np.array(
      [
        values[mask].mean(dtype=np.float64) if mask.any() else np.nan
        for mask in (counted & (seats == n) for n in range(len(self.means)))
      ]
    )
    before = np.where(np.isnan(self.means), batch, self.means)
    after = self._decay * before + (1 - self._decay) * batch
    self.means = np.where(np.isnan(batch), self.means, after)
    advantages = np.where(played, values - before[seats], 0).astype(np.float32)
    if config.positive_only:
      advantages = np.maximum(advantages, 0)
    return advantages, played
