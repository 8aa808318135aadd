"""A GRPO run on a Tinker-compatible service beside the same on local devices.

The service is started before, for instance by `python tests/skyrl.py --model DIR`, and
computes on the same machine. Both runs have the same model, games and settings.
"""

import argparse
import pathlib
import statistics
from typing import Any

import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.runs import run_directory

# The first steps compile.
WARMUP = 2


def measure(
  config: config_lib.GRPOConfig, run: pathlib.Path
) -> dict[str, float]:
  """Trains; returns steps a minute, and what they are made of."""
  recipes.train_grpo(config, run)
  rows = [
    row for row in run_directory.read_metrics(run) if row["split"] == "train"
  ][WARMUP:]
  parts = {
    name: statistics.median(row[name] for row in rows)
    for name in ("seconds_sampling", "seconds_training")
  }
  result = {name: round(value, 3) for name, value in parts.items()}
  result["steps_per_minute"] = round(60 / sum(parts.values()), 2)
  if "service/seconds" in rows[0]:
    first, last = rows[0], rows[-1]
    waited, whole = (
      last[name] - first[name] for name in ("service/seconds", "seconds")
    )
    result["share_of_waiting"] = round(waited / whole, 3)
    for name in ("prompt", "sampled", "trained"):
      tokens = last[f"service/{name}"] - first[f"service/{name}"]
      result[f"{name}_tokens_per_step"] = round(tokens / (len(rows) - 1))
  return result


def main() -> None:
  """Trains twice, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/service.py --config CONFIG --base-url"
    " http://127.0.0.1:8000 --runs runs --output service.json",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  cli.add_config(parser)
  parser.add_argument(
    "--base-url", required=True, help="address of the service"
  )
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  results: dict[str, Any] = {}
  for name, settings in (
    ("service", [f"service.base_url={flags.base_url}"]),
    ("local", ["service=null"]),
  ):
    config = config_lib.load(
      config_lib.GRPOConfig,
      flags.config,
      [*flags.set, *settings, "logging.report=false"],
    )
    results[name] = measure(config, flags.runs / name)
    print(name, results[name], flush=True)
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
