"""Kinds of generated rows: their interface, and what they share."""

from collections import Counter
from collections.abc import Iterator, Mapping
import hashlib
from typing import Any, Literal, Protocol, get_args

from tunix_ttt import config as config_lib
from tunix_ttt.runs import progress

Row = dict[str, Any]
Keep = Literal["won", "drawn", "not-lost", "all"]

# The outcomes of games that each choice keeps; other games are dropped.
KEPT: Mapping[str, tuple[str, ...]] = {
  "won": ("win",),
  "drawn": ("draw",),
  "not-lost": ("win", "draw"),
  "all": ("win", "draw", "loss"),
}
# Kinds of rejected answers.
REJECTED: tuple[str, ...] = get_args(config_lib.Rejected)
# Number of repeated rows in a row after which the search for new ones ends.
_PATIENCE = 50_000


class Kind(Protocol):
  """A generator of rows."""

  def settings(self) -> dict[str, Any]:
    """Returns the settings for a manifest."""
    ...

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` items; counts generated and dropped ones."""
    ...


def tally(
  counts: Counter[str], ending: str, keep: Keep, games: int = 1
) -> bool:
  """Counts games of an ending and returns whether they are kept."""
  is_kept = ending in KEPT[keep]
  counts[f"{'kept' if is_kept else 'dropped'} {ending}"] += games
  return is_kept


def distinct(
  rows: Iterator[Row | None], count: int, unit: str, counts: Counter[str]
) -> Iterator[Row]:
  """Yields `count` distinct rows, or fewer if no new row comes for long."""
  seen: set[bytes] = set()
  num_repeated = 0
  with progress.bar(total=count, unit=unit) as bar:
    while len(seen) < count and num_repeated < _PATIENCE:
      row = next(rows)
      num_repeated += 1
      if row is None:
        continue
      digest = hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
      if digest not in seen:
        seen.add(digest)
        num_repeated = 0
        bar.update()
        yield row
  if missing := count - len(seen):
    counts["not found, as there are no more different ones"] = missing


def parse_weights(text: str) -> dict[str, float]:
  """Parses weights by kind of `REJECTED`: `worse=0.7,illegal=0.3`.

  Raises:
    ValueError: If a kind is unknown or repeated, or a weight is not above 0.
  """
  weights = {}
  for part in text.split(","):
    name, _, weight = part.partition("=")
    if name not in REJECTED or name in weights:
      raise ValueError(
        f"{name!r} is not one of {', '.join(REJECTED)}, or is repeated"
      )
    weights[name] = float(weight or 1)
    if not 0 < weights[name] < float("inf"):
      raise ValueError(f"the weight of {name} must be above 0")
  return weights
