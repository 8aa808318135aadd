"""A DPO run on preference pairs, from a config to a trained model on disk."""

from collections.abc import Iterator
import dataclasses
import itertools
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import runs
from tunix_ttt.data import datasets
from tunix_ttt.data import preferences
from tunix_ttt.models import checkpoints
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import references
from tunix_ttt.train import setup
from tunix_ttt.train import sft
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that a run needs, checked and in memory; nothing is written yet.

  Attributes:
    config: the settings.
    source: the pairs.
    dataset: the pairs as tokens.
    model: what to train, which is the reference at first.
    record: of the model, for the manifest.
  """

  config: config_lib.DPOConfig
  source: datasets.Pairs
  dataset: preferences.PairDataset
  model: checkpoints.Model
  record: runs.ModelRecord

  def dataset_record(self) -> runs.DatasetRecord:
    """See `setup.Prepared`."""
    data = self.dataset
    return setup.dataset_record(
      self.source, data.train, data.eval, data.dropped_too_long
    )


def plan(
  config: config_lib.DPOConfig, tokenizer: pathlib.Path | None = None
) -> Plan:
  """Reads the pairs and makes the model; writes nothing.

  Args:
    config: the settings.
    tokenizer: see `sft.base_model`.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  source = datasets.load_pairs(config.data)
  base = sft.base_model(config, source, tokenizer)
  dataset = preferences.tokenize(
    source, base.tokenizer, config.data, config.seed
  )
  model, record = setup.adapt(base, config)
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def train(
  config: config_lib.DPOConfig, output: pathlib.Path | None = None
) -> pathlib.Path:
  """Trains a model in a new run directory; see `setup.start`."""
  return setup.start("dpo", config, output, lambda: plan(config), _run)


def resume(
  config: config_lib.DPOConfig, run: pathlib.Path, step: int | None = None
) -> pathlib.Path:
  """Goes on with an interrupted run; see `setup.resume`."""
  return setup.resume(config, run, step, lambda path: plan(config, path), _run)


def _run(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  training, pad_id = config.training, model.tokenizer.pad_id()
  micro = training.batch_size // training.gradient_accumulation_steps
  known = None
  if config.dpo.algorithm == "dpo":
    # Of the model as it starts: the trainer restores a checkpoint into it.
    known = references.References(model.module, dataset, micro, pad_id)
  trainer = trainer_lib.DPOTrainer(model.module, config, run)
  manifest = setup.begin_session(manifest, run, trainer.train_steps)
  recorder = recorder_lib.Recorder(
    run,
    "dpo",
    max_steps=training.max_steps,
    log_every_n_steps=config.logging.log_every_n_steps,
    steps_per_epoch=len(dataset.train) / training.batch_size,
    kept=runs.rewind_metrics(run, trainer.train_steps),
    names=trainer.names,
  )
  held_out = preferences.batches(dataset, dataset.eval, micro, pad_id)
  try:
    trainer.fit(
      references.attach(
        _batches(prepared, pad_id), None if known is None else known.train
      ),
      list(references.attach(held_out, None if known is None else known.eval)),
      recorder,
    )
  finally:
    recorder.close()
  trained = dataclasses.replace(model, module=trainer.model)
  setup.finish(manifest, run, trained, recorder.summary())
  return run


def _batches(prepared: Plan, pad_id: int) -> Iterator[preferences.PairBatch]:
  training = prepared.config.training
  parts = training.gradient_accumulation_steps
  endless = preferences.train_batches(
    prepared.dataset,
    batch_size=training.batch_size // parts,
    pad_id=pad_id,
    seed=prepared.config.seed,
  )
  return itertools.islice(endless, training.max_steps * parts)
