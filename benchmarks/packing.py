"""Steps with and without packing, on generated games and on pairs.

Both train the same model on the same sequences in the same order, so that the
ratio of steps a second is that of tokens a second. Tokens are those of the
sequences, without padding.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time
from typing import Any

from flax import nnx
import jax
import numpy as np
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.data import generate
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.train import dpo
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import sft
from tunix_ttt.train import trainer

# What the games look like; the first is the config's own.
DATA = {
  "board": [],
  "full": ["data.games.context=full"],
  "full, half from the empty board": [
    "data.games.context=full",
    "data.games.random_starts=0.5",
  ],
  "full, all from the empty board": [
    "data.games.context=full",
    "data.games.random_starts=0.0",
  ],
}


class Steps:
  """A run's first optimizer steps, again and again."""

  def __init__(
    self,
    plan: sft.Plan,
    *,
    is_packed: bool,
    num_steps: int,
    run: str,
  ):
    """Makes the batches and compiles the step."""
    config, model = plan.config, plan.model
    data = dataclasses.replace(config.data, packing=is_packed)
    config = dataclasses.replace(config, data=data)
    pad_id = model.tokenizer.pad_id()
    make: Any = trainer.SFTTrainer
    dataset: Any = plan.dataset
    train, _ = batches.make(config, dataset, pad_id)
    if isinstance(config, config_lib.DPOConfig):
      make = trainer.DPOTrainer
      zeros = np.zeros((2, len(dataset.train)), np.float32)
      train = reference_log_probs.attach(train, zeros)
    self._batches = list(itertools.islice(train, num_steps))
    self.shape = self._batches[0]["input_tokens"].shape
    self.num_tokens = int(sum(b["input_mask"].sum() for b in self._batches))
    self._trainer = make(nnx.clone(model.module), config, pathlib.Path(run))
    self._step: Callable[[datasets.Batch], Any] = (
      self._trainer.create_train_step_fn()
    )
    jax.block_until_ready(self._step(self._batches[0]))

  def seconds(self) -> float:
    """Trains on all batches once; returns the seconds that it takes."""
    started = time.perf_counter()
    results = [self._step(batch) for batch in self._batches]
    jax.block_until_ready(results)
    return time.perf_counter() - started

  def lower(self) -> jax.stages.Lowered:
    """Lowers the step, without running it."""
    return self._trainer.lower_train_step(self._batches[0])

  def row(self, seconds: float) -> dict[str, Any]:
    """Returns the speeds."""
    slots = len(self._batches) * self.shape[0] * self.shape[1]
    return {
      "rows": self.shape[0],
      "length": self.shape[1],
      "share_of_tokens": round(self.num_tokens / slots, 3),
      "steps_per_second": round(len(self._batches) / seconds, 2),
      "tokens_per_second": round(self.num_tokens / seconds),
    }


def measure(
  name: str, plan: sft.Plan, num_steps: int, repeats: int
) -> dict[str, Any]:
  """Trains on the same rows both ways."""
  with (
    tempfile.TemporaryDirectory() as padded,
    tempfile.TemporaryDirectory() as packed,
  ):
    both = [
      Steps(plan, is_packed=is_packed, num_steps=num_steps, run=run)
      for is_packed, run in ((False, padded), (True, packed))
    ]
    # In turn, so that a change in the machine's speed meets both.
    pairs = [[steps.seconds() for steps in both] for _ in range(repeats)]
  ratios = sorted(one / other for one, other in pairs)
  times = [statistics.median(column) for column in zip(*pairs, strict=True)]
  return {
    "rows": name,
    "padded": both[0].row(times[0]),
    "packed": both[1].row(times[1]),
    "ratio": round(statistics.median(ratios), 2),
    "ratios": [round(ratio, 2) for ratio in ratios],
  }


def plans(
  path: pathlib.Path, settings: list[str], num_pairs: int
) -> Iterator[tuple[str, sft.Plan]]:
  """Yields what is trained on: games of each kind, then pairs."""
  for name, changes in DATA.items():
    config = config_lib.load(config_lib.SFTConfig, path, [*settings, *changes])
    yield name, sft.plan(config)
  with tempfile.TemporaryDirectory() as directory:
    pairs = pathlib.Path(directory) / "pairs.jsonl"
    generate.write(pairs, "dpo", board_kinds.Pairs(), num_pairs, 0)
    changes = [*settings, f"data.path={pairs}", "training.batch_size=32"]
    config = config_lib.load(config_lib.DPOConfig, path, changes)
    yield "pairs", dpo.plan(config)


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/packing.py --config configs/sft_tiny.yaml",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  cli.add_config(parser)
  parser.add_argument(
    "--steps", type=cli.positive, default=20, help="of one measurement"
  )
  parser.add_argument("--repeats", type=cli.positive, default=7)
  parser.add_argument(
    "--pairs", type=cli.positive, default=2000, help="of the solver's, for DPO"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  rows = []
  for name, plan in plans(flags.config, flags.set, flags.pairs):
    row = measure(name, plan, flags.steps, flags.repeats)
    rows.append(row)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
  record.write(flags.output, {"rows": rows})


if __name__ == "__main__":
  cli.run(main)
