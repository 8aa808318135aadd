"""Supervised fine-tuning runs."""

import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers
from tunix_ttt.train import recorder
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import supervised_run
from tunix_ttt.train import trainer as trainer_lib

Dataset = datasets.Dataset[chat.Tokens]
Plan = supervised_run.Plan[config_lib.SFTConfig, datasets.Source, Dataset]

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
) -> Plan:
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
  supervised_run.check_memory(model, config, dataset, dataset.train)
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def run(
  prepared: Plan, manifest: run_manifest.RunManifest, path: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, model = prepared.config, prepared.model
  trainer = trainer_lib.SFTTrainer(model.module, config, path)
  train_batches, eval_batches = batches.make(
    config, prepared.dataset, model.tokenizer.pad_id()
  )
  return supervised_run.fit(
    prepared, manifest, path, trainer, train_batches, eval_batches
  )
