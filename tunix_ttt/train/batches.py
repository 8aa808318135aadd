"""The micro-batches of a run, padded or packed as its config says."""

from collections.abc import Iterable, Iterator, Sequence
import itertools

from tunix_ttt import config as config_lib
from tunix_ttt.data import datasets
from tunix_ttt.data import packing
from tunix_ttt.data import preferences
from tunix_ttt.models import meshes
from tunix_ttt.text import chat

Supervised = datasets.Dataset[chat.Tokens]


def make(
  config: config_lib.SFTConfig, dataset: Supervised, pad_id: int
) -> tuple[Iterator[datasets.Batch], list[datasets.Batch]]:
  """Returns a run's micro-batches, from its first step on, and the held-out.

  Packed or not, each has the same sequences and the same denominator.

  Args:
    config: the settings.
    dataset: the rows.
    pad_id: fills up.
  """
  train, shape = _train_parts(config, dataset), layout(config, dataset)
  size = config.training.batch_size
  held_out = datasets.eval_parts(dataset, size)
  other = _shape(config, held_out, size, dataset.length)
  return (
    _fill(config, train, shape, pad_id),
    list(_fill(config, held_out, other, pad_id)),
  )


def layout(config: config_lib.SFTConfig, dataset: Supervised) -> packing.Layout:
  """Returns the shape that all micro-batches trained on have."""
  parts = _train_parts(config, dataset)
  return _shape(config, parts, micro_batch_size(config), dataset.length)


def make_pairs(
  config: config_lib.DPOConfig, dataset: preferences.Dataset, pad_id: int
) -> tuple[Iterator[datasets.Batch], list[datasets.Batch]]:
  """Returns what `make` does, of preference pairs.

  Each batch also has `pairs`, int32 [B]: which of the dataset's pairs it has, -1
  where there is none.

  Args:
    config: the settings.
    dataset: the pairs.
    pad_id: fills up.
  """
  train, shape = _train_pairs(config, dataset), pair_layout(config, dataset)
  return (
    _fill_pairs(config, train, shape, pad_id),
    list(all_pairs(config, dataset, dataset.eval, pad_id)),
  )


def pair_layout(
  config: config_lib.DPOConfig, dataset: preferences.Dataset
) -> packing.Layout:
  """Returns the shape that all micro-batches trained on have."""
  parts = (part.sequences for part in _train_pairs(config, dataset))
  return _shape(config, parts, 2 * micro_batch_size(config), dataset.length)


def all_pairs(
  config: config_lib.DPOConfig,
  dataset: preferences.Dataset,
  pairs: Sequence[preferences.Pair],
  pad_id: int,
) -> Iterator[datasets.Batch]:
  """Yields some of a dataset's pairs once and in order, as `make_pairs` does."""
  size = micro_batch_size(config)
  parts = preferences.parts(pairs, size)
  sequences = [part.sequences for part in parts]
  shape = _shape(config, sequences, 2 * size, dataset.length)
  return _fill_pairs(config, parts, shape, pad_id)


def num_micro_batches(config: config_lib.SFTConfig) -> int:
  """Returns how many micro-batches a run has."""
  training = config.training
  return training.max_steps * training.gradient_accumulation_steps


def micro_batch_size(config: config_lib.SFTConfig) -> int:
  """Returns how many rows a micro-batch has."""
  training = config.training
  return training.batch_size // training.gradient_accumulation_steps


def _train_parts(
  config: config_lib.SFTConfig, dataset: Supervised
) -> Iterator[datasets.Part]:
  training = config.training
  endless = datasets.train_parts(
    dataset,
    batch_size=training.batch_size,
    gradient_accumulation_steps=training.gradient_accumulation_steps,
    seed=config.seed,
  )
  return itertools.islice(endless, num_micro_batches(config))


def _train_pairs(
  config: config_lib.DPOConfig, dataset: preferences.Dataset
) -> Iterator[preferences.Part]:
  endless = preferences.train_parts(
    dataset, batch_size=micro_batch_size(config), seed=config.seed
  )
  return itertools.islice(endless, num_micro_batches(config))


def _shape(
  config: config_lib.SFTConfig,
  parts: Iterable[datasets.Part],
  rows: int,
  length: int,
) -> packing.Layout:
  """Returns the shape of batches that have `rows` rows when padded."""
  each = [part.rows for part in parts] if config.data.packing else []
  if not each:
    return packing.Layout(rows=rows, length=length)
  return packing.find_layout(each, meshes.sizes(config.mesh)[meshes.FSDP])


def _fill(
  config: config_lib.SFTConfig,
  parts: Iterable[datasets.Part],
  shape: packing.Layout,
  pad_id: int,
) -> Iterator[datasets.Batch]:
  if config.data.packing:
    return packing.batches(parts, shape, pad_id)
  return datasets.batches(
    parts, batch_size=shape.rows, length=shape.length, pad_id=pad_id
  )


def _fill_pairs(
  config: config_lib.DPOConfig,
  parts: Iterable[preferences.Part],
  shape: packing.Layout,
  pad_id: int,
) -> Iterator[datasets.Batch]:
  for part in parts:
    (batch,) = _fill(config, [part.sequences], shape, pad_id)
    yield {**batch, "pairs": part.numbers}
