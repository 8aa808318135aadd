"""DPO and ORPO runs on preference pairs."""

import pathlib

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft
from tunix_ttt.train import trainer as trainer_lib

Dataset = datasets.Dataset[row_formats.TokenPair]

LOADER = sft.Loader[config_lib.DPOConfig, datasets.Pairs, Dataset](
  load=lambda config: datasets.load_pairs(config.data, config.game),
  tokenize=datasets.tokenize,
  per_row=2,
)
plan = LOADER.plan


def run(
  prepared: sft.Plan[config_lib.DPOConfig, datasets.Pairs, Dataset],
  path: pathlib.Path,
) -> sft.RowRun:
  """Restores the latest checkpoint and makes the batches of a run."""
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
  return sft.RowRun(prepared, path, trainer, train, held_out)


RECIPE = run_loop.Recipe(LOADER.load, LOADER.describe, plan, run)
