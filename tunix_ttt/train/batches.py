"""The batches of a supervised run, padded or packed as its config says."""

from collections.abc import Iterator
import itertools
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt.data import datasets
from tunix_ttt.data import packing


def make(
  config: config_lib.SFTConfig, dataset: datasets.Dataset, pad_id: int
) -> tuple[Iterator[datasets.Batch], list[datasets.Batch]]:
  """Returns a run's micro-batches, from its first step on, and the held-out.

  Packed or not, each has the same sequences and the same denominator.

  Args:
    config: the settings.
    dataset: the rows.
    pad_id: fills up.
  """
  size = config.training.batch_size
  if not config.data.packing:
    train = datasets.train_batches(dataset, pad_id=pad_id, **_order(config))
    return (
      itertools.islice(train, num_micro_batches(config)),
      datasets.eval_batches(dataset, batch_size=size, pad_id=pad_id),
    )
  train = packing.batches(
    _train_parts(config, dataset), packed_layout(config, dataset), pad_id
  )
  held_out = datasets.eval_parts(dataset, size)
  if not held_out:
    return train, []
  layout = packing.find_layout(part.rows for part in held_out)
  return train, list(packing.batches(held_out, layout, pad_id))


def packed_layout(
  config: config_lib.SFTConfig, dataset: datasets.Dataset
) -> packing.Layout:
  """Returns the shape that all of a run's micro-batches are packed into."""
  parts = _train_parts(config, dataset)
  return packing.find_layout(part.rows for part in parts)


def _train_parts(
  config: config_lib.SFTConfig, dataset: datasets.Dataset
) -> Iterator[datasets.Part]:
  endless = datasets.train_parts(dataset, **_order(config))
  return itertools.islice(endless, num_micro_batches(config))


def _order(config: config_lib.SFTConfig) -> dict[str, Any]:
  training = config.training
  return {
    "batch_size": training.batch_size,
    "gradient_accumulation_steps": training.gradient_accumulation_steps,
    "seed": config.seed,
  }


def num_micro_batches(config: config_lib.SFTConfig) -> int:
  """Returns how many micro-batches a run has."""
  training = config.training
  return training.max_steps * training.gradient_accumulation_steps
