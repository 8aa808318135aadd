"""Statistics against published numbers, SciPy and simulation."""

import numpy as np
import pytest

from tests import test_report
from tunix_ttt.report import delta_report


def compare(before, after):
  scores = zip(before, after, strict=True)
  return delta_report.compare(
    [
      delta_report.Pair(*(test_report.answer("a", s) for s in p))
      for p in scores
    ]
  )


def test_counts_means_and_deviations():
  before, after = [0, 0, 1, 1, 0], [1, 0, 1, 0, 1]
  s = compare(before, after)
  assert (s.count, s.gained, s.lost) == (5, 2, 1)
  assert (s.before, s.after) == pytest.approx((0.4, 0.6))
  assert s.before_std == pytest.approx(np.std(before, ddof=1))
  assert s.change == pytest.approx(0.2)
  assert s.low < s.change < s.high


def test_a_single_item():
  s = compare([0], [1])
  assert (s.before_std, s.after_std, s.p_value) == (0.0, 0.0, 1.0)
  assert -1 <= s.low < s.high <= 1


def test_mcnemar_by_hand():
  # Of 5 flips, 5 one way: 2 * (1/2)^5.
  assert delta_report.mcnemar(5, 0) == pytest.approx(2 / 32)
  assert delta_report.mcnemar(0, 5) == pytest.approx(2 / 32)
  assert delta_report.mcnemar(3, 3) == 1.0
  assert delta_report.mcnemar(0, 0) == 1.0


def test_wilson_as_published():
  # Newcombe (1998), "Two-sided confidence intervals for the single
  # proportion", table I, method 3.
  for right, count, low, high in (
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ):
    found = delta_report.wilson_interval(right, count)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_paired_interval_as_published():
  # Newcombe (1998), the example of 36 + 12 + 2 + 0 pairs, method 10.
  found = delta_report.change_interval(36, 12, 2, 0)
  assert found == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_interval_is_symmetric():
  low, high = delta_report.change_interval(30, 9, 4, 17)
  turned = delta_report.change_interval(30, 4, 9, 17)
  assert turned == pytest.approx((-high, -low))


@pytest.mark.parametrize(
  "both, gained, lost, neither",
  [(0, 0, 0, 54), (54, 0, 0, 0), (0, 54, 0, 0), (0, 0, 54, 0), (1, 0, 0, 0)],
)
def test_paired_interval_at_the_edges(both, gained, lost, neither):
  low, high = delta_report.change_interval(both, gained, lost, neither)
  change = (gained - lost) / (both + gained + lost + neither)
  assert -1 <= low <= change <= high <= 1
  assert high - low < 2


def test_paired_interval_covers_the_truth():
  rng = np.random.default_rng(0)
  cells = [0.5, 0.2, 0.08, 0.22]
  draws = rng.multinomial(80, cells, 2000)
  covered = [
    low <= 0.12 <= high
    for low, high in (delta_report.change_interval(*d) for d in draws.tolist())
  ]
  assert 0.93 < np.mean(covered) < 0.975
