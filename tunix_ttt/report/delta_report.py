"""Compares answers before and after training, and reports in Markdown."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import html
import math
import pathlib
import shlex
from typing import NamedTuple

import jinja2
import numpy as np
from scipy import stats

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import evalsets

PACKAGE = "tunix_ttt.report"
_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "&<>\"'\\`*_{}[]|#~"}


class Pair(NamedTuple):
  """The answers to one item before and after training."""

  before: evalsets.Answer
  after: evalsets.Answer

  @property
  def change(self) -> int:
    """The change of the score."""
    return self.after.score - self.before.score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
  """A comparison of paired right (1) and wrong (0) answers.

  It has means, sample standard deviations (0 for a single item), the 95%
  confidence interval from `low` to `high` of `change`, the p-value of the exact
  McNemar test for no change, and the numbers of answers `gained` and `lost`.
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


def read(before: pathlib.Path, after: pathlib.Path) -> list[Pair]:
  """Reads two files of answers and pairs the answers by item.

  Raises:
    errors.UserError: If a file is wrong, or their items differ.
  """
  old, new = evalsets.read(before), evalsets.read(after)
  for answers, others, path, other_path in (
    (old, new, before, after),
    (new, old, after, before),
  ):
    missing = sorted(answers.keys() - others.keys())
    if missing:
      more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
      raise errors.UserError(
        f"{other_path}: has no answer to {', '.join(missing[:3])}{more}, which"
        f" {path} answers; generate both from the same evalset"
      )
  pairs = [Pair(answer, new[key]) for key, answer in old.items()]
  for b, a in pairs:
    for field in ("prompt", "expected_answer", "match", "section"):
      if getattr(b, field) != getattr(a, field):
        raise errors.UserError(
          f"{after}: the item {a.id!r} has another {field} than in"
          f" {before}; generate both from the same evalset"
        )
  return pairs


def write(
  pairs: Sequence[Pair], output: pathlib.Path, sentence: str = ""
) -> None:
  """Writes the report below a sentence of results.

  Raises:
    errors.UserError: If the file exists.
  """
  files.check_absent(output)
  before, after = (
    Counter(answer.verdict for answer in answers)
    for answers in zip(*pairs, strict=True)
  )
  text = template("delta_report.md").render(
    pairs=pairs,
    sentence=sentence,
    overall=compare(pairs),
    sections=sections(pairs),
    chance=chance(pairs),
    verdicts=[
      (kind, before[kind], after[kind]) for kind in sorted(before | after)
    ],
  )
  files.write_text(output, text)


def sections(pairs: Sequence[Pair]) -> dict[str, Paired]:
  """Compares the scores in each section of an evalset."""
  by_section: dict[str, list[Pair]] = {}
  for pair in pairs:
    by_section.setdefault(pair.before.section, []).append(pair)
  return {name: compare(group) for name, group in by_section.items()}


def chance(pairs: Sequence[Pair]) -> float | None:
  """Returns the expected score of random legal moves; None for other items."""
  chances = [p.before.chance for p in pairs if p.before.chance is not None]
  return sum(chances) / len(chances) if len(chances) == len(pairs) else None


def compare(pairs: Sequence[Pair]) -> Paired:
  """Compares scores before and after training."""
  before = np.array([pair.before.score for pair in pairs])
  after = np.array([pair.after.score for pair in pairs])
  gained, lost = int((after > before).sum()), int((before > after).sum())
  both, count = int((before * after).sum()), len(pairs)
  low, high = change_interval(both, gained, lost, count - both - gained - lost)
  ddof = int(count > 1)
  return Paired(
    count=count,
    before=float(before.mean()),
    before_std=float(before.std(ddof=ddof)),
    after=float(after.mean()),
    after_std=float(after.std(ddof=ddof)),
    change=float(after.mean() - before.mean()),
    low=low,
    high=high,
    p_value=mcnemar(gained, lost),
    gained=gained,
    lost=lost,
  )


def mcnemar(gained: int, lost: int) -> float:
  """Returns the two-sided p-value of the exact McNemar test (1947)."""
  if gained + lost == 0:
    return 1.0
  return float(stats.binomtest(gained, gained + lost).pvalue)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
  """Returns the 95% score interval of a proportion (Wilson, 1927)."""
  interval = stats.binomtest(right, count).proportion_ci(method="wilson")
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


def template(
  name: str, *, autoescape: bool = False, packages: Sequence[str] = ()
) -> jinja2.Template:
  """Returns a template of `assets`; a missing value is an error.

  It can import templates of `assets` in `packages`, too.

  The filter `md` escapes text for a line or table cell of Markdown, `code` also
  marks it as code, and `pre` escapes it for a `<pre>` block.
  """
  environment = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
      [jinja2.PackageLoader(each, "assets") for each in (PACKAGE, *packages)]
    ),
    autoescape=autoescape,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    "code": lambda text: f"<code>{_escape(text)}</code>",
    "json": files.to_json,
    "md": _escape,
    # For a raw HTML block, which ends at a blank line.
    "pre": lambda text: html.escape(text).replace("\n", "&#10;"),
    "quote": shlex.quote,
  }
  return environment.get_template(name)


def _escape(text: str) -> str:
  """Escapes text for a Markdown line or table cell."""
  return " ".join(text.split()).translate(_ESCAPES)
