"""Supervised fine-tuning runs."""

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib
from typing import Any, Generic, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers
from tunix_ttt.train import recorder
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import resume_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import trainer as trainer_lib

ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
SourceT = TypeVar("SourceT", bound=datasets.Origin)
DatasetT = TypeVar("DatasetT", bound=datasets.Dataset[Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Generic[ConfigT, SourceT, DatasetT]):
  """The checked parts of a run, in memory.

  Attributes:
    config: Settings of the run.
    source: Rows of the data.
    dataset: Tokenized rows.
    model: Model to train.
    record: Record of the model for the manifest.
  """

  config: ConfigT
  source: SourceT
  dataset: DatasetT
  model: checkpoints.Model
  record: run_manifest.ModelRecord

  def dataset_record(self) -> run_manifest.DatasetRecord:
    """Returns the manifest's record of the data."""
    dataset = self.dataset
    return self.source.record(
      train_rows=len(dataset.train),
      eval_rows=len(dataset.eval),
      dropped_too_long=dataset.dropped_too_long,
    )


def check_memory(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  dataset: datasets.Dataset[Any],
  sequences: Sequence[chat.Tokens],
) -> None:
  """Raises a UserError if a step needs far more memory than devices have.

  Args:
    model: Model with its adapters.
    config: Settings of the run.
    dataset: Tokenized rows.
    sequences: Token sequences of the train rows.
  """
  length = dataset.length
  if config.data.packing:
    # Packed batches have little padding.
    total = sum(len(sequence.ids) for sequence in sequences)
    length = -(-total // len(sequences))
  rows = config.training.batch_size * len(sequences) // len(dataset.train)
  memory.check(model, config, rows, length)


def fit(
  prepared: Plan[Any, Any, Any],
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
  trainer: trainer_lib.RecordedTrainer,
  train_batches: Iterable[Any],
  eval_batches: list[Any],
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model.

  Args:
    prepared: Parts of the run.
    manifest: Manifest of the run.
    run: Run directory.
    trainer: Trainer, restored from the latest checkpoint.
    train_batches: Micro-batches of the whole run; restored steps are skipped.
    eval_batches: Batches of held-out rows, possibly none.

  Returns:
    The run directory.
  """
  config = prepared.config
  manifest = run_loop.begin_session(manifest, run, trainer.train_steps)
  recorder = recorder_lib.Recorder(
    run,
    manifest.recipe,
    config,
    previous_rows=resume_checks.rewind(run, trainer.train_steps),
    steps_per_epoch=len(prepared.dataset.train) / config.training.batch_size,
    names=trainer.names,
  )
  try:
    with (
      meshes.use(meshes.make(config.mesh)),
      interrupts.between_steps() as stop,
    ):
      trainer.fit(train_batches, eval_batches, recorder, stop)
  finally:
    recorder.close()
  trained = dataclasses.replace(prepared.model, module=trainer.model)
  run_loop.finish(manifest, run, trained, recorder.summary())
  return run


Dataset = datasets.Dataset[chat.Tokens]
SFTPlan = Plan[config_lib.SFTConfig, datasets.Source, Dataset]

# Number of token sequences in a row of the data.
SEQUENCES_PER_ROW = 1


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
  return datasets.load(config.data, config.seed)


def tokenize(
  source: datasets.Source,
  tokenizer: tokenizers.Tokenizer,
  config: config_lib.SFTConfig,
) -> Dataset:
  """Tokenizes the rows and splits them into train and held-out rows."""
  return datasets.tokenize(source, tokenizer, config.data, config.seed)


def plan(
  config: config_lib.SFTConfig, tokenizer: pathlib.Path | None = None
) -> SFTPlan:
  """Reads the data and makes the model; writes nothing.

  Args:
    config: Settings of the run.
    tokenizer: File of a tiny model's trained tokenizer.

  Raises:
    errors.UserError: if the config or one of its files is invalid.
  """
  recorder.check(config.logging)
  source = load(config)
  base = reference_log_probs.base_model(config, source, tokenizer)
  dataset = tokenize(source, base.tokenizer, config)
  model, record = run_loop.adapt(base, config)
  check_memory(model, config, dataset, dataset.train)
  return SFTPlan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def run(
  prepared: SFTPlan, manifest: run_manifest.RunManifest, path: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, model = prepared.config, prepared.model
  trainer = trainer_lib.SFTTrainer(model.module, config, path)
  train_batches, eval_batches = batches.make(
    config, prepared.dataset, model.tokenizer.pad_id()
  )
  return fit(prepared, manifest, path, trainer, train_batches, eval_batches)
