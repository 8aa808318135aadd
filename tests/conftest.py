"""Test set-up: two virtual CPU devices and compiled programs that are kept."""

import os
import pathlib
from typing import Any

# Before JAX is imported, here and in the processes that tests start.
ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import pytest

from tunix_ttt import config as config_lib
from tunix_ttt.data import datasets
from tunix_ttt.language import tokenizers
from tunix_ttt.models import specs

# Small enough to compile in seconds; the code is that of any other run.
SMALL_MODEL = config_lib.ModelConfig(
  num_layers=2,
  embed_dim=32,
  hidden_dim=64,
  num_heads=2,
  num_kv_heads=1,
  head_dim=16,
)


def small_spec(family: Any, vocab_size: int, **changes: Any) -> specs.ModelSpec:
  """Returns an architecture of `SMALL_MODEL`'s shape."""
  shape: dict[str, Any] = {**SMALL_MODEL.shape(), **changes}
  return specs.ModelSpec(family=family, vocab_size=vocab_size, **shape)


@pytest.fixture(scope="session")
def source() -> datasets.Source:
  """A few expert games as conversations."""
  games = config_lib.GamesConfig(num_games=60)
  return datasets.load(config_lib.DataConfig(games=games), seed=0)


@pytest.fixture(scope="session")
def tokenizer(source: datasets.Source) -> tokenizers.SentencePieceTokenizer:
  """A tokenizer trained on `source`."""
  return tokenizers.train_tokenizer(source.texts(100), 512)
