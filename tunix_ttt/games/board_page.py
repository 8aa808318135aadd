"""The interface of games that draw a board on the page of a run.

Other games are shown as text.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple, TypeVar

from tunix_ttt import files

ItemT = TypeVar("ItemT")


class FirstMoves(NamedTuple):
  """Counts of first moves on a square board, for a heat map.

  `counts` has the moves to each of the `cells`, which are named row by row, and
  last all other answers. `marks` are those on the board, by the names of their
  cells; `name` is the figure's file.
  """

  name: str
  title: str
  counts: Sequence[int]
  cells: Sequence[str]
  marks: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardPage:
  """The board of a game on the page of a run.

  Attributes:
    package: Package whose folder `assets` has the script `board.js`, which plays
      against the model, and the template `board.html` with the macros `play`,
      `first_moves`, `lost_lines`, `answers` and `training_game`.
    record: Class of the records of games, with the field `ending`.
    openings: Dataclass of sampled first moves that pydantic checks: the
      `temperature` and `LinePlay.count_openings`. Its method `maps` returns
      `FirstMoves`.
    values: Function of games that returns the values for the template.
    table: Function of the games on every line that returns the data for the
      script.
    replay: Function of a game of training that returns its values for the macro
      `training_game`.
  """

  package: str
  record: type[files.Row]
  openings: type[Any]
  values: Callable[[Sequence[Any]], dict[str, Any]]
  table: Callable[[Sequence[Any]], dict[str, Any]]
  replay: Callable[[Any], Any]


def spread(items: Sequence[ItemT], count: int) -> list[ItemT]:
  """Returns at most `count` items, evenly spaced from the first to the last."""
  count = min(count, len(items))
  last = len(items) - 1
  return [items[last * n // max(count - 1, 1)] for n in range(count)]
