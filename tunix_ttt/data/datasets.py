"""From a data config to batches of token ids."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
import itertools
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import held_out
from tunix_ttt.data import manifests
from tunix_ttt.data import positions
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat

Batch = dict[str, np.ndarray]
SampleT = TypeVar("SampleT")
RowT = TypeVar("RowT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The source of a run's rows.

  Attributes:
    key: a short name.
    path: the file, directory or hub id; None for generated games.
    digest: SHA-256 of the file's bytes, or of the rows.
    name: Name of a built dataset.
    version: Version of a built dataset.
    skipped: bad rows that were left out.
    samples: the rows, in order.
  """

  key: str
  path: str | None
  digest: str
  samples: Sequence[row_formats.Sample]
  name: str | None = None
  version: str | None = None
  skipped: manifests.Skipped = dataclasses.field(
    default_factory=manifests.Skipped
  )

  def texts(self, limit: int) -> Iterator[str]:
    """Yields the text of the first `limit` rows, to learn a tokenizer from."""
    for sample in self.samples[:limit]:
      yield from sample.texts()

  def record(
    self, *, train_rows: int, eval_rows: int = 0, dropped_too_long: int = 0
  ) -> run_manifest.DatasetRecord:
    """Returns what a run's manifest says of it."""
    return run_manifest.DatasetRecord(
      key=self.key,
      path=self.path,
      digest=self.digest,
      rows=len(self.samples),
      dropped_too_long=dropped_too_long,
      train_rows=train_rows,
      eval_rows=eval_rows,
      name=self.name,
      version=self.version,
      bad_rows=self.skipped.rows,
      first_bad_rows=self.skipped.first,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(Origin):
  """The rows of a run, before they are tokens."""

  samples: Sequence[row_formats.Trained]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Origin):
  """The preference pairs of a run, before they are tokens."""

  samples: Sequence[row_formats.Preference]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(Origin):
  """The positions that a run asks for moves on.

  Attributes:
    shown: the position of each sample.
  """

  shown: Sequence[positions.Shown]


@progress.stage("reading the data")
def load(config: config_lib.DataConfig, seed: int) -> Source:
  """Reads the rows that `data.path` names, or generates the games.

  Raises:
    errors.UserError: naming file and line of what is wrong.
  """
  if config.path is None:
    return _generate(config, seed)
  samples, origin = _read(config, row_formats.parse_trained)
  return Source(samples=samples, **origin)


@progress.stage("reading the data")
def load_pairs(config: config_lib.DataConfig) -> Pairs:
  """Reads the preference pairs that `data.path` names.

  Raises:
    errors.UserError: naming file and line of what is wrong.
  """
  if config.path is None:
    raise errors.UserError(
      "data.path: preference pairs are read from a file, and none is given;"
      " training/generate_data.py --kind dpo makes one"
    )
  samples, origin = _read(config, row_formats.parse_preference)
  return Pairs(samples=samples, **origin)


@progress.stage("reading the data")
def load_prompts(config: config_lib.DataConfig) -> Prompts:
  """Reads the prompts that `data.path` names; see `starts.parse`.

  Raises:
    errors.UserError: naming file and line of what is wrong.
  """
  found, origin = _read(config, positions.parse)
  return Prompts(
    samples=[start.sample for start in found],
    shown=[start.shown for start in found],
    **origin,
  )


def _read(
  config: config_lib.DataConfig,
  parse: Callable[[row_formats.Row, str], list[SampleT]],
) -> tuple[list[SampleT], dict[str, Any]]:
  """Returns the samples, and the fields of their origin."""
  assert config.path is not None
  rows = reading.find(config.path, config.split)
  faults = reading.Faults(rows.path)
  good = reading.read(rows, lambda row: parse(row, config.format), faults)
  each = itertools.chain.from_iterable(samples for _, _, samples in good)
  samples = list(itertools.islice(each, config.max_samples))
  faults.check(len(samples), skip_bad_rows=config.skip_bad_rows)
  return samples, {
    "key": rows.key,
    "path": rows.path,
    "digest": rows.digest(),
    "name": rows.name,
    "version": rows.version,
    "skipped": faults.record(),
  }


def _generate(config: config_lib.DataConfig, seed: int) -> Source:
  # Here, because a data file needs no JAX.
  from tunix_ttt.data import solver_games

  settings = config.games
  played = solver_games.expert_games(
    seed, settings.num_games, settings.random_starts, settings.mistakes
  )
  if settings.keep == "won":
    played = solver_games.keep_won(played)
  if settings.context == "board":
    share = settings.any_move_positions
    played = solver_games.keep_decisions(played, share, seed)
  conversations = solver_games.conversations(
    played,
    context=settings.context,
    thoughts=settings.thoughts == "template",
  )
  rows = list(itertools.islice(conversations, config.max_samples))
  text = "".join(files.to_json(row) + "\n" for row in rows)
  return Source(
    key="expert-games",
    path=None,
    digest=hashlib.sha256(text.encode()).hexdigest(),
    samples=[row_formats.Conversation(row) for row in rows],
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Generic[RowT]):
  """Tokenised rows, ready for training.

  Attributes:
    train: rows to train on.
    eval: rows held out.
    dropped_too_long: rows over the length limit.
    length: tokens of the longest sequence.
  """

  train: list[RowT]
  eval: list[RowT]
  dropped_too_long: int
  length: int


@progress.stage("tokenizing the data")
def tokenize(
  source: Source,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[chat.Tokens]:
  """Encodes every row, drops those that are too long and holds some out.

  Raises:
    errors.UserError: if no row is left.
  """
  rows = [sample.encode(tokenizer) for sample in source.samples]
  return prepare(source, rows, lambda row: len(row.ids), config, seed)


def prepare(
  source: Origin,
  rows: Sequence[RowT],
  length: Callable[[RowT], int],
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[RowT]:
  """Drops rows that are too long and holds some out; see `held_out`.

  Args:
    source: the samples, one for each row.
    rows: the rows, encoded.
    length: returns the tokens of a row's longest sequence.
    config: the length limit, and how many rows are held out by what.
    seed: the seed of the draw.

  Raises:
    errors.UserError: if no row is left, or the positions of rows are asked for
      and not known.
  """
  limit = config.max_seq_length
  kept = [i for i, row in enumerate(rows) if length(row) <= limit]
  if not kept:
    raise errors.UserError(
      f"{source.path or source.key}: every row is longer than"
      f" data.max_seq_length = {limit} tokens (the shortest has"
      f" {min(map(length, rows))}); raise the limit"
    )
  samples = [source.samples[i] for i in kept]
  if config.held_out_by == "position":
    keys = held_out.by_position(samples, source.path or source.key)
  else:
    keys = held_out.by_text(samples)
  drawn = held_out.draw(keys, config.eval_fraction, seed)
  return Dataset(
    train=[rows[i] for n, i in enumerate(kept) if n not in drawn],
    eval=[rows[kept[n]] for n in sorted(drawn)],
    dropped_too_long=len(rows) - len(kept),
    length=max(length(rows[i]) for i in kept),
  )


def endless_order(num_rows: int, seed: int) -> Iterator[int]:
  """Yields numbers of rows, epoch after epoch, each in an order of its own."""
  for epoch in itertools.count():
    yield from epoch_order(num_rows, seed, epoch).tolist()


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of an epoch's rows: int [num_rows]."""
  rng = streams.generator(seed, streams.Stream.ROW_ORDER, epoch)
  return rng.permutation(num_rows)


class Part(NamedTuple):
  """The rows of a micro-batch.

  Attributes:
    rows: what it has.
    denominator: what its summed loss is divided by.
  """

  rows: Sequence[chat.Tokens]
  denominator: float


def train_parts(
  dataset: Dataset[chat.Tokens],
  *,
  batch_size: int,
  gradient_accumulation_steps: int,
  seed: int,
) -> Iterator[Part]:
  """Yields micro-batches without end, in an order that the seed decides.

  Every epoch has its own order and batches run across epochs, so that each has
  the full size. The micro-batches of one optimizer step share a denominator,
  with which the mean of their losses is the mean over the step's supervised
  tokens, however unevenly these are spread.
  """
  order = endless_order(len(dataset.train), seed)
  micro = batch_size // gradient_accumulation_steps
  while True:
    rows = [dataset.train[i] for i in itertools.islice(order, batch_size)]
    tokens = sum(sum(row.loss_mask[1:]) for row in rows)
    for start in range(0, batch_size, micro):
      yield Part(
        rows[start : start + micro], tokens / gradient_accumulation_steps
      )


def eval_parts(dataset: Dataset[chat.Tokens], batch_size: int) -> list[Part]:
  """Returns the held-out rows; the mean of the losses is that over all tokens."""
  starts = range(0, len(dataset.eval), batch_size)
  tokens = sum(sum(row.loss_mask[1:]) for row in dataset.eval)
  return [
    Part(dataset.eval[start : start + batch_size], tokens / len(starts))
    for start in starts
  ]


def batches(
  parts: Iterable[Part], *, batch_size: int, length: int, pad_id: int
) -> Iterator[Batch]:
  """Yields micro-batches as `make_batch` returns them."""
  for part in parts:
    yield make_batch(
      part.rows,
      batch_size=batch_size,
      length=length,
      pad_id=pad_id,
      denominator=part.denominator,
    )


def make_batch(
  rows: Sequence[chat.Tokens],
  *,
  batch_size: int,
  length: int,
  pad_id: int,
  denominator: float,
) -> Batch:
  """Pads rows into arrays; missing rows are padding.

  Returns:
    `input_tokens` int32 [B, L]; `input_mask` bool [B, L], True at tokens;
    `loss_mask` bool [B, L], True at tokens to be predicted; `denominator`
    float32 [], what the summed loss is divided by.
  """
  tokens = np.full((batch_size, length), pad_id, np.int32)
  input_mask = np.zeros((batch_size, length), bool)
  loss_mask = np.zeros((batch_size, length), bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row.ids)] = row.ids
    input_mask[i, : len(row.ids)] = True
    loss_mask[i, : len(row.ids)] = row.loss_mask
  return {
    "input_tokens": tokens,
    "input_mask": input_mask,
    "loss_mask": loss_mask,
    "denominator": np.asarray(denominator, np.float32),
  }
