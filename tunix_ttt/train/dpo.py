"""A DPO run on preference pairs, from a config to a trained model on disk."""

import itertools
import pathlib

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import base_model
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import supervised_run
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

Plan = supervised_run.Plan[
  config_lib.DPOConfig, datasets.Pairs, datasets.Dataset[datasets.TokenPair]
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
  base = base_model.base_model(config, source, tokenizer)
  dataset = datasets.tokenize_pairs(
    source, base.tokenizer, config.data, config.seed
  )
  model, record = run_loop.adapt(base, config)
  sequences = [*itertools.chain.from_iterable(dataset.train)]
  supervised_run.check_memory(model, config, dataset, sequences)
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def run(
  prepared: Plan, manifest: run_manifest.RunManifest, path: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  pad_id = model.tokenizer.pad_id()
  train, held_out = batches.make(config, dataset, pad_id)
  if config.dpo.algorithm == "dpo":
    # Of the model as it starts: the trainer restores a checkpoint into it.
    def known(pairs: list[datasets.TokenPair]) -> np.ndarray:
      every = batches.in_order(config, dataset, pairs, pad_id)
      return reference_log_probs.log_probs(model.module, every, len(pairs))

    train = reference_log_probs.attach(train, known(dataset.train))
    held_out = list(reference_log_probs.attach(held_out, known(dataset.eval)))
  trainer = trainer_lib.DPOTrainer(model.module, config, path)
  return supervised_run.fit(prepared, manifest, path, trainer, train, held_out)
