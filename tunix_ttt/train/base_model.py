"""The models that the scripts are asked to judge."""

from collections.abc import Callable, Iterable
import dataclasses
import itertools
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import tokenizers

# Rows of the data that a tiny model's tokenizer is trained on.
TOKENIZER_ROWS = 2000


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


def load(
  name: str | pathlib.Path,
  config: config_lib.SFTConfig | None = None,
  *,
  base: str | pathlib.Path | None = None,
) -> checkpoints.Model:
  """Returns a model by name.

  Args:
    name: `base` for the model that the config starts from, or a model or run
      directory.
    config: the settings; None for those of the run that the model is of.
    base: directory of an adapter's base, where it is no longer the recorded
      one, in place of `model.base`.

  Raises:
    errors.UserError: if there is no such model, or it is another than the
      config's.
  """
  progress.hush()
  name = str(name)
  config = config or run_manifest.config_of_model(name)
  if config is None:
    raise errors.UserError(
      f"{name}: belongs to no run, whose settings say how it plays; give a"
      " config"
    )
  if base is not None:
    model = dataclasses.replace(config.model, base=str(base))
    config = dataclasses.replace(config, model=model)
  if name == "base":
    return _placed(base_model(config), config)
  model = sources.open_model(name, config.model, config.mesh)
  sources.check_matches(model, config.model)
  if config.lora is not None and model.lora is None:
    raise errors.UserError(
      f"{name}: holds no adapter, and the config has lora; for the model before"
      " training, say --model base, and for one that has its adapter merged in,"
      " --set lora=null"
    )
  return _placed(model, config)


def _placed(
  model: checkpoints.Model, config: config_lib.SFTConfig
) -> checkpoints.Model:
  """Moves a model to the config's devices, and returns it."""
  meshes.check(config, model.spec)
  meshes.place(model.module, meshes.make(config.mesh))
  return model


def tokenizer(
  config: config_lib.SFTConfig, samples: Iterable[row_formats.Sample]
) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a config's model; no weight is read.

  Args:
    config: the settings.
    samples: the rows that a tiny model's tokenizer is trained on.

  Raises:
    errors.UserError: if there is no such model, or its tokenizer cannot be had.
  """

  def train() -> tokenizers.SentencePieceTokenizer:
    first = itertools.islice(samples, TOKENIZER_ROWS)
    texts = (text for sample in first for text in sample.texts())
    return tokenizers.train_tokenizer(texts, config.tokenizer.vocab_size)

  found = sources.outline(config.model, train).tokenizer
  if found is None:
    raise errors.UserError(
      f"{config.model.name}: its tokenizer is not in the local cache, and the"
      " Hugging Face hub cannot be reached; give a directory"
    )
  return found
