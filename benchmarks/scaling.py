"""Cost of sampling and training as one size of the work grows at a time.

Games of a small model of random weights are sampled, and the model is trained
on what it said, at points that differ from a base in one thing. A move on a
taken cell is played on the next free one, so that games last.

Speeds are measured; operations, bytes and memory are XLA's own analysis of the
compiled programs, of each device. What devices send one another is read off
the programs, and its share of the time estimated for the GPU that the flags
describe.
"""

import argparse
from collections.abc import Callable
import dataclasses
import itertools
import pathlib
import statistics
import sys
import time
from typing import Any
from unittest import mock

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import programs
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models import sources
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory
from tunix_ttt.text import tokenizers
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import trainer as trainer_lib

MESHES: dict[str, config_lib.MeshConfig] = {
  "one": config_lib.MeshConfig(),
  "fsdp": config_lib.MeshConfig(fsdp=2),
  "tp": config_lib.MeshConfig(tp=2),
}
CHUNK = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """The workload: a model, its games and its batches.

  Attributes:
    games: Number of games, and rows of a training step.
    turns: Turns of a game, each of which sees all turns before it.
    new_tokens: Tokens of a turn.
    embed_dim: Width of a model of two layers, by which all else grows.
    mesh: A key of `MESHES`.
  """

  games: int = 32
  turns: int = 3
  new_tokens: int = 32
  embed_dim: int = 96
  mesh: str = "one"


AXES: dict[str, tuple[Any, ...]] = {
  "games": (8, 16, 32, 64),
  "turns": (1, 2, 3, 5),
  "new_tokens": (8, 16, 32, 64),
  "embed_dim": (48, 96, 192, 384),
  "mesh": tuple(MESHES),
}


class Lenient(env_lib.TicTacToe):
  """Plays the next free cell in place of one that is taken."""

  def step(self, state: env_lib.State, action: jax.Array | int) -> Any:
    """See the parent."""
    legal = self.legal(state)
    distance = (jnp.arange(len(legal)) - action) % len(legal)
    cell = jnp.where(legal, distance, len(legal)).argmin()
    return super().step(state, cell)


def settings(point: Point) -> config_lib.GRPOConfig:
  """Returns the config of a point."""
  heads = point.embed_dim // 16
  return config_lib.load(
    config_lib.GRPOConfig,
    {
      "model": {
        "num_layers": 2,
        "embed_dim": point.embed_dim,
        "hidden_dim": 8 * point.embed_dim // 3,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": 16,
      },
      "play": {
        "context": "full",
        "max_turns": point.turns,
        "max_new_tokens": point.new_tokens,
      },
      # A model of random weights says nothing readable otherwise.
      "rollout": {"constrained": True},
      "mesh": dataclasses.asdict(MESHES[point.mesh]),
    },
  )


def costs(
  module: nnx.Module,
  spec: specs.ModelSpec,
  trainer: trainer_lib.LeanSteps,
  batch: Any,
  *,
  games: int,
  chunk: int,
) -> dict[str, programs.Cost]:
  """Returns what a chunk, a token and a training step cost.

  Args:
    module: Model on its devices.
    spec: Architecture of the model.
    trainer: Trainer of the model.
    batch: Batch of a step, whose rows are as long as the cache.
    games: Number of games sampled together.
    chunk: Number of tokens read at a time.
  """
  mesh = meshes.of(module)
  count = 1 if mesh is None else mesh.size
  slots = batch["input_tokens"].shape[1]
  policy = policy_lib.ModelPolicy(module, spec)
  lowered = {
    name: programs.read(policy, rows=games, tokens=tokens, slots=slots)
    for name, tokens in (("prefill", chunk), ("decode", 1))
  }
  with meshes.use(mesh):
    lowered["train"] = trainer.lower_train_step(batch)
    return {
      name: programs.cost(program, count) for name, program in lowered.items()
    }


class Work:
  """The measured work of one point.

  Attributes:
    row: Settings and costs, without the speed.
  """

  def __init__(self, point: Point, tokenizer: tokenizers.Tokenizer):
    """Compiles and runs everything once."""
    config = settings(point)
    model = sources.start_from(config.model, lambda: tokenizer, config.seed)
    module, self._mesh = model.module, meshes.make(config.mesh)
    meshes.place(module, self._mesh)
    policy = policy_lib.ModelPolicy(module, model.spec)
    tables = sampler.make_tables(config, tokenizer)
    play_games = sampler.Sampler(
      policy, Lenient(), tables, config.play, config.rollout
    )
    count = point.games
    opponent_seed = jax.random.bits(jax.random.key(0), (count,))
    marks = env_lib.starting_marks("mixed", count)
    states = jax.vmap(Lenient().init)(opponent_seed, marks)
    keys = jax.random.split(jax.random.key(1), count)
    play = jax.jit(lambda params: play_games(params, keys, states))
    program: Any = play.lower(policy.params).compile()
    self._play: Callable[[], Any] = lambda: program(policy.params)
    games = jax.device_get(self._play())
    rows = jax.device_get(
      trajectory.sequences(games, tables, config.play.context)
    )
    longest = int(rows.mask.sum(axis=1).max())
    trainer = programs.trainer(module)
    with meshes.use(self._mesh):
      batch = programs.batch(
        *(a[:, :longest] for a in (rows.tokens, rows.mask, rows.action_mask))
      )
      train = trainer.create_train_step_fn()
      self._train: Callable[[], Any] = lambda: train(batch)
      jax.block_until_ready(self._train())
    measured = costs(
      module, model.spec, trainer, batch, games=count, chunk=min(CHUNK, longest)
    )
    self._sampled, self._trained = games.action_mask.sum(), rows.mask.sum()
    self.row: dict[str, Any] = {
      **dataclasses.asdict(point),
      "parameters": sum(v.size for v in specs.parameters(module).values()),
      "length": longest,
      "turns_played": round(float(games.turn_mask.sum() / count), 2),
      "sampling_temporary": program.memory_analysis().temp_size_in_bytes,
      **{name: dataclasses.asdict(cost) for name, cost in measured.items()},
    }

  def seconds(self) -> tuple[float, float]:
    """Samples games and takes a step; returns what each takes."""
    began = time.perf_counter()
    jax.block_until_ready(self._play())
    played = time.perf_counter()
    with meshes.use(self._mesh):
      jax.block_until_ready(self._train())
    return played - began, time.perf_counter() - played

  def measured(self, times: list[tuple[float, float]]) -> dict[str, Any]:
    """Returns the row with medians of what `seconds` has returned."""
    sampling, training = map(statistics.median, zip(*times, strict=True))
    return {
      **self.row,
      "sampling_seconds": round(sampling, 4),
      "sampled_per_second": round(float(self._sampled) / sampling),
      "training_seconds": round(training, 4),
      "trained_per_second": round(float(self._trained) / training),
    }


def published(name: str, num_layers: int) -> list[dict[str, Any]]:
  """Returns what a published model's programs cost; none is run.

  Adapters are trained, on 16 rows; 128 games are sampled. Both are of 320
  tokens. Of loops XLA counts one turn, so logits are computed without one.

  Raises:
    errors.UserError: if Tunix does not know the model.
  """
  spec = specs.published(name, "float32")
  if spec is None:
    raise errors.UserError(f"--model: {name} is not known to Tunix")
  spec = dataclasses.replace(spec, num_layers=num_layers, layer_types=None)
  abstract = nnx.eval_shape(spec.build)
  mask = np.ones((16, 320), bool)
  rows = []
  for mesh, devices in MESHES.items():
    values = {
      path: jnp.zeros(leaf.shape, leaf.dtype)
      for path, leaf in specs.parameters(abstract).items()
    }
    module = specs.apply_lora(
      specs.with_parameters(abstract, values),
      rank=16,
      alpha=32.0,
      target_modules="all-linear",
      seed=0,
    )
    meshes.place(module, meshes.make(devices))
    with meshes.use(meshes.of(module)):
      batch = programs.batch(mask.astype(np.int32), mask, mask)
    trainer = programs.trainer(module)
    with mock.patch.object(token_log_probs, "MAX_LOGITS", sys.maxsize):
      measured = costs(module, spec, trainer, batch, games=128, chunk=256)
    rows.append(
      {
        "model": name,
        "num_layers": num_layers,
        "mesh": mesh,
        **{
          program: dataclasses.asdict(cost)
          for program, cost in measured.items()
        },
      }
    )
  return rows


def print_axis(axis: str, rows: list[dict[str, Any]]) -> None:
  """Prints how the points of an axis differ, as a Markdown table."""
  mib = 2**20
  print(
    f"\n| `{axis}` | parameters | length | sampled/s | trained/s | sampling,"
    " MiB | step, MiB | token, MFLOP | token, MB | step, GFLOP | step, GB |"
  )
  print(f"|---{'|---:' * 10}|")
  for row in rows:
    decode, train = row["decode"], row["train"]
    cells = (
      row[axis],
      f"{row['parameters']:,}",
      row["length"],
      f"{row['sampled_per_second']:,}",
      f"{row['trained_per_second']:,}",
      f"{row['sampling_temporary'] / mib:.1f}",
      f"{train['temporary'] / mib:.0f}",
      f"{decode['flops'] / 1e6:.1f}",
      f"{decode['accessed'] / 1e6:.0f}",
      f"{train['flops'] / 1e9:.1f}",
      f"{train['accessed'] / 1e9:.2f}",
    )
    print(f"| {' | '.join(map(str, cells))} |")


def print_communication(
  rows: list[dict[str, Any]], device: programs.Device
) -> None:
  """Prints what devices send one another, as a Markdown table."""
  print(
    "\n| model | mesh | program | GFLOP | GB | MB from others | estimated share"
    " of the time |"
  )
  print(f"|---|---|---{'|---:' * 4}|")
  for row in rows:
    for program in ("prefill", "decode", "train"):
      cost = programs.Cost(**row[program])
      cells = (
        row.get("model", f"{row.get('embed_dim')} wide"),
        row["mesh"],
        program,
        f"{cost.flops / 1e9:.2f}",
        f"{cost.accessed / 1e9:.3f}",
        f"{cost.received / 1e6:.2f}",
        f"{cost.share_of_link(device):.1%}",
      )
      print(f"| {' | '.join(cells)} |")


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/scaling.py --output scaling_cpu.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--axes", nargs="+", choices=AXES, default=[*AXES])
  parser.add_argument(
    "--points",
    type=cli.positive,
    help="measure only this many points of each axis, the smallest",
  )
  parser.add_argument("--repeats", type=cli.positive, default=9)
  parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B")
  parser.add_argument("--num-layers", type=cli.positive, default=4)
  # An H100: bfloat16, its own memory, NVLink one way.
  parser.add_argument("--flops", type=float, default=989e12)
  parser.add_argument("--memory", type=float, default=3.35e12)
  parser.add_argument("--link", type=float, default=450e9)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  # Where there are no accelerators.
  jax.config.update("jax_num_cpu_devices", 2)
  device = programs.Device(
    flops=flags.flops, memory=flags.memory, link=flags.link
  )
  tokenizer = reference_log_probs.tokenizer_maker(settings(Point()))()
  points = {
    axis: [Point(**{axis: value}) for value in AXES[axis][: flags.points]]
    for axis in flags.axes
  }
  work = {
    point: Work(point, tokenizer)
    for point in dict.fromkeys(itertools.chain(*points.values()))
  }
  times: dict[Point, list[tuple[float, float]]] = {point: [] for point in work}
  # In turn, so that a change in the machine's speed meets all.
  for point in [*work] * flags.repeats:
    times[point].append(work[point].seconds())
  axes = {
    axis: [work[point].measured(times[point]) for point in along]
    for axis, along in points.items()
  }
  for axis, rows in axes.items():
    print_axis(axis, rows)
  models = []
  if "mesh" in axes:
    models = published(flags.model, flags.num_layers)
    print(f"\nassumed of each device: {device}")
    print_communication([*axes["mesh"], *models], device)
  results = {
    "assumed": dataclasses.asdict(device),
    "axes": axes,
    "published": models,
  }
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
