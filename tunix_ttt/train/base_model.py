"""Loads the models that training starts from and that scripts evaluate."""

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

# Number of rows that a tiny model's tokenizer is trained on.
TOKENIZER_ROWS = 2000


def tokenizer_maker(
  config: config_lib.SFTConfig,
  source: datasets.Origin | None = None,
  tokenizer: pathlib.Path | None = None,
) -> Callable[[], tokenizers.SentencePieceTokenizer]:
  """Returns a function that trains or loads a tiny model's tokenizer.

  Args:
    config: Settings of the run.
    source: Rows to train the tokenizer on; None reads the config's.
    tokenizer: File of a trained tokenizer, which is loaded instead.
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
  """Returns the model that training starts from.

  Args:
    config: Settings of the run.
    source: Rows to train a tiny model's tokenizer on; None reads the config's.
    tokenizer: File of a tiny model's trained tokenizer.
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
  """Loads a model by name.

  Args:
    name: Model directory, run directory, or `base` for the model that the
      config starts from.
    config: Settings of the model; None for the settings of its run.
    base: Directory of an adapter's base model, in place of `model.base`.

  Raises:
    errors.UserError: if the model does not exist or does not match the config.
  """
  progress.hush()
  name = str(name)
  config = config or run_manifest.config_of_model(name)
  if config is None:
    raise errors.UserError(
      f"{name}: is not in a run, so its settings are unknown; give a config"
    )
  if base is not None:
    settings = dataclasses.replace(config.model, base=str(base))
    config = dataclasses.replace(config, model=settings)
  if name == "base":
    model = base_model(config)
  else:
    model = sources.open_model(name, config.model, config.mesh)
    sources.check_matches(model, config.model)
    if config.lora is not None and model.lora is None:
      raise errors.UserError(
        f"{name}: has no adapter, but the config has lora; use --model base for"
        " the model before training, or --set lora=null for a merged model"
      )
  meshes.check(config, model.spec)
  meshes.place(model.module, meshes.make(config.mesh))
  return model


def tokenizer(
  config: config_lib.SFTConfig, samples: Iterable[row_formats.Sample]
) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a config's model, without reading weights.

  Args:
    config: Settings of the model.
    samples: Rows to train a tiny model's tokenizer on.

  Raises:
    errors.UserError: if the model or its tokenizer is unavailable.
  """

  def train() -> tokenizers.SentencePieceTokenizer:
    first = itertools.islice(samples, TOKENIZER_ROWS)
    texts = (text for sample in first for text in sample.texts())
    return tokenizers.train_tokenizer(texts, config.tokenizer.vocab_size)

  result = sources.outline(config.model, train).tokenizer
  if result is None:
    raise errors.UserError(
      f"{config.model.name}: its tokenizer is not in the local cache, and the"
      " Hugging Face hub cannot be reached; give a directory"
    )
  return result
