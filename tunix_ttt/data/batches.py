"""Makes the micro-batches of a run, padded or packed.

Packing puts several sequences into a row, so that less of a batch is padding.
Attention stays within a sequence and positions restart with each. A packed batch
has the sequences and the denominator of the padded batch.

A batch of preference pairs interleaves its sequences: chosen, rejected, chosen,
and so on.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.models import meshes
from tunix_ttt.text import chat

Batch = datasets.Batch
Row = chat.Tokens | row_formats.TokenPair
Dataset = (
  datasets.Dataset[chat.Tokens] | datasets.Dataset[row_formats.TokenPair]
)

# Lengths to try for packed rows, as multiples of the longest sequence.
_MULTIPLES = (1, 2, 3, 4)
# Attention costs more per token in longer rows, so they must save this share.
_MIN_SAVING = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The shape of batches: R rows of L tokens, A of them to predict."""

  rows: int
  length: int
  predicted: int


class Part(NamedTuple):
  """A micro-batch before padding.

  Attributes:
    numbers: Indices of the rows in the dataset, int32 [B]; -1 for no row.
    sequences: Token sequences of the rows, two for a preference pair.
    denominator: Divisor of the summed loss.
  """

  numbers: np.ndarray
  sequences: list[chat.Tokens]
  denominator: float


def make(
  config: config_lib.SFTConfig, dataset: Dataset, pad_id: int
) -> tuple[Iterator[Batch], list[Batch]]:
  """Returns the training and the held-out micro-batches of a run.

  Batches of preference pairs also have `pairs`, int32 [B]: the indices of the
  pairs in the dataset, -1 for no pair.
  """
  train = _train_parts(config, dataset)
  return (
    _fill(config, train, layout(config, dataset), pad_id),
    list(in_order(config, dataset, dataset.eval, pad_id)),
  )


def in_order(
  config: config_lib.SFTConfig,
  dataset: Dataset,
  rows: Sequence[Row],
  pad_id: int,
) -> Iterator[Batch]:
  """Yields batches of a dataset's rows in order, each row once."""
  size = config.training.batch_size
  if isinstance(config, config_lib.DPOConfig):
    size = _micro_batch_size(config)
  parts = ordered_parts(rows, size)
  shape = _find_shape(config, parts, size, dataset)
  return _fill(config, parts, shape, pad_id)


def layout(config: config_lib.SFTConfig, dataset: Dataset) -> Layout:
  """Returns the shape of all micro-batches that a run trains on."""
  parts = _train_parts(config, dataset)
  return _find_shape(config, parts, _micro_batch_size(config), dataset)


def train_parts(
  dataset: Dataset,
  *,
  batch_size: int,
  gradient_accumulation_steps: int = 1,
  seed: int,
) -> Iterator[Part]:
  """Yields micro-batches without end, shuffled by epoch.

  Batches run across epochs, so that each is full. The micro-batches of an
  optimizer step share a denominator: the mean of their losses is the mean over
  all supervised tokens, or all pairs, of the step.
  """
  epochs = (
    datasets.epoch_order(len(dataset.train), seed, epoch).tolist()
    for epoch in itertools.count()
  )
  order = itertools.chain.from_iterable(epochs)
  size = batch_size // gradient_accumulation_steps
  while True:
    numbers = list(itertools.islice(order, batch_size))
    yield from ordered_parts(dataset.train, size, numbers)


def ordered_parts(
  rows: Sequence[Row], batch_size: int, numbers: Sequence[int] | None = None
) -> list[Part]:
  """Splits rows in order; the mean loss of the parts is the mean over all rows.

  `numbers` are the indices of the rows to use, None for all.
  """
  numbers = range(len(rows)) if numbers is None else numbers
  starts = range(0, len(numbers), batch_size)
  # The terms of the mean loss: supervised tokens, or pairs.
  total = sum(
    sum(row.loss_mask[1:]) if isinstance(row, chat.Tokens) else 1
    for row in (rows[n] for n in numbers)
  )
  parts = []
  for start in starts:
    members = numbers[start : start + batch_size]
    padded_numbers = np.full(batch_size, -1, np.int32)
    padded_numbers[: len(members)] = members
    sequences: list[chat.Tokens] = []
    for n in members:
      sequences += _sequences(rows[n])
    parts.append(Part(padded_numbers, sequences, total / len(starts)))
  return parts


def bin_pack(lengths: Sequence[int], length: int) -> list[list[int]]:
  """Assigns sequences to rows by best-fit decreasing (Johnson, 1973).

  Each sequence, longest first, goes to the row with the least sufficient room. No
  length exceeds `length`, the room of an empty row. Returns the indices of the
  sequences in each row, in order.
  """
  rows: list[list[int]] = []
  # Room and index of each row that is not full, sorted.
  open_rows: list[tuple[int, int]] = []
  for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
    place = bisect.bisect_left(open_rows, (lengths[n], -1))
    if place == len(open_rows):
      room, row = length, len(rows)
      rows.append([])
    else:
      room, row = open_rows.pop(place)
    rows[row].append(n)
    if room > lengths[n]:
      bisect.insort(open_rows, (room - lengths[n], row))
  return rows


def find_layout(
  batches: Sequence[Sequence[chat.Tokens]], divisor: int = 1
) -> Layout:
  """Returns a shape that every packed batch fits into, so that one is compiled.

  A row is as long as the longest sequence, or a small multiple of it where that
  makes the batch much smaller. `divisor` divides the number of rows.
  """
  lengths = [[len(row.ids) for row in rows] for rows in batches]
  longest = max(map(max, lengths))
  best, smallest = None, float("inf")
  for length in (multiple * longest for multiple in _MULTIPLES):
    packed = [bin_pack(each, length) for each in lengths]
    rows = -(-max(map(len, packed)) // divisor) * divisor
    if rows * length <= (1 - _MIN_SAVING) * smallest:
      predicted = max(
        sum(sum(sequences[n].loss_mask[1:]) for n in row)
        for sequences, members in zip(batches, packed, strict=True)
        for row in members
      )
      best = Layout(rows=rows, length=length, predicted=predicted)
      smallest = rows * length
  assert best is not None
  return best


def make_batch(
  sequences: Sequence[chat.Tokens],
  *,
  layout: Layout,
  pad_id: int,
  denominator: float,
  is_packed: bool = False,
) -> Batch:
  """Pads or packs sequences into arrays; the remaining rows are padding.

  Returns:
    `input_tokens` int32 [R, L]; `input_mask` bool [R, L], True at tokens;
    `places` int32 [R, A], the indices of the tokens to predict in their rows, 0 for
    none; `denominator` float32 [], the divisor of the summed loss. Packed batches
    also have `segment_ids` int32 [R, L]: the number of each token's sequence from 1
    on, 0 at padding.
  """
  shape = layout.rows, layout.length
  tokens = np.full(shape, pad_id, np.int32)
  segment_ids = np.zeros(shape, np.int32)
  places = np.zeros((layout.rows, layout.predicted), np.int32)
  rows = [[n] for n in range(len(sequences))]
  if is_packed:
    rows = bin_pack([len(each.ids) for each in sequences], layout.length)
  for i, members in enumerate(rows):
    start, predicted = 0, []
    for n in members:
      span = slice(start, start + len(sequences[n].ids))
      tokens[i, span] = sequences[n].ids
      segment_ids[i, span] = n + 1
      # Nothing predicts the first token of a sequence.
      after = np.flatnonzero(sequences[n].loss_mask[1:])
      predicted += (start + 1 + after).tolist()
      start = span.stop
    places[i, : len(predicted)] = predicted
  batch = {
    "input_tokens": tokens,
    "input_mask": segment_ids > 0,
    "places": places,
    "denominator": np.asarray(denominator, np.float32),
  }
  return {**batch, "segment_ids": segment_ids} if is_packed else batch


def _sequences(row: Row) -> Sequence[chat.Tokens]:
  return [row] if isinstance(row, chat.Tokens) else row


def _micro_batch_size(config: config_lib.SFTConfig) -> int:
  training = config.training
  return training.batch_size // training.gradient_accumulation_steps


def _train_parts(
  config: config_lib.SFTConfig, dataset: Dataset
) -> Iterator[Part]:
  """Yields all micro-batches of a run."""
  training = config.training
  parts = train_parts(
    dataset,
    batch_size=training.batch_size,
    gradient_accumulation_steps=training.gradient_accumulation_steps,
    seed=config.seed,
  )
  count = training.max_steps * training.gradient_accumulation_steps
  return itertools.islice(parts, count)


def _find_shape(
  config: config_lib.SFTConfig,
  parts: Iterable[Part],
  batch_size: int,
  dataset: Dataset,
) -> Layout:
  batches = [part.sequences for part in parts] if config.data.packing else []
  if batches:
    return find_layout(batches, meshes.sizes(config.mesh)[meshes.FSDP])
  per_row = 2 if isinstance(config, config_lib.DPOConfig) else 1
  predicted = max(
    sum(sequence.loss_mask[1:])
    for row in itertools.chain(dataset.train, dataset.eval)
    for sequence in _sequences(row)
  )
  return Layout(
    rows=per_row * batch_size, length=dataset.length, predicted=predicted
  )


def _fill(
  config: config_lib.SFTConfig,
  parts: Iterable[Part],
  shape: Layout,
  pad_id: int,
) -> Iterator[Batch]:
  for part in parts:
    batch = make_batch(
      part.sequences,
      layout=shape,
      pad_id=pad_id,
      denominator=part.denominator,
      is_packed=config.data.packing,
    )
    if isinstance(config, config_lib.DPOConfig):
      batch["pairs"] = part.numbers
    yield batch
