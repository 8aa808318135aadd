"""DPO and ORPO runs on preference pairs."""

import itertools
import pathlib

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import tokenizers
from tunix_ttt.train import recorder
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft
from tunix_ttt.train import trainer as trainer_lib

Dataset = datasets.Dataset[row_formats.TokenPair]
DPOPlan = sft.Plan[config_lib.DPOConfig, datasets.Pairs, Dataset]

# Number of token sequences in a row of the data.
SEQUENCES_PER_ROW = 2


def load(config: config_lib.DPOConfig) -> datasets.Pairs:
  """Reads the preference pairs."""
  return datasets.load_pairs(config.data)


def tokenize(
  source: datasets.Pairs,
  tokenizer: tokenizers.Tokenizer,
  config: config_lib.DPOConfig,
) -> Dataset:
  """Tokenizes the pairs and splits them into train and held-out pairs."""
  return datasets.tokenize(source, tokenizer, config.data, config.seed)


def plan(
  config: config_lib.DPOConfig, tokenizer: pathlib.Path | None = None
) -> DPOPlan:
  """Reads the pairs and makes the model; writes nothing.

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
  sequences = [*itertools.chain.from_iterable(dataset.train)]
  sft.check_memory(model, config, dataset, sequences)
  return DPOPlan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def run(
  prepared: DPOPlan, manifest: run_manifest.RunManifest, path: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  pad_id = model.tokenizer.pad_id()
  train, held_out = batches.make(config, dataset, pad_id)
  if config.dpo.algorithm == "dpo":
    # Computed before the trainer restores a checkpoint into the model.
    def log_probs(pairs: list[row_formats.TokenPair]) -> np.ndarray:
      ordered = batches.in_order(config, dataset, pairs, pad_id)
      return reference_log_probs.log_probs(model.module, ordered, len(pairs))

    train = reference_log_probs.attach(train, log_probs(dataset.train))
    held_out = list(
      reference_log_probs.attach(held_out, log_probs(dataset.eval))
    )
  trainer = trainer_lib.DPOTrainer(model.module, config, path)
  return sft.fit(prepared, manifest, path, trainer, train, held_out)
