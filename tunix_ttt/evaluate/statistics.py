"""Statistics of proportions and of paired right and wrong answers."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
  """A comparison of paired right (1) and wrong (0) answers.

  Attributes:
    count: Number of items.
    before: Mean score before.
    before_std: Sample standard deviation before; 0 for a single item.
    after: Mean score after.
    after_std: Sample standard deviation after; 0 for a single item.
    change: `after - before`.
    low: Lower end of the change's 95% confidence interval.
    high: Upper end of the change's 95% confidence interval.
    p_value: P-value of the exact McNemar test for no change.
    gained: Number of items wrong before and right after.
    lost: Number of items right before and wrong after.
  """

  count: int
  before: float
  before_std: float
  after: float
  after_std: float
  change: float
  low: float
  high: float
  p_value: float
  gained: int
  lost: int


def compare(before: Sequence[int], after: Sequence[int]) -> Paired:
  """Compares scores of the same items in the same order.

  Raises:
    ValueError: If there are no scores, or their numbers differ.
  """
  if len(before) != len(after) or not before:
    raise ValueError(f"{len(before)} scores before, {len(after)} after")
  b, a = np.asarray(before), np.asarray(after)
  gained, lost = int(((b == 0) & (a == 1)).sum()), int((b > a).sum())
  both = int((b * a).sum())
  low, high = change_interval(both, gained, lost, len(b) - both - gained - lost)
  return Paired(
    count=len(b),
    before=float(b.mean()),
    before_std=_std(b),
    after=float(a.mean()),
    after_std=_std(a),
    change=float(a.mean() - b.mean()),
    low=low,
    high=high,
    p_value=mcnemar(gained, lost),
    gained=gained,
    lost=lost,
  )


def _std(values: np.ndarray) -> float:
  return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def mcnemar(gained: int, lost: int) -> float:
  """Returns the two-sided p-value of the exact McNemar test (1947)."""
  if gained + lost == 0:
    return 1.0
  return float(stats.binomtest(gained, gained + lost).pvalue)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
  """Returns the 95% score interval of a proportion (Wilson, 1927)."""
  test = stats.binomtest(right, count)
  interval = test.proportion_ci(CONFIDENCE, method="wilson")
  return float(interval.low), float(interval.high)


def change_interval(
  both: int, gained: int, lost: int, neither: int
) -> tuple[float, float]:
  """Returns the 95% interval of the change of a paired proportion.

  Newcombe (1998), "Improved confidence intervals for the difference between
  binomial proportions based on paired data", method 10: combines the Wilson
  intervals of both proportions with their continuity-corrected correlation.

  Args:
    both: Number of items right before and after.
    gained: Number of items right only after.
    lost: Number of items right only before.
    neither: Number of items wrong before and after.
  """
  n = both + gained + lost + neither
  after, before = (both + gained) / n, (both + lost) / n
  after_low, after_high = wilson_interval(both + gained, n)
  before_low, before_high = wilson_interval(both + lost, n)
  marginals = (
    (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
  )
  phi = 0.0
  if marginals:
    cross = both * neither - gained * lost
    if cross > 0:
      cross = max(cross - n / 2, 0)
    phi = cross / math.sqrt(marginals)

  def join(up: float, down: float) -> float:
    return math.sqrt(max(up * up - 2 * phi * up * down + down * down, 0.0))

  change = after - before
  low = change - join(after - after_low, before_high - before)
  high = change + join(after_high - after, before - before_low)
  return max(low, -1.0), min(high, 1.0)
