"""Supervised fine-tuning runs, and the parts shared by all runs on rows."""

from collections.abc import Callable, Iterable
import contextlib
import dataclasses
import itertools
import pathlib
from typing import Any, Generic, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import resume_checks
from tunix_ttt.train import row_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import trainer as trainer_lib

ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
SourceT = TypeVar("SourceT", bound=datasets.Origin)
DatasetT = TypeVar("DatasetT", bound=datasets.Dataset[Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(run_loop.Plan, Generic[ConfigT, SourceT, DatasetT]):
  """The checked parts of a run, with its rows before and after tokenization."""

  config: ConfigT
  source: SourceT
  dataset: DatasetT

  def dataset_record(self) -> run_manifest.DatasetRecord:
    """Returns the manifest's record of the data."""
    dataset = self.dataset
    return self.source.record(
      train_rows=len(dataset.train),
      eval_rows=len(dataset.eval),
      dropped_too_long=dataset.dropped_too_long,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader(Generic[ConfigT, SourceT, DatasetT]):
  """Prepares the data of runs that train on rows.

  Attributes:
    load: Reads or generates the rows.
    tokenize: Tokenizes the rows and splits off held-out rows.
    per_row: Number of token sequences in a row.
  """

  load: Callable[[ConfigT], SourceT]
  tokenize: Callable[
    [SourceT, chat.ChatTokenizer, config_lib.DataConfig, int], DatasetT
  ]
  per_row: int

  def plan(
    self, config: ConfigT, tokenizer: pathlib.Path | None = None
  ) -> Plan[ConfigT, SourceT, DatasetT]:
    """Reads the data and makes the model; writes nothing.

    `tokenizer` is the file of a tiny model's trained tokenizer.

    Raises:
      errors.UserError: if the config or one of its files is invalid, or a step
        needs far more memory than devices have.
    """
    recorder_lib.check(config.logging)
    source = self.load(config)
    base = reference_log_probs.base_model(config, source, tokenizer)
    dataset = self.tokenize(source, base.tokenizer, config.data, config.seed)
    model, record = run_loop.adapt(base, config)
    length = dataset.length
    if config.data.packing:
      # Packed batches have little padding.
      sequences: Any = dataset.train
      if self.per_row > 1:
        sequences = [*itertools.chain.from_iterable(sequences)]
      length = -(-sum(len(each.ids) for each in sequences) // len(sequences))
    rows = config.training.batch_size * self.per_row
    memory.check(model, config, rows, length)
    return Plan(
      config=config, source=source, dataset=dataset, model=model, record=record
    )

  def describe(
    self, model: sources.Outline, config: ConfigT, source: SourceT
  ) -> tuple[list[str], int, int]:
    """Returns lines about the data, the rows of a step and their length."""
    training, limit = config.training, config.data.max_seq_length
    if model.tokenizer is None:
      line = f"data     {source.key}: {len(source.samples):,} rows, of {limit} tokens at the most"
      return [line], self.per_row * training.batch_size, limit
    dataset = self.tokenize(source, model.tokenizer, config.data, config.seed)
    layout = batches.layout(config, dataset)
    rows = layout.rows * training.gradient_accumulation_steps
    form = f"padded to {layout.length}"
    if config.data.packing:
      form = f"packed into {rows} of {layout.length}"
    num_rows = len(dataset.train)
    epochs = training.max_steps * training.batch_size / num_rows
    lines = [
      f"data     {source.key}: {num_rows:,} row{'s' if num_rows > 1 else ''} to"
      f" train on, {len(dataset.eval):,} held out,"
      f" {dataset.dropped_too_long:,} dropped as longer than {limit} tokens,"
      f" {source.skipped.rows:,} bad and skipped",
      f"steps    {training.max_steps:,} of {training.batch_size} rows, {form}"
      f" tokens: {epochs:.1f} epochs",
    ]
    return lines, rows, layout.length


class RowRun:
  """A run in progress that trains on rows."""

  def __init__(
    self,
    prepared: Plan[Any, Any, Any],
    path: pathlib.Path,
    trainer: trainer_lib.RecordedTrainer,
    train_batches: Iterable[Any],
    eval_batches: list[Any],
  ):
    """Opens the run's files; `train_batches` are of the whole run."""
    config, self._model = prepared.config, prepared.model
    self.trainer, self.first_step = trainer, trainer.train_steps
    self._batches, self._mesh = (train_batches, eval_batches), config.mesh
    self.recorder = recorder_lib.Recorder(
      path,
      trainer.metrics_prefix,
      config,
      previous_rows=resume_checks.rewind(path, self.first_step),
      steps_per_epoch=len(prepared.dataset.train) / config.training.batch_size,
      names=trainer.names,
    )
    self._checks = None
    if config.checks:
      self._checks = row_checks.RowChecks(
        config,
        self._model.tokenizer,
        self._model.spec.dtype,
        self.recorder.warn,
      )

  def fit(self) -> None:
    """Trains from the latest checkpoint to the end."""
    with (
      contextlib.closing(self.recorder),
      meshes.use(meshes.make(self._mesh)),
      interrupts.between_steps() as stop,
    ):
      self.trainer.fit(*self._batches, self.recorder, stop, self._checks)

  def save_model(self, directory: pathlib.Path) -> None:
    """Writes the trained model into a new directory."""
    model = dataclasses.replace(self._model, module=self.trainer.model)
    checkpoints.save(model, directory)


def load(config: config_lib.SFTConfig) -> datasets.Source:
  """Reads or generates the rows.

  Raises:
    errors.UserError: if generated games and `play` have different contexts, or
      a file is invalid.
  """
  games, play = config.data.games.context, config.play.context
  if config.data.path is None and games == "board" and play != "board":
    raise errors.UserError(
      f"play.context: {play} shows a conversation, but generated games show"
      " single boards (data.games.context: board); set data.games.context=full"
      " or play.context=board"
    )
  return datasets.load(config.data, config.seed, config.game)


LOADER = Loader[
  config_lib.SFTConfig, datasets.Source, datasets.Dataset[chat.Tokens]
](
  load=load,
  tokenize=datasets.tokenize,
  per_row=1,
)
plan = LOADER.plan


def run(prepared: Plan[Any, Any, Any], path: pathlib.Path) -> RowRun:
  """Restores the latest checkpoint and makes the batches of a run."""
  config, model = prepared.config, prepared.model
  # A packed row has several sequences.
  prefix = () if config.data.packing else datasets.prefix(prepared.dataset)
  trainer = trainer_lib.SFTTrainer(model.module, config, path, prefix)
  pad_id = model.tokenizer.pad_id()
  made = batches.make(config, prepared.dataset, pad_id)
  return RowRun(prepared, path, trainer, *made)


RECIPE = run_loop.Recipe(LOADER.load, LOADER.describe, plan, run)
