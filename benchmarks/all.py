"""Runs the benchmarks of speed and memory, and compares them with a record.

A speed is a ratio within the run, so that a record means something on another
machine: to the benchmark's peer, or to a plain matrix product that is timed before
and after. Sizes are XLA's own of compiled programs, and exact. What is slower than
the record by more than 15 %, or larger by more than 1 %, is listed, and makes the
exit code 1.
"""

import argparse
from collections.abc import Callable, Iterator
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import record

from tunix_ttt import cli

HERE = pathlib.Path(__file__).parent
SLOWER, LARGER = 0.15, 0.01
_SIZE = 1024
_MODEL = ["--config", str(HERE.parent / "configs" / "sft_tiny.yaml")]


def _environment(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    yield f"{row['generator']}, to pgx", row["ratio"]


def _sampler(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    yield f"{row['context']} {row['batch_size']}, to Tunix", row["ratio"]


def _grpo(results: Any, product: float) -> Iterator[tuple[str, float]]:
  for part in ("per_step", "sampling", "training"):
    yield part.replace("_", " "), product / results[f"seconds_{part}"]


def _packing(results: Any, product: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    for layout in ("padded", "packed"):
      speed = row[layout]["tokens_per_second"]
      yield f"{row['rows']}, {layout}", speed * product


def _scaling(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for axis, points in results["axes"].items():
    for point in points:
      for program in ("prefill", "decode", "train"):
        if program in point:
          name = f"{axis} {point[axis]}, {program}, bytes"
          yield name, point[program]["temporary"]


# Flags and measures; the second argument is the seconds of a matrix product.
BENCHMARKS: dict[str, tuple[list[str], Callable[..., Any]]] = {
  "environment": (["--repeats", "9"], _environment),
  "sampler": (
    [
      *_MODEL,
      *["--model", "base", "--contexts", "board", "full", "--repeats", "3"],
    ],
    _sampler,
  ),
  "grpo": (["--no-peer"], _grpo),
  "packing": ([*_MODEL, "--repeats", "3"], _packing),
  "scaling": (["--repeats", "1", "--points", "2"], _scaling),
}
# Packages that a benchmark needs beyond those of the library.
_NEEDED = {"environment": "pgx"}


def product_seconds() -> float:
  """Returns the median seconds of a product of two matrices."""
  matrix = jnp.ones((_SIZE, _SIZE))
  multiply = jax.jit(jnp.matmul)
  multiply(matrix, matrix).block_until_ready()
  seconds = []
  for _ in range(20):
    started = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    seconds.append(time.perf_counter() - started)
  return statistics.median(seconds)


def measure(name: str, more: list[str]) -> dict[str, float]:
  """Runs a benchmark in a process of its own; returns its measures by name."""
  flags, measures = BENCHMARKS[name]
  with tempfile.TemporaryDirectory() as directory:
    output = pathlib.Path(directory) / "results.json"
    command = [sys.executable, str(HERE / f"{name}.py"), *flags, *more]
    before = product_seconds()
    subprocess.run([*command, "--output", str(output)], check=True)
    product = (before + product_seconds()) / 2
    results = json.loads(output.read_text())
  return {
    f"{name}: {what}": float(f"{value:.4g}")
    for what, value in measures(results, product)
  }


def worse(then: dict[str, float], now: dict[str, float]) -> list[str]:
  """Returns a line for each measure that is worse than it was."""
  lines = []
  for name in then.keys() & now.keys():
    change = now[name] / then[name] - 1
    is_size = name.endswith("bytes")
    if change > LARGER if is_size else change < -SLOWER:
      verdict = "larger" if is_size else "slower"
      lines.append(f"{name}: {abs(change):.1%} {verdict} than in the record")
  return sorted(lines)


def main() -> None:
  """Runs, prints, compares and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/all.py --record record.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "--benchmarks", nargs="+", choices=BENCHMARKS, default=[*BENCHMARKS]
  )
  parser.add_argument(
    "--flags",
    default="",
    help="more flags of all benchmarks, as in --flags='--repeats 1'",
  )
  parser.add_argument(
    "--record", type=pathlib.Path, help="JSON to compare with"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  then = {}
  if flags.record:
    then = json.loads(flags.record.read_text())["measures"]
  now: dict[str, float] = {}
  for name in flags.benchmarks:
    package = _NEEDED.get(name)
    if package and importlib.util.find_spec(package) is None:
      print(f"{name}: left out, since {package} is not installed")
      continue
    now |= measure(name, flags.flags.split())
  for name, value in now.items():
    compared = f"  {value / then[name]:.2f} times" if name in then else ""
    print(f"{name:44} {value:12.5g}{compared}")
  record.write(flags.output, {"measures": now})
  if lines := worse(then, now):
    print("\n".join(lines))
    sys.exit(1)


if __name__ == "__main__":
  cli.run(main)
