"""From preference pairs to batches of token ids."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import datasets
from tunix_ttt.language import chat


@dataclasses.dataclass(frozen=True)
class Pair:
  """A tokenised pair.

  Attributes:
    prompt: what both answers follow.
    chosen: the better answer, with its end.
    rejected: the worse one.
  """

  prompt: list[int]
  chosen: list[int]
  rejected: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairDataset:
  """Tokenised pairs, ready for training.

  Attributes:
    train: pairs to train on.
    eval: pairs held out.
    dropped_too_long: pairs over the length limit.
    prompt_length: what prompts are padded to.
    answer_length: what answers are padded to.
  """

  train: list[Pair]
  eval: list[Pair]
  dropped_too_long: int
  prompt_length: int
  answer_length: int

  @property
  def length(self) -> int:
    """What a prompt with an answer is padded to."""
    return self.prompt_length + self.answer_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairBatch:
  """B pairs, prompts padded on the left and answers on the right.

  Attributes:
    rows: int [B], which of the dataset's pairs they are.
    prompt_ids: int32 [B, P].
    prompt_mask: bool [B, P], True at tokens.
    chosen_ids: int32 [B, A].
    chosen_mask: bool [B, A].
    rejected_ids: int32 [B, A].
    rejected_mask: bool [B, A].
  """

  rows: np.ndarray
  prompt_ids: np.ndarray
  prompt_mask: np.ndarray
  chosen_ids: np.ndarray
  chosen_mask: np.ndarray
  rejected_ids: np.ndarray
  rejected_mask: np.ndarray


def tokenize(
  source: datasets.Pairs,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> PairDataset:
  """Encodes every pair, drops those that are too long and holds some out.

  Raises:
    errors.UserError: if no pair is left.
  """
  pairs = [
    _pair(sample.encode_chosen(tokenizer), sample.encode_rejected(tokenizer))
    for sample in source.samples
  ]
  limit = config.max_seq_length
  kept = [pair for pair in pairs if _length(pair) <= limit]
  if not kept:
    shortest = min(map(_length, pairs))
    raise errors.UserError(
      f"{source.path}: every pair is longer than data.max_seq_length = {limit}"
      f" tokens (the shortest has {shortest}); raise the limit"
    )
  train, held_out = datasets.hold_out(kept, config.eval_fraction, seed)
  return PairDataset(
    train=train,
    eval=held_out,
    dropped_too_long=len(pairs) - len(kept),
    prompt_length=max(len(pair.prompt) for pair in kept),
    answer_length=max(
      max(len(pair.chosen), len(pair.rejected)) for pair in kept
    ),
  )


def _pair(chosen: chat.Tokens, rejected: chat.Tokens) -> Pair:
  start = chosen.loss_mask.index(True)
  return Pair(
    prompt=chosen.ids[:start],
    chosen=chosen.ids[start:],
    rejected=rejected.ids[rejected.loss_mask.index(True) :],
  )


def _length(pair: Pair) -> int:
  return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def train_batches(
  dataset: PairDataset,
  *,
  batch_size: int,
  pad_id: int,
  seed: int,
) -> Iterator[PairBatch]:
  """Yields batches without end, in an order that the seed decides."""
  order = datasets.endless_order(len(dataset.train), seed)
  while True:
    rows = list(itertools.islice(order, batch_size))
    yield make_batch(dataset, dataset.train, rows, pad_id)


def batches(
  dataset: PairDataset,
  pairs: Sequence[Pair],
  batch_size: int,
  pad_id: int,
) -> Iterator[PairBatch]:
  """Yields all of some pairs in order; the last batch may be smaller."""
  for start in range(0, len(pairs), batch_size):
    rows = range(start, min(start + batch_size, len(pairs)))
    yield make_batch(dataset, pairs, rows, pad_id)


def make_batch(
  dataset: PairDataset,
  pairs: Sequence[Pair],
  rows: Sequence[int],
  pad_id: int,
) -> PairBatch:
  """Pads pairs into arrays.

  Args:
    dataset: says how long they are.
    pairs: of which some are taken.
    rows: which ones.
    pad_id: fills up.
  """
  taken = [pairs[row] for row in rows]

  def pad(
    sequences: list[list[int]], length: int, *, left: bool
  ) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((len(sequences), length), pad_id, np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, sequence in enumerate(sequences):
      start = length - len(sequence) if left else 0
      part = slice(start, start + len(sequence))
      ids[i, part], mask[i, part] = sequence, True
    return ids, mask

  prompts = pad([p.prompt for p in taken], dataset.prompt_length, left=True)
  answers = [
    pad([getattr(p, name) for p in taken], dataset.answer_length, left=False)
    for name in ("chosen", "rejected")
  ]
  return PairBatch(
    rows=np.asarray(rows),
    prompt_ids=prompts[0],
    prompt_mask=prompts[1],
    chosen_ids=answers[0][0],
    chosen_mask=answers[0][1],
    rejected_ids=answers[1][0],
    rejected_mask=answers[1][1],
  )
