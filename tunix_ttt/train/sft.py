"""A supervised fine-tuning run, from a config to a trained model on disk."""

import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import chat
from tunix_ttt.train import base_model
from tunix_ttt.train import run_loop
from tunix_ttt.train import supervised_run
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

Plan = supervised_run.Plan[
  config_lib.SFTConfig, datasets.Source, datasets.Dataset[chat.Tokens]
]


def check_context(config: config_lib.SFTConfig) -> None:
  """Raises a UserError if the generated games are not what play shows."""
  games, play = config.data.games.context, config.play.context
  if config.data.path is None and games == "board" and play != "board":
    raise errors.UserError(
      f"play.context: {play} shows the conversation so far, but the generated"
      " games to train on show one board each (data.games.context: board); set"
      " data.games.context=full or play.context=board"
    )


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
  check_context(config)
  source = datasets.load(config.data, config.seed)
  base = base_model.base_model(config, source, tokenizer)
  dataset = datasets.tokenize(source, base.tokenizer, config.data, config.seed)
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
