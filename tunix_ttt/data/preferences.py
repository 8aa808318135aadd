"""From preference pairs to batches of token ids.

A batch of pairs is one of sequences: each pair's chosen one, then its rejected.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import datasets
from tunix_ttt.runs import progress
from tunix_ttt.text import chat


class Pair(NamedTuple):
  """A tokenised pair; both have the prompt, and are supervised after it.

  Attributes:
    chosen: the better sequence.
    rejected: the worse one.
  """

  chosen: chat.Tokens
  rejected: chat.Tokens


Dataset = datasets.Dataset[Pair]


@progress.stage("tokenizing the data")
def tokenize(
  source: datasets.Pairs,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset:
  """Encodes every pair, drops those that are too long and holds some out.

  Raises:
    errors.UserError: if no pair is left.
  """
  pairs = [
    Pair(sample.encode_chosen(tokenizer), sample.encode_rejected(tokenizer))
    for sample in source.samples
  ]
  return datasets.prepare(source, pairs, _length, config, seed)


def _length(pair: Pair) -> int:
  return max(len(row.ids) for row in pair)


class Part(NamedTuple):
  """The pairs of a micro-batch.

  Attributes:
    numbers: int32 [B], which of the dataset's pairs they are; -1 where there is
      none.
    sequences: theirs, and how many pairs a mean of losses is over.
  """

  numbers: np.ndarray
  sequences: datasets.Part


def train_parts(
  dataset: Dataset, *, batch_size: int, seed: int
) -> Iterator[Part]:
  """Yields micro-batches without end, in an order that the seed decides."""
  order = datasets.endless_order(len(dataset.train), seed)
  while True:
    numbers = list(itertools.islice(order, batch_size))
    yield _part(dataset.train, numbers, batch_size, batch_size)


def parts(pairs: Sequence[Pair], batch_size: int) -> list[Part]:
  """Returns all of some pairs in order; the mean of the losses is that of all."""
  starts = range(0, len(pairs), batch_size)
  numbers = range(len(pairs))
  return [
    _part(
      pairs,
      numbers[start : start + batch_size],
      batch_size,
      len(pairs) / len(starts),
    )
    for start in starts
  ]


def _part(
  pairs: Sequence[Pair],
  numbers: Sequence[int],
  batch_size: int,
  denominator: float,
) -> Part:
  there = np.full(batch_size, -1, np.int32)
  there[: len(numbers)] = numbers
  rows = list(itertools.chain.from_iterable(pairs[n] for n in numbers))
  return Part(there, datasets.Part(rows, denominator))
