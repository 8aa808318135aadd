"""Several sequences in one row, so that less of a batch is padding.

A packed batch has the sequences that the same batch has without packing, in
other places: attention stays within a sequence, in which positions start anew.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
import dataclasses

import numpy as np

from tunix_ttt.data import datasets
from tunix_ttt.text import chat

# Lengths of packed rows that are considered, as multiples of the longest
# sequence's.
_MULTIPLES = (1, 2, 3, 4)
# In a longer row attention costs more a token; the batch has to be smaller by at
# least this share.
_WORTH_IT = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The shape of packed batches.

  Attributes:
    rows: Rows of a batch, R.
    length: Length of a row, L.
  """

  rows: int
  length: int

  @property
  def size(self) -> int:
    """Tokens of a batch, padding among them."""
    return self.rows * self.length


def pack(lengths: Sequence[int], length: int) -> list[list[int]]:
  """Puts sequences into few rows: best-fit decreasing (Johnson, 1973).

  Each, the longest first, goes where it leaves the least room.

  Args:
    lengths: Lengths of the sequences, none above `length`.
    length: Length of a row.

  Returns:
    For each row which sequences it has, in order.
  """
  rows: list[list[int]] = []
  # What is left of each row that is not full, and which row it is; sorted.
  rooms: list[tuple[int, int]] = []
  for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
    found = bisect.bisect_left(rooms, (lengths[n], -1))
    if found == len(rooms):
      room, row = length, len(rows)
      rows.append([])
    else:
      room, row = rooms.pop(found)
    rows[row].append(n)
    if room > lengths[n]:
      bisect.insort(rooms, (room - lengths[n], row))
  return rows


def find_layout(
  batches: Iterable[Sequence[chat.Tokens]], divisor: int = 1
) -> Layout:
  """Returns a shape that every one of some batches fits into.

  All of them have one shape, so that one program is compiled. Rows are as long
  as the longest sequence, or a few times that where it saves much.

  Args:
    batches: the sequences of each.
    divisor: A number that must divide the number of rows.
  """
  lengths = [[len(row.ids) for row in rows] for rows in batches]
  longest = max(map(max, lengths))
  found = []
  for multiple in _MULTIPLES:
    length = multiple * longest
    most = max(len(pack(each, length)) for each in lengths)
    rows = -(-most // divisor) * divisor
    found.append(Layout(rows=rows, length=length))
  best = found[0]
  for other in found[1:]:
    if other.size <= (1 - _WORTH_IT) * best.size:
      best = other
  return best


def make_batch(
  rows: Sequence[chat.Tokens],
  *,
  layout: Layout,
  pad_id: int,
  denominator: float,
) -> datasets.Batch:
  """Packs sequences into arrays.

  Returns:
    What `datasets.make_batch` does, in the layout's shape, and `segment_ids`
    int32 [R, L]: which of the sequences a token is of, counted from 1 in the
    order they are given; 0 at padding.
  """
  shape = layout.rows, layout.length
  tokens = np.full(shape, pad_id, np.int32)
  segment_ids = np.zeros(shape, np.int32)
  loss_mask = np.zeros(shape, bool)
  places = pack([len(row.ids) for row in rows], layout.length)
  for i, members in enumerate(places):
    start = 0
    for n in members:
      part = slice(start, start + len(rows[n].ids))
      tokens[i, part] = rows[n].ids
      segment_ids[i, part] = n + 1
      loss_mask[i, part] = rows[n].loss_mask
      # What comes before it is another sequence's.
      loss_mask[i, start] = False
      start = part.stop
  return {
    "input_tokens": tokens,
    "input_mask": segment_ids > 0,
    "loss_mask": loss_mask,
    "denominator": np.asarray(denominator, np.float32),
    "segment_ids": segment_ids,
  }


def batches(
  parts: Iterable[datasets.Part], layout: Layout, pad_id: int
) -> Iterator[datasets.Batch]:
  """Yields micro-batches as `make_batch` returns them."""
  for part in parts:
    yield make_batch(
      part.rows, layout=layout, pad_id=pad_id, denominator=part.denominator
    )
