"""A supervised fine-tuning run, from a config to a trained model on disk."""

from collections.abc import Callable
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import runs
from tunix_ttt.data import datasets
from tunix_ttt.language import tokenizers
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.train import batches
from tunix_ttt.train import fitting
from tunix_ttt.train import setup
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

# Rows of the data that a tiny model's tokenizer is trained on.
TOKENIZER_ROWS = 2000

Plan = fitting.Plan[config_lib.SFTConfig, datasets.Source, batches.Supervised]


def tokenizer_maker(
  config: config_lib.SFTConfig,
  source: datasets.Origin | None = None,
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
      rows.texts(TOKENIZER_ROWS), config.tokenizer.vocab_size
    )

  return make_tokenizer


def base_model(
  config: config_lib.SFTConfig,
  source: datasets.Origin | None = None,
  tokenizer: pathlib.Path | None = None,
) -> checkpoints.Model:
  """Returns the model that a config's training starts from.

  Args:
    config: the settings.
    source: see `tokenizer_maker`.
    tokenizer: see `tokenizer_maker`.
  """
  make_tokenizer = tokenizer_maker(config, source, tokenizer)
  return sources.start_from(
    config.model, make_tokenizer, config.seed, config.mesh
  )


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
  base = base_model(config, source, tokenizer)
  dataset = datasets.tokenize(source, base.tokenizer, config.data, config.seed)
  model, record = setup.adapt(base, config)
  fitting.check_memory(model, config, dataset, dataset.train)
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def train(
  config: config_lib.SFTConfig, output: pathlib.Path | None = None
) -> pathlib.Path:
  """Trains a model in a new run directory; see `setup.start`."""
  return setup.start("sft", config, output, lambda: plan(config), _run)


def resume(
  config: config_lib.SFTConfig, run: pathlib.Path, step: int | None = None
) -> pathlib.Path:
  """Goes on with an interrupted run; see `setup.resume`."""
  return setup.resume(config, run, step, plan, _run)


def _run(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, model = prepared.config, prepared.model
  trainer = trainer_lib.SFTTrainer(model.module, config, run)
  train_batches, eval_batches = batches.make(
    config, prepared.dataset, model.tokenizer.pad_id()
  )
  return fitting.fit(
    prepared, manifest, run, trainer, train_batches, eval_batches
  )
