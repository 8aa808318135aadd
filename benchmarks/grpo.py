"""A step of GRPO beside TRL's, on the same shapes, in one run.

Both sample 64 completions of 16 tokens, in groups of 8, with a Qwen2 of random
weights in float32, reward them by chance and take one optimizer step. TRL runs
in an environment of its own, which is made on first use; `--no-peer` leaves it
out.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
import venv

from flax import nnx
import jax
import numpy as np
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import run_directory
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import reference_log_probs

BATCH, GROUP, COMPLETION = 64, 8, 16
# The first steps compile, or warm up.
WARMUP = 3
PEER = ("trl==1.16.0", "torch==2.13.0")
PEER_SCRIPT = pathlib.Path(__file__).with_name("trl_peer.py")


def noise(games: trajectory.Trajectory) -> np.ndarray:
  """Rewards answers by chance: those of random weights are noise."""
  draws = np.random.default_rng(games.actions.sum()).normal
  return draws(size=games.turn_mask.shape)


def ours(config: config_lib.GRPOConfig) -> dict[str, list[float]]:
  """Returns what each step took, and the tokens that it sampled."""
  rewards = {"noise": rewards_lib.CustomReward(noise, 1.0)}
  with tempfile.TemporaryDirectory() as directory:
    run = pathlib.Path(directory)
    (run / run_directory.METRICS).touch()
    training = grpo.GRPORun(grpo_plan.plan(config, rewards=rewards), run)
    seconds = []
    for step in range(config.training.max_steps):
      began = time.perf_counter()
      training.step(step)
      seconds.append(time.perf_counter() - began)
    training.recorder.close()
    rows = run_directory.read_metrics(run)
  names = ("seconds_sampling", "seconds_training", "tokens_per_turn")
  return {"seconds": seconds, **{n: [row[n] for row in rows] for n in names}}


def peer(python: pathlib.Path, shapes: dict[str, Any]) -> dict[str, Any]:
  """Returns what TRL's side measured."""
  command = [str(python), str(PEER_SCRIPT), json.dumps(shapes)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise errors.UserError(f"TRL failed:\n{done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])


def environment(directory: pathlib.Path) -> pathlib.Path:
  """Returns the Python of an environment with TRL, made on first use."""
  python = directory / "bin" / "python"
  if not python.exists():
    print(f"installing {', '.join(PEER)} into {directory}", file=sys.stderr)
    venv.create(directory, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
  return python


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/grpo.py --output grpo_cpu.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--steps", type=cli.positive, default=20)
  parser.add_argument(
    "--peer", type=pathlib.Path, default=pathlib.Path("artifacts/trl")
  )
  parser.add_argument(
    "--no-peer", action="store_true", help="measure this library alone"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  python = None if flags.no_peer else environment(flags.peer)
  steps = flags.steps + WARMUP
  config = config_lib.load(
    config_lib.GRPOConfig,
    {
      "model": {"name": "tiny-qwen2.5", "num_layers": 3},
      "training": {"max_steps": steps, "batch_size": BATCH},
      "episodes": {"source": "positions"},
      "grpo": {"num_generations": GROUP},
      # A model of random weights would stop at its first token otherwise.
      "rollout": {"constrained": True},
      "play": {"max_new_tokens": COMPLETION},
      "rewards": {"outcome": {"weight": 0.0}},
    },
  )
  model = reference_log_probs.base_model(config)
  params = nnx.state(model.module)
  measured = ours(config)

  def median(values: list[float]) -> float:
    return round(statistics.median(values[WARMUP:]), 4)

  results = {
    "steps": flags.steps,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "completion_tokens": median(measured["tokens_per_turn"]),
    "first_step_seconds": round(measured["seconds"][0], 2),
    "seconds_per_step": median(measured["seconds"]),
    "seconds_sampling": median(measured["seconds_sampling"]),
    "seconds_training": median(measured["seconds_training"]),
  }
  if python is not None:
    shapes = dataclasses.asdict(model.spec) | {
      "batch_size": BATCH,
      "num_generations": GROUP,
      "completion": COMPLETION,
      "steps": steps,
    }
    peer_result = peer(python, shapes)
    other = median(peer_result["seconds"])
    results |= {
      "trl": peer_result["trl"],
      "torch": peer_result["torch"],
      "torch_threads": peer_result["threads"],
      "peer_first_step_seconds": round(peer_result["seconds"][0], 2),
      "peer_seconds_per_step": other,
      "ratio": round(other / results["seconds_per_step"], 2),
    }
  for name, value in results.items():
    print(f"{name:24} {value}")
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
