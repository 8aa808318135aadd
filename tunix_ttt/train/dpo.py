"""A DPO run on preference pairs, from a config to a trained model on disk."""

import itertools
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import runs
from tunix_ttt.data import datasets
from tunix_ttt.data import preferences
from tunix_ttt.train import batches
from tunix_ttt.train import fitting
from tunix_ttt.train import references
from tunix_ttt.train import setup
from tunix_ttt.train import sft
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

Plan = fitting.Plan[
  config_lib.DPOConfig, datasets.Pairs, preferences.PairDataset
]


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
  of_train, of_eval = None, None
  if config.dpo.algorithm == "dpo":
    # Of the model as it starts: the trainer restores a checkpoint into it.
    known = references.References(model.module, dataset, micro, pad_id)
    of_train, of_eval = known.train, known.eval
  trainer = trainer_lib.DPOTrainer(model.module, config, run)
  endless = preferences.train_batches(
    dataset, batch_size=micro, pad_id=pad_id, seed=config.seed
  )
  train = itertools.islice(endless, batches.num_micro_batches(config))
  held_out = preferences.batches(dataset, dataset.eval, micro, pad_id)
  return fitting.fit(
    prepared,
    manifest,
    run,
    trainer,
    references.attach(train, of_train),
    list(references.attach(held_out, of_eval)),
  )
