"""Loads the rows of a run, tokenizes them and splits off held-out rows."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
import itertools
import operator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import checks
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games import position_reader
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat

Batch = dict[str, np.ndarray]
SampleT = TypeVar("SampleT", covariant=True)
RowT = TypeVar("RowT", bound=chat.Tokens | row_formats.TokenPair)


class Start(NamedTuple):
  """A sample and the position on which its prompt asks for a move."""

  sample: row_formats.Sample
  position: Any

  def texts(self) -> Iterator[str]:
    """Yields the text of the sample, to train a tokenizer on."""
    return self.sample.texts()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin(Generic[SampleT]):
  """The rows of a run before tokenization, and their source.

  Attributes:
    key: Short name of the source.
    path: File, directory or hub id; None for generated games.
    digest: SHA-256 of the file's bytes, or of the rows.
    samples: Parsed rows, in order.
    name: Name of a built dataset.
    version: Version of a built dataset.
    skipped: Bad rows that were skipped.
    game: Game of the rows; None for the default game.
  """

  key: str
  path: str | None
  digest: str
  samples: Sequence[SampleT]
  name: str | None = None
  version: str | None = None
  skipped: reading.Skipped = dataclasses.field(default_factory=reading.Skipped)
  game: config_lib.GameConfig | None = None

  def texts(
    self: "Origin[row_formats.Sample | Start]", limit: int
  ) -> Iterator[str]:
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


# The rows of SFT, DPO and GRPO.
Source = Origin[row_formats.Trained]
Pairs = Origin[row_formats.Preference]
Prompts = Origin[Start]


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
def load(
  config: config_lib.DataConfig,
  seed: int,
  game: config_lib.GameConfig | None = None,
) -> Source:
  """Reads the rows of `data.path`, or generates games; None is the default game."""
  if config.path is None:
    return _generate(config, seed, game)
  return _read(config, row_formats.parse_trained, game)


@progress.stage("reading the data")
def load_pairs(
  config: config_lib.DataConfig, game: config_lib.GameConfig | None = None
) -> Pairs:
  """Reads the preference pairs of `data.path`."""
  if config.path is None:
    raise errors.UserError(
      "data.path: DPO needs a file of preference pairs; make one with"
      " training/generate_data.py --kind dpo"
    )
  return _read(config, row_formats.parse_preference, game)


@progress.stage("reading the data")
def load_prompts(
  config: config_lib.DataConfig, game: config_lib.GameConfig | None = None
) -> Prompts:
  """Reads the prompts of `data.path` and finds their positions.

  Raises:
    errors.UserError: If the game cannot read positions, or a row has none.
  """
  reader = position_reader.of(game, "episodes.source: prompts")

  def parse(row: row_formats.Row, data_format: str) -> list[Start]:
    samples = row_formats.parse_row(row, data_format)
    return [
      Start(each, reader.start((row_formats.questions(each) or [""])[-1]))
      for each in samples
    ]

  return _read(config, parse, game)


@progress.stage("tokenizing the data")
def tokenize(
  source: Origin[row_formats.Encodable[RowT]],
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset[RowT]:
  """Tokenizes rows, drops those over the length limit and splits the rest.

  Raises:
    errors.UserError: If no row is left.
  """
  rows = [sample.encode(tokenizer) for sample in source.samples]
  limit, name = config.max_seq_length, source.path or source.key
  lengths = list(map(row_formats.num_tokens, rows))
  kept = [i for i, length in enumerate(lengths) if length <= limit]
  if not kept:
    raise errors.UserError(
      f"{name}: every row is longer than data.max_seq_length = {limit} tokens"
      f" (the shortest has {min(lengths)}); raise the limit"
    )
  samples: list[Any] = [source.samples[i] for i in kept]
  if config.held_out_by == "position":
    reader = position_reader.of(source.game, "data.held_out_by: position")
    keys = keys_by_position(samples, name, reader)
  else:
    keys = list(map(_key_by_text, samples))
  held_out = draw_held_out(keys, config.eval_fraction, seed)
  return Dataset(
    train=[rows[i] for n, i in enumerate(kept) if n not in held_out],
    eval=[rows[kept[n]] for n in sorted(held_out)],
    dropped_too_long=len(rows) - len(kept),
    length=max(lengths[i] for i in kept),
  )


def prefix(dataset: Dataset[chat.Tokens]) -> tuple[int, ...]:
  """Returns the tokens with which all rows begin, before any supervised one."""
  rows = [*dataset.train, *dataset.eval]
  first = min([*row.loss_mask[:-1], True].index(True) for row in rows)
  # All agree as far as the first and the last in order do.
  low, high = (end(row.ids for row in rows) for end in (min, max))
  is_same = itertools.starmap(operator.eq, zip(low, high, strict=False))
  length = sum(1 for _ in itertools.takewhile(bool, is_same))
  return tuple(low[: min(first, length)])


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of the rows in an epoch: int [num_rows]."""
  rng = streams.generator(seed, streams.Stream.ROW_ORDER, epoch)
  return rng.permutation(num_rows)


def _key_by_text(sample: row_formats.Trained | row_formats.Preference) -> bytes:
  """Returns a key of the sample's text, or of the prompt of a pair."""
  is_pair = isinstance(sample, row_formats.Preference)
  text = repr(sample.prompt if is_pair else sample)
  return hashlib.blake2b(text.encode(), digest_size=16).digest()


def keys_by_position(
  samples: Iterable[row_formats.Trained | row_formats.Preference],
  source: str,
  reader: position_reader.Reader,
) -> list[int]:
  """Returns a key per sample: its supervised position up to symmetry.

  Raises:
    errors.UserError: If a row of `source` answers no position, or several.
  """
  keys = []
  for number, sample in enumerate(samples, start=1):
    is_pair = isinstance(sample, row_formats.Preference)
    answer = sample.answers()[0] if is_pair else sample
    matches = [each.match for each in checks.decisions(answer, reader)]
    if len(matches) != 1:
      raise errors.UserError(
        f"data.held_out_by: position needs one answered board per row, but row"
        f" {number:,} of {source} answers {len(matches) or 'none'}; use the"
        " context board, or held_out_by: text"
      )
    keys.append(reader.form(matches[0].position))
  return keys


def draw_held_out(
  keys: Sequence[Hashable], share: float, seed: int
) -> set[int]:
  """Draws the indices of rows to hold out; equal keys stay together.

  Groups of rows with equal keys are drawn in random order, skipping each that
  would exceed the share. At least one row is left to train on.
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
  game: config_lib.GameConfig | None,
) -> Origin[SampleT]:
  assert config.path is not None
  rows = reading.find(config.path, config.split)
  faults = reading.Faults(rows.path)
  good = reading.read(rows, lambda row: parse(row, config.format), faults)
  parsed = itertools.chain.from_iterable(samples for _, _, samples in good)
  samples = list(itertools.islice(parsed, config.max_samples))
  faults.check(len(samples), skip_bad_rows=config.skip_bad_rows)
  return Origin(
    key=rows.key,
    path=rows.path,
    digest=rows.digest(),
    samples=samples,
    name=rows.name,
    version=rows.version,
    skipped=faults.record(),
    game=game,
  )


def _generate(
  config: config_lib.DataConfig,
  seed: int,
  game_config: config_lib.GameConfig | None,
) -> Source:
  # Imported lazily: reading a data file needs no JAX.
  from tunix_ttt.games import catalog

  thoughts = config.games.thoughts != "none"
  game = catalog.load_config(game_config, thoughts=thoughts)
  made = game.rows.for_sft(config.games, seed)
  rows = list(itertools.islice(made, config.max_samples))
  samples = [row_formats.parse_trained(row, "auto") for row in rows]
  texts = (files.to_json(row.get("messages", row)) + "\n" for row in rows)
  return Source(
    key="expert-games",
    path=None,
    digest=hashlib.sha256("".join(texts).encode()).hexdigest(),
    samples=[*itertools.chain.from_iterable(samples)],
    game=game_config,
  )
