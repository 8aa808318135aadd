"""Seconds until commands answer, and of the parts of `make demo`.

The parts run twice, without and with the compiled programs that the first time has
kept; for training also the seconds until the first step is printed.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import record

from tunix_ttt import cli

ROOT = pathlib.Path(__file__).parents[1]
# Commands that answer at once, with their exit codes.
QUICK = {
  "ttt --help": (["--help"], 0),
  "a wrong config": (["train", "--config", "wrong.yaml"], 2),
  "a missing file": (["check", "nowhere.jsonl"], 2),
}
_MAIN = "from tunix_ttt import cli; cli.main()"


def run(
  flags: Sequence[Any], place: pathlib.Path, code: int = 0
) -> tuple[float, float]:
  """Runs `ttt` in a directory; returns its seconds, and those until its first step.

  Directories side by side share the compiled programs that are kept. Raises a RuntimeError for another exit code than `code`.
  """
  command = [sys.executable, "-u", "-c", _MAIN, *map(str, flags)]
  cache = str(place.parent / "cache")
  started, first, lines = time.perf_counter(), float("nan"), []
  with subprocess.Popen(
    command,
    cwd=place,
    env=os.environ
    | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": cache, "XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  ) as process:
    assert process.stdout is not None
    for line in process.stdout:
      lines.append(line)
      if line.startswith("step 1/"):
        first = time.perf_counter() - started
  if process.returncode != code:
    raise RuntimeError("".join(lines))
  return time.perf_counter() - started, first


def demo(changes: Sequence[str]) -> dict[str, list[Any]]:
  """Returns the flags of the parts of `make demo`; runs are `cold` and `run`."""
  configs, final = ROOT / "configs", "checkpoint-final"
  evalset = ["--eval-set", ROOT / "evalsets" / "tictactoe_v1.jsonl"]
  train = ["--set", *changes] if changes else []
  before, after = f"cold/{final}", f"run/{final}"
  return {
    "SFT": [
      *("train", "--config", configs / "sft_cold_start.yaml"),
      *("--output", "cold", *train),
    ],
    "GRPO": [
      *("train", "--config", configs / "grpo_tiny.yaml", "--model", before),
      *("--output", "run", *train),
    ],
    "answers before": [
      *("eval", "--model", before, *evalset, "--output", "before.jsonl")
    ],
    "answers after": [
      *("eval", "--model", after, *evalset, "--output", "after.jsonl")
    ],
    "report": [
      *("report", "--run", "run", "--games-before", "cold/games.jsonl"),
      *("--before", "before.jsonl", "--after", "after.jsonl"),
      *("--output", "report.md"),
    ],
  }


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(__doc__ or "", "python benchmarks/startup.py")
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--repeats", type=cli.positive, default=5)
  parser.add_argument(
    "--set", nargs="+", default=[], help="replace settings of the demo's runs"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / "quick"
    path.mkdir()
    (path / "wrong.yaml").write_text("training:\n  max_step: 3\n")
    for name, (arguments, code) in QUICK.items():
      run(arguments, path, code)
      seconds = [run(arguments, path, code)[0] for _ in range(flags.repeats)]
      rows.append({"part": name, "warm": round(statistics.median(seconds), 2)})
    parts = demo(flags.set)
    rows += [{"part": name} for name in parts]
    for kind in ("cold", "warm"):
      path = pathlib.Path(place) / kind
      path.mkdir()
      for name, arguments in parts.items():
        seconds, first = run(arguments, path)
        (row,) = (row for row in rows if row["part"] == name)
        row[kind] = round(seconds, 1)
        if first == first:
          row[f"{kind}_first_step"] = round(first, 1)
  for row in rows:
    print("  ".join(f"{key} {value}" for key, value in row.items()))
  record.write(flags.output, {"repeats": flags.repeats, "rows": rows})


if __name__ == "__main__":
  cli.run(main)
