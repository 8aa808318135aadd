"""Runs the benchmarks of speed and memory and compares them with a baseline.

A speed is a ratio within its run, to the benchmark's peer or to a product of two
matrices that is timed before and after, so that a baseline means something on
another machine. Bytes are XLA's own of compiled programs. What is slower than in
the baseline by more than 15%, or larger by more than 1%, is listed, and the exit
code is then 1.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import importlib.util
import json
import multiprocessing
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import record

from tunix_ttt import cli
from tunix_ttt import errors

HERE = pathlib.Path(__file__).parent
SLOWER, LARGER = 0.15, 0.01
# Names of measures end with it if less is better.
BYTES = "bytes"
_SFT = ["--config", str(HERE.parent / "configs" / "sft_tiny.yaml")]

# Results of a benchmark and the seconds of a product to measures by name.
Measures = Callable[[Any, float], Iterator[tuple[str, float]]]


class Benchmark(NamedTuple):
  """A benchmark with its flags at two sizes and what is compared."""

  small: list[str]
  full: list[str]
  measures: Measures
  # Package that it needs besides those of the library.
  package: str = "jax"


def _environment(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    yield f"{row['generator']}, to pgx", row["ratio"]


def _sampler(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    name = f"{row['context']} {row['batch_size']}"
    yield f"{name}, to Tunix", row["ratio"]
    yield f"{name}, {BYTES}", row["temporary_mib"] * 2**20


def _games(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    yield f"{row['game']} {row['batch_size']}, to Tunix", row["ratio"]


def _grpo(results: Any, product: float) -> Iterator[tuple[str, float]]:
  for part in ("per_step", "sampling", "training"):
    yield part.replace("_", " "), product / results[f"seconds_{part}"]
  if "ratio" in results:
    yield "step, to TRL", results["ratio"]


def _packing(results: Any, product: float) -> Iterator[tuple[str, float]]:
  for row in results["rows"]:
    for layout in ("padded", "packed"):
      speed = row[layout]["tokens_per_second"]
      yield f"{row['rows']}, {layout}", speed * product


def _scaling(results: Any, _: float) -> Iterator[tuple[str, float]]:
  for axis, points in results["axes"].items():
    for point in points:
      for program in ("prefill", "decode", "train"):
        name = f"{axis} {point[axis]}, {program}, {BYTES}"
        yield name, point[program]["temporary"]


BENCHMARKS = {
  "environment": Benchmark(["--repeats", "9"], [], _environment, "pgx"),
  "sampler": Benchmark(
    [*_SFT, "--model", "base", "--batch-sizes", "64", "--repeats", "3"],
    [*_SFT, "--model", "base", "--contexts", "board", "full", "truncated"],
    _sampler,
  ),
  "games": Benchmark(
    ["--games", "tic_tac_toe", "--rules", "20", "--batch-sizes", "64"],
    [],
    _games,
  ),
  "grpo": Benchmark(["--no-peer"], [], _grpo),
  "packing": Benchmark([*_SFT, "--repeats", "3"], _SFT, _packing),
  "scaling": Benchmark(["--repeats", "1", "--points", "2"], [], _scaling),
}


def product_seconds() -> float:
  """Returns the median seconds of a product, in a process that ends with it.

  It gives the device back to the benchmark.
  """
  spawn = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return statistics.median(pool.submit(record.product_seconds).result())


def measure(name: str, flags: list[str]) -> dict[str, float]:
  """Runs a benchmark in a process of its own; returns its measures by name."""
  with tempfile.TemporaryDirectory() as directory:
    output = pathlib.Path(directory) / "results.json"
    command = [sys.executable, str(HERE / f"{name}.py"), *flags]
    before = product_seconds()
    subprocess.run([*command, "--output", str(output)], check=True)
    product = (before + product_seconds()) / 2
    results = json.loads(output.read_text())
  return {
    f"{name}: {what}": float(f"{value:.4g}")
    for what, value in BENCHMARKS[name].measures(results, product)
  }


def worse(then: dict[str, float], now: dict[str, float]) -> list[str]:
  """Returns a line for each measure that is worse than it was, or missing."""
  benchmarks = {name.partition(":")[0] for name in now}
  lines = [
    f"{name}: in the baseline, and not measured"
    for name in then.keys() - now.keys()
    if name.partition(":")[0] in benchmarks
  ]
  for name in then.keys() & now.keys():
    change = now[name] / then[name] - 1
    if name.endswith(BYTES):
      is_worse, verdict = change > LARGER, "larger"
    else:
      is_worse, verdict = change < -SLOWER, "slower"
    if is_worse:
      lines.append(f"{name}: {abs(change):.1%} {verdict} than in the baseline")
  return sorted(lines)


def main() -> None:
  """Runs, prints, writes and compares."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/all.py --baseline benchmarks/results/baseline_cpu.json",
  )
  parser.add_argument(
    "--benchmarks", nargs="+", choices=BENCHMARKS, default=[*BENCHMARKS]
  )
  parser.add_argument("--size", choices=("small", "full"), default="small")
  parser.add_argument(
    "--flags",
    default="",
    help="more flags of all benchmarks, as in --flags='--repeats 1'",
  )
  parser.add_argument(
    "--baseline", type=pathlib.Path, help="results to compare with"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  then = {}
  if flags.baseline:
    baseline = json.loads(flags.baseline.read_text())
    if baseline["size"] != flags.size:
      raise errors.UserError(
        f"{flags.baseline}: is of the size {baseline['size']}, and this run is"
        f" {flags.size}; set --size {baseline['size']}"
      )
    then = baseline["measures"]
  now: dict[str, float] = {}
  for name in flags.benchmarks:
    benchmark = BENCHMARKS[name]
    if importlib.util.find_spec(benchmark.package) is None:
      print(f"{name}: left out, since {benchmark.package} is not installed")
      continue
    now |= measure(
      name, [*getattr(benchmark, flags.size), *flags.flags.split()]
    )
  for name, value in now.items():
    compared = f"  {value / then[name]:.2f} times" if name in then else ""
    print(f"{name:48} {value:12.5g}{compared}")
  record.write(flags.output, {"size": flags.size, "measures": now})
  if lines := worse(then, now):
    print("\n".join(lines))
    sys.exit(1)


if __name__ == "__main__":
  cli.run(main)
