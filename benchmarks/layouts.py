"""Steps of GRPO on one device, on two, and with a device for the sampler alone.

All sample single moves of a small model of random weights, reward them by chance
and take one optimizer step. In the layout `split` with `rollout.max_staleness: 1`
the sampler is a step ahead, so that it waits for nobody. On a CPU the devices
are virtual and share its cores.
"""

import argparse
import pathlib
import statistics
from typing import Any

import grpo
import jax
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib

BATCH, GROUP = 64, 8
RUNS: dict[str, dict[str, Any]] = {
  "one device": {},
  "colocated on two": {"mesh": {"fsdp": 2}},
  "split, max_staleness 0": {"mesh": {"layout": "split"}},
  "split, max_staleness 1": {
    "mesh": {"layout": "split"},
    "rollout": {"max_staleness": 1},
  },
}


def measure(
  settings: dict[str, Any], steps: int, new_tokens: int
) -> dict[str, list[float]]:
  """Returns what each step of a run took, without the first ones."""
  config = config_lib.load(
    config_lib.GRPOConfig,
    {
      "training": {"max_steps": steps + grpo.WARMUP, "batch_size": BATCH},
      "episodes": {"source": "positions"},
      "grpo": {"num_generations": GROUP},
      "play": {"max_new_tokens": new_tokens},
      "rewards": {"outcome": {"weight": 0.0}},
      **settings,
      # A model of random weights would stop at its first token otherwise.
      "rollout": {"constrained": True, **settings.get("rollout", {})},
    },
  )
  results = grpo.ours(config)
  return {name: values[grpo.WARMUP :] for name, values in results.items()}


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/layouts.py --output layouts_cpu.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  for name, default in (("steps", 20), ("repeats", 3), ("new-tokens", 32)):
    parser.add_argument(f"--{name}", type=cli.positive, default=default)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  # Where there are no accelerators.
  jax.config.update("jax_num_cpu_devices", 2)
  results: dict[str, dict[str, list[float]]] = {}
  # In turn, so that a change in the machine's speed meets all.
  for _ in range(flags.repeats):
    for name, settings in RUNS.items():
      measured = measure(settings, flags.steps, flags.new_tokens)
      for key, values in measured.items():
        results.setdefault(name, {}).setdefault(key, []).extend(values)
  rows = []
  base = statistics.median(results["one device"]["seconds"])
  print("| | steps/s | sampling, s | training, s | of one device's speed |")
  print("|---|---:|---:|---:|---:|")
  for name, each in results.items():
    row = {
      key: round(statistics.median(each[key]), 4)
      for key in ("seconds", "seconds_sampling", "seconds_training")
    }
    ratio = base / row["seconds"]
    rows.append({"run": name, **row, "ratio": round(ratio, 2)})
    print(
      f"| {name} | {1 / row['seconds']:.2f} | {row['seconds_sampling']:.3f} |"
      f" {row['seconds_training']:.3f} | {ratio:.2f} |"
    )
  settings = {"steps": flags.steps, "repeats": flags.repeats}
  settings |= {"batch_size": BATCH, "max_new_tokens": flags.new_tokens}
  record.write(flags.output, {**settings, "rows": rows})


if __name__ == "__main__":
  cli.run(main)
