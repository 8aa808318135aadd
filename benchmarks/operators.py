"""Profiles a training step and whole games by kind of operator.

XLA's own profile of a CPU, by the name that JAX gave an operator: a product of matrices,
or what is computed number by number, in which part of the model. Operators may overlap,
so that their sum can be more than the time of a call. Products are compared with the
fastest of a plain one in the same process.
"""

import argparse
import collections
from collections.abc import Callable
import pathlib
import statistics
import tempfile
import time
from typing import Any, NamedTuple

import jax
import packing
import record
import sampler

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import model_player
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import sft

# Parts of a model by what occurs in the names of their operators, in this order.
_PARTS = {
  "einsum": "projections",
  "attention": "attention",
  "feed_forward": "feed-forward layers",
  "rms_norm": "norms",
  "embedder": "embedding and head",
}


class Program(NamedTuple):
  """A compiled program to profile.

  Attributes:
    call: Runs it, to the end.
    text: Its operators, with the names that JAX gave them.
    gflop: Billions of operations of a call, as XLA counts them, products or not;
      None for a program with loops, whose bodies XLA counts once.
  """

  call: Callable[[], Any]
  text: str
  gflop: float | None


def step(config: config_lib.SFTConfig, run: str) -> Program:
  """Returns an optimizer step of SFT."""
  plan = sft.plan(config)
  steps = packing.Steps(plan, is_packed=False, num_steps=1, run=run)
  compiled = steps.lower().compile()
  costs: Any = compiled.cost_analysis()
  return Program(steps.seconds, compiled.as_text() or "", costs["flops"] / 1e9)


def games(config: config_lib.SFTConfig, model: str, batch_size: int) -> Program:
  """Returns whole games of a model."""
  player = model_player.Player(
    reference_log_probs.load(model, config), config, sampler.ENV
  )
  keys = jax.random.split(jax.random.key(1), batch_size)
  play = jax.jit(lambda states: player(keys, states))
  states = sampler.start(batch_size)
  text = play.lower(states).compile().as_text()
  return Program(lambda: jax.block_until_ready(play(states)), text or "", None)


def kind(name: str) -> str:
  """Returns the part of the model and the kind of an operator."""
  if name.startswith("jit(update)") and "jvp" not in name:
    part = "optimizer"
  else:
    part = next((p for word, p in _PARTS.items() if word in name), "all else")
  return f"{part}, {'products' if 'dot_general' in name else 'other'}"


def profile(program: Program, repeats: int) -> dict[str, Any]:
  """Returns the milliseconds of a call, and of its kinds of operators."""
  program.call()
  seconds = []
  for _ in range(repeats):
    started = time.perf_counter()
    program.call()
    seconds.append(time.perf_counter() - started)
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory):
      for _ in range(repeats):
        program.call()
    (path,) = pathlib.Path(directory).rglob("*.xplane.pb")
    data: Any = jax.profiler.ProfileData.from_file(str(path))
  kinds: collections.Counter[str] = collections.Counter()
  numbers: collections.Counter[str] = collections.Counter()
  names = operator_names(program.text)
  for event in (
    e for p in data.planes for line in p.lines for e in line.events
  ):
    operator = dict(event.stats).get("hlo_op")
    if operator is not None:
      name = kind(names.get(operator, ""))
      kinds[name] += event.duration_ns
      numbers[name] += 1
  products = sum(ns for name, ns in kinds.items() if "products" in name)
  result = {
    "ms": round(1e3 * statistics.median(seconds), 2),
    "kinds": [
      {
        "kind": name,
        "ms": round(ns / repeats / 1e6, 2),
        "operators": round(numbers[name] / repeats),
      }
      for name, ns in kinds.most_common()
    ],
  }
  if program.gflop is not None:
    speed = program.gflop / (products / repeats / 1e9)
    result |= {
      "gflop": round(program.gflop, 2),
      "products_gflop_per_second": round(speed),
    }
  return result


def operator_names(text: str) -> dict[str, str]:
  """Returns the names that JAX gave the operators of a program."""
  names = {}
  for line in text.splitlines():
    operator, is_one, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if is_one:
      names[operator.removeprefix("%")] = rest.partition('op_name="')[
        2
      ].partition('"')[0]
  return names


def main() -> None:
  """Profiles, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/operators.py --config configs/sft_tiny.yaml --model"
    " RUN/checkpoint-final",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  cli.add_config(parser)
  parser.add_argument(
    "--model", default="base", help="that plays: a model directory, or `base`"
  )
  parser.add_argument("--batch-size", type=cli.positive, default=64)
  parser.add_argument("--repeats", type=cli.positive, default=20)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  config = config_lib.load(config_lib.SFTConfig, flags.config, flags.set)
  # Of a product.
  gflop = 2 * record.EDGE**3 / 1e9
  results: dict[str, Any] = {
    "product_gflop_per_second": round(gflop / min(record.product_seconds()))
  }
  with tempfile.TemporaryDirectory() as run:
    results["SFT step"] = profile(step(config, run), flags.repeats)
  program = games(config, flags.model, flags.batch_size)
  results["games"] = profile(program, flags.repeats)
  for name in ("SFT step", "games"):
    for row in results[name]["kinds"]:
      print(name, *(f"{key} {value}" for key, value in row.items()), sep="  ")
    totals = (f"{k} {v}" for k, v in results[name].items() if k != "kinds")
    print(name, *totals, sep="  ", flush=True)
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
