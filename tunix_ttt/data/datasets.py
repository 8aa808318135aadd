"""Loads the rows of a run, tokenizes them and splits off held-out rows."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
import itertools
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import checks
from tunix_ttt.data import positions as positions_lib
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat

Batch = dict[str, np.ndarray]
SampleT = TypeVar("SampleT")
RowT = TypeVar("RowT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The rows of a run and their source.

  Attributes:
    key: Short name of the source.
    path: File, directory or hub id; None for generated games.
    digest: SHA-256 of the file's bytes, or of the rows.
    samples: Parsed rows, in order.
    name: Name of a built dataset.
    version: Version of a built dataset.
    skipped: Bad rows that were skipped.
  """

  key: str
  path: str | None
  digest: str
  samples: Sequence[row_formats.Sample]
  name: str | None = None
  version: str | None = None
  skipped: reading.Skipped = dataclasses.field(default_factory=reading.Skipped)

  def texts(self, limit: int) -> Iterator[str]:
    """Yields the texts of the first `limit` rows, to train a tokenizer on."""
    for sample in self.samples[:limit]:
      yield from sample.texts()

  def record(
    self, *, train_rows: int, eval_rows: int = 0, dropped_too_long: int = 0
  ) -> run_manifest.DatasetRecord:
    """Returns the record for a run's manifest."""
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
  """The rows of an SFT run before tokenization."""

  samples: Sequence[row_formats.Trained]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Origin):
  """The preference pairs of a DPO run before tokenization."""

  samples: Sequence[row_formats.Preference]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(Origin):
  """The prompts of a GRPO run.

  Attributes:
    positions: Position of each sample.
  """

  positions: Sequence[positions_lib.Position]


class TokenPair(NamedTuple):
  """A tokenized preference pair; each sequence is the prompt and an answer."""

  chosen: chat.Tokens
  rejected: chat.Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Generic[RowT]):
  """Tokenized rows, ready for training.

  Attributes:
    train: Rows to train on.
    eval: Held-out rows.
    dropped_too_long: Number of rows over the length limit.
    length: Number of tokens in the longest sequence.
  """

  train: list[RowT]
  eval: list[RowT]
  dropped_too_long: int
  length: int


@progress.stage("reading the data")
def load(config: config_lib.DataConfig, seed: int) -> Source:
  """Reads the rows of `data.path`, or generates games.

  Raises:
    errors.UserError: If the data cannot be read.
  """
  if config.path is None:
    return _generate(config, seed)
  samples, origin = _read(config, row_formats.parse_trained)
  return Source(samples=samples, **origin)


@progress.stage("reading the data")
def load_pairs(config: config_lib.DataConfig) -> Pairs:
  """Reads the preference pairs of `data.path`.

  Raises:
    errors.UserError: If there is no path or the data cannot be read.
  """
  if config.path is None:
    raise errors.UserError(
      "data.path: DPO needs a file of preference pairs; make one with"
      " training/generate_data.py --kind dpo"
    )
  samples, origin = _read(config, row_formats.parse_preference)
  return Pairs(samples=samples, **origin)


@progress.stage("reading the data")
def load_prompts(config: config_lib.DataConfig) -> Prompts:
  """Reads the prompts of `data.path` and finds their positions.

  Raises:
    errors.UserError: If the data cannot be read.
  """
  starts, origin = _read(config, positions_lib.parse)
  return Prompts(
    samples=[start.sample for start in starts],
    positions=[start.position for start in starts],
    **origin,
  )


@progress.stage("tokenizing the data")
def tokenize(
  source: Source,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[chat.Tokens]:
  """Tokenizes rows, drops those over the length limit and splits the rest.

  Raises:
    errors.UserError: If no row is left.
  """
  rows = [sample.encode(tokenizer) for sample in source.samples]
  return _split(source, rows, lambda row: len(row.ids), config, seed)


@progress.stage("tokenizing the data")
def tokenize_pairs(
  source: Pairs,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[TokenPair]:
  """Tokenizes pairs, drops those over the length limit and splits the rest.

  Raises:
    errors.UserError: If no pair is left.
  """
  pairs = [
    TokenPair(*(answer.encode(tokenizer) for answer in sample.answers()))
    for sample in source.samples
  ]
  return _split(
    source, pairs, lambda pair: max(len(row.ids) for row in pair), config, seed
  )


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of the rows in an epoch: int [num_rows]."""
  rng = streams.generator(seed, streams.Stream.ROW_ORDER, epoch)
  return rng.permutation(num_rows)


def keys_by_text(samples: Iterable[row_formats.Sample]) -> list[Hashable]:
  """Returns a key per sample: its text, or the prompt of a preference pair."""

  def key(sample: row_formats.Sample) -> bytes:
    is_pair = isinstance(sample, row_formats.Preference)
    text = repr(sample.prompt if is_pair else sample)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

  return list(map(key, samples))


def keys_by_position(
  samples: Iterable[row_formats.Sample], source: str
) -> list[Hashable]:
  """Returns a key per sample: its supervised board up to symmetry.

  Args:
    samples: Rows with one supervised answer each.
    source: Name of the data, for error messages.

  Raises:
    errors.UserError: If a row answers no board, or several.
  """
  forms, keys = rules.canonical(), []
  for number, sample in enumerate(samples, start=1):
    if isinstance(sample, row_formats.Preference):
      answer, _ = sample.answers()
    else:
      assert not isinstance(sample, row_formats.Prompt)
      answer = sample
    boards = [each.board for each in checks.decisions(answer)]
    if len(boards) != 1:
      raise errors.UserError(
        f"data.held_out_by: position needs one answered board per row, but row"
        f" {number:,} of {source} answers {len(boards) or 'none'}; use the"
        " context board, or held_out_by: text"
      )
    keys.append(int(forms[boards[0]]))
  return keys


def draw_held_out(
  keys: Sequence[Hashable], share: float, seed: int
) -> set[int]:
  """Draws rows to hold out; rows with equal keys stay together.

  Groups are drawn in random order, skipping each that would exceed the share.
  At least one row is left to train on.

  Args:
    keys: Key of each row.
    share: Maximum share of all rows to hold out.
    seed: Random seed for the order of the groups.

  Returns:
    The indices of the held-out rows.
  """
  room = min(int(np.ceil(len(keys) * share)), len(keys) - 1)
  groups: dict[Hashable, list[int]] = {}
  for row, key in enumerate(keys):
    groups.setdefault(key, []).append(row)
  members, held_out = [*groups.values()], set[int]()
  rng = streams.generator(seed, streams.Stream.HELD_OUT_ROWS)
  for number in rng.permutation(len(members)):
    if len(held_out) + len(members[number]) <= room:
      held_out.update(members[number])
  return held_out


def _read(
  config: config_lib.DataConfig,
  parse: Callable[[row_formats.Row, str], list[SampleT]],
) -> tuple[list[SampleT], dict[str, Any]]:
  """Returns the samples and the other fields of their `Origin`."""
  assert config.path is not None
  rows = reading.find(config.path, config.split)
  faults = reading.Faults(rows.path)
  good = reading.read(rows, lambda row: parse(row, config.format), faults)
  parsed = itertools.chain.from_iterable(samples for _, _, samples in good)
  samples = list(itertools.islice(parsed, config.max_samples))
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
  # Imported lazily: reading a data file needs no JAX.
  from tunix_ttt.data import solver_games

  settings = config.games
  games = solver_games.expert_games(
    seed, settings.num_games, settings.random_starts, settings.mistakes
  )
  if settings.keep == "won":
    games = solver_games.keep_won(games)
  if settings.context == "board":
    games = solver_games.keep_decisions(
      games, settings.any_move_positions, seed
    )
  conversations = solver_games.conversations(
    games,
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


def _split(
  source: Origin,
  rows: Sequence[RowT],
  length: Callable[[RowT], int],
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[RowT]:
  """Drops rows over the length limit and holds some of the others out."""
  limit, name = config.max_seq_length, source.path or source.key
  kept = [i for i, row in enumerate(rows) if length(row) <= limit]
  if not kept:
    raise errors.UserError(
      f"{name}: every row is longer than data.max_seq_length = {limit} tokens"
      f" (the shortest has {min(map(length, rows))}); raise the limit"
    )
  samples = [source.samples[i] for i in kept]
  if config.held_out_by == "position":
    keys = keys_by_position(samples, name)
  else:
    keys = keys_by_text(samples)
  held_out = draw_held_out(keys, config.eval_fraction, seed)
  return Dataset(
    train=[rows[i] for n, i in enumerate(kept) if n not in held_out],
    eval=[rows[kept[n]] for n in sorted(held_out)],
    dropped_too_long=len(rows) - len(kept),
    length=max(length(rows[i]) for i in kept),
  )
