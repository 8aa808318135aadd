"""A supervised fine-tuning run, from a config to a trained model on disk."""

from collections.abc import Callable
import dataclasses
import itertools
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import runs
from tunix_ttt.data import datasets
from tunix_ttt.language import tokenizers
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import setup
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

# Rows of the data that a tiny model's tokenizer is trained on.
_TOKENIZER_ROWS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that a run needs, checked and in memory; nothing is written yet.

  Attributes:
    config: the settings.
    source: the rows.
    dataset: the rows as tokens.
    model: what to train.
    record: of the model, for the manifest.
  """

  config: config_lib.SFTConfig
  source: datasets.Source
  dataset: datasets.Dataset
  model: checkpoints.Model
  record: runs.ModelRecord


def tokenizer_maker(
  config: config_lib.SFTConfig,
  source: datasets.Source | None = None,
  tokenizer: pathlib.Path | None = None,
) -> Callable[[], tokenizers.SentencePieceTokenizer]:
  """Returns what makes a tiny model's tokenizer.

  Args:
    config: the settings.
    source: the config's rows; read where a tokenizer needs them.
    tokenizer: the tokenizer, where it has been trained already.
  """

  def make_tokenizer() -> tokenizers.SentencePieceTokenizer:
    if tokenizer is not None:
      return tokenizers.SentencePieceTokenizer.load(tokenizer)
    rows = source or datasets.load(config.data, config.seed)
    return tokenizers.train_tokenizer(
      rows.texts(_TOKENIZER_ROWS), config.tokenizer.vocab_size
    )

  return make_tokenizer


def base_model(
  config: config_lib.SFTConfig,
  source: datasets.Source | None = None,
  tokenizer: pathlib.Path | None = None,
) -> checkpoints.Model:
  """Returns the model that a config's training starts from.

  Args:
    config: the settings.
    source: see `tokenizer_maker`.
    tokenizer: see `tokenizer_maker`.
  """
  make_tokenizer = tokenizer_maker(config, source, tokenizer)
  return sources.start_from(config.model, make_tokenizer, config.seed)


def plan(
  config: config_lib.SFTConfig, tokenizer: pathlib.Path | None = None
) -> Plan:
  """Reads the data and makes the model; writes nothing.

  Args:
    config: the settings.
    tokenizer: see `base_model`.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  source = datasets.load(config.data, config.seed)
  base = base_model(config, source, tokenizer)
  dataset = datasets.tokenize(source, base.tokenizer, config.data, config.seed)
  model, record = setup.adapt(base, config)
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def train(
  config: config_lib.SFTConfig, output: pathlib.Path | None = None
) -> pathlib.Path:
  """Trains a model in a new run directory.

  Args:
    config: the settings.
    output: the run directory, which must not exist; None makes one under
      `artifacts/training_runs`.

  Returns:
    The run directory; the model is in its `checkpoint-final`.

  Raises:
    errors.UserError: if the input is wrong, before anything is written.
  """
  output = output or runs.RUNS_ROOT / runs.new_run_id(f"sft-{config.seed}")
  files.check_absent(output)
  prepared = plan(config)
  manifest = _manifest(prepared, output)
  setup.create(manifest, prepared.model, output)
  with runs.hold(output):
    return _run(prepared, manifest, output)


def resume(
  config: config_lib.SFTConfig, run: pathlib.Path, step: int | None = None
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    config: the settings it was started with; only `logging` and
      `checkpoint.max_to_keep` may differ.
    run: its directory.
    step: which of its checkpoints to go on from; None for the latest, or the
      beginning where there is none yet. Later checkpoints are set aside.

  Returns:
    The run directory.

  Raises:
    errors.UserError: if there is no such run or checkpoint, or the config, the
      data, the base or the code's results are not the run's.
  """
  manifest = runs.RunManifest.read(run)
  with runs.hold(run):
    setup.check_same_config(config, manifest, run)
    if manifest.status == "finished" and step is None:
      return run
    prepared = plan(config, run / runs.TOKENIZER)
    _check_same_inputs(prepared, manifest, run)
    setup.set_aside_after(run, step)
    return _run(prepared, manifest, run)


def _run(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  training, pad_id = config.training, model.tokenizer.pad_id()
  trainer = trainer_lib.SFTTrainer(model.module, config, run)
  manifest = setup.begin_session(manifest, run, trainer.train_steps)
  recorder = recorder_lib.Recorder(
    run,
    "sft",
    max_steps=training.max_steps,
    log_every_n_steps=config.logging.log_every_n_steps,
    steps_per_epoch=len(dataset.train) / training.batch_size,
    kept=runs.rewind_metrics(run, trainer.train_steps),
  )
  try:
    trainer.fit(
      itertools.islice(
        datasets.train_batches(
          dataset,
          batch_size=training.batch_size,
          gradient_accumulation_steps=training.gradient_accumulation_steps,
          pad_id=pad_id,
          seed=config.seed,
        ),
        training.max_steps * training.gradient_accumulation_steps,
      ),
      datasets.eval_batches(
        dataset, batch_size=training.batch_size, pad_id=pad_id
      ),
      recorder,
    )
  finally:
    recorder.close()
  trained = dataclasses.replace(model, module=trainer.model)
  setup.finish(manifest, run, trained, recorder.summary())
  return run


def _manifest(prepared: Plan, output: pathlib.Path) -> runs.RunManifest:
  source, dataset = prepared.source, prepared.dataset
  record = runs.DatasetRecord(
    key=source.key,
    path=source.path,
    digest=source.digest,
    rows=len(source.samples),
    dropped_too_long=dataset.dropped_too_long,
    train_rows=len(dataset.train),
    eval_rows=len(dataset.eval),
  )
  return setup.manifest("sft", prepared.config, prepared.record, output, record)


def _check_same_inputs(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> None:
  ours, theirs = prepared.source, manifest.dataset
  if theirs is None or ours.digest != theirs.digest:
    raise errors.UserError(
      f"{run}: the data has changed since this run was started:"
      f" {ours.path or ours.key} has the digest {ours.digest}, the manifest"
      f" has {theirs and theirs.digest}"
    )
  setup.check_same_model(prepared.record, manifest, run)
