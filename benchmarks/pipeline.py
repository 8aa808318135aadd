"""The stages of a pipeline with several seeds, judged on every line there is.

Each seed runs `training/pipeline.py`; what is printed is how well each stage's
model plays, exactly. Runs that are there already are gone on with.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import pipeline


def rates(exact_play: dict[str, Any]) -> dict[str, float]:
  """Returns what a player of X and of O is worth, by name."""
  values = {}
  for mark, result in exact_play.items():
    values[f"{mark}/lines_lost"] = result["lines_lost"]
    values[f"{mark}/optimal_move_rate"] = result["optimal_move_rate"]
    values[f"{mark}/draws_with_optimal"] = result["optimal"]["draw_rate"]
    for ending, rate in result["random"].items():
      if ending in ("win_rate", "draw_rate", "loss_rate"):
        values[f"{mark}/random/{ending}"] = rate
  return values


def main() -> None:
  """Trains, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/pipeline.py --config configs/pipeline_tiny.yaml --runs"
    " RUNS",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  cli.add_config(parser)
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  seeds = []
  for seed in flags.seeds:
    config = config_lib.load(
      config_lib.PipelineConfig, flags.config, [*flags.set, f"seed={seed}"]
    )
    manifest = pipeline.run(config, flags.runs / f"pipeline-{seed}")
    stages = {
      name: rates(record.exact_play)
      for name, record in manifest.stages.items()
      if record.exact_play is not None
    }
    seeds.append({"seed": seed, "stages": stages})
  means = {
    stage: {
      name: round(
        statistics.mean(each["stages"][stage][name] for each in seeds), 4
      )
      for name in values
    }
    for stage, values in seeds[0]["stages"].items()
  }
  for stage, values in means.items():
    print(stage, json.dumps(values))
  record.write(flags.output, {"means": means, "seeds": seeds})


if __name__ == "__main__":
  cli.run(main)
