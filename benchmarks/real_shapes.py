"""Prefill, decoding and training at the shapes of published models.

Weights are random, so nothing is downloaded. Speeds are given beside the
machine's own ceilings, which are measured first: a large copy for the bandwidth
of memory, a large product of matrices for arithmetic.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax
import record

from tunix_ttt import cli
from tunix_ttt import errors
from tunix_ttt.algorithms import losses
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models import speeds
from tunix_ttt.models.families import remat
from tunix_ttt.models.families import specs


def peak_memory() -> int | None:
  """Returns the bytes in use at the worst moment so far, if they are known."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


@dataclasses.dataclass(frozen=True)
class Measured:
  """A phase.

  Attributes:
    tokens_per_second: Throughput of the batch.
    of_ceiling: Share of the machine's ceiling: arithmetic, or bandwidth where
      decoding.
    peak_bytes: Peak memory up to the end of the phase, None if unknown.
  """

  tokens_per_second: float
  of_ceiling: float
  peak_bytes: int | None


def sampling(
  module: nnx.Module,
  spec: specs.ModelSpec,
  flags: argparse.Namespace,
  limits: speeds.Ceilings,
) -> dict[str, Measured]:
  """Measures reading a prompt and speaking, as the rollout does both."""
  policy = policy_lib.ModelPolicy(module, spec)
  rows, length, steps = flags.rows, flags.length, flags.steps
  slots = length + steps
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(policy.params))
  count = sum(leaf.size for leaf in jax.tree.leaves(policy.params))

  def feed(params: Any, cache: Any, end: Any, tokens: Any) -> Any:
    width = tokens.shape[1]
    positions = jnp.broadcast_to(end + jnp.arange(width), tokens.shape)
    seen = jnp.arange(slots) <= end + jnp.arange(width)[:, None]
    mask = jnp.broadcast_to(seen, (rows, width, slots))
    read = jnp.full(rows, width - 1)
    return policy(params, tokens, positions, cache, end, mask, read)

  @jax.jit
  def prefill(params: Any) -> Any:
    tokens = jnp.ones((rows, length), jnp.int32)
    return feed(params, policy.init_cache(rows, slots), jnp.int32(0), tokens)

  @jax.jit
  def decode(params: Any, cache: Any, logits: jax.Array) -> Any:
    def step(number: jax.Array, carry: Any) -> Any:
      cache, logits = carry
      tokens = logits.argmax(axis=-1)[:, None].astype(jnp.int32)
      logits, cache = feed(params, cache, length + number, tokens)
      return cache, logits

    return jax.lax.fori_loop(0, steps, step, (cache, logits))

  took = speeds.seconds(lambda: prefill(policy.params), flags.repeats)
  phases = {
    "prefill": Measured(
      rows * length / took,
      2 * count * rows * length / took / limits.flops_per_second,
      peak_memory(),
    )
  }
  logits, cache = prefill(policy.params)
  took = speeds.seconds(
    lambda: decode(policy.params, cache, logits), flags.repeats
  )
  moved = steps * (size + sum(leaf.nbytes for leaf in jax.tree.leaves(cache)))
  phases["decode"] = Measured(
    rows * steps / took,
    moved / took / limits.bytes_per_second,
    peak_memory(),
  )
  return phases


def training(
  module: nnx.Module, flags: argparse.Namespace, limits: speeds.Ceilings
) -> Measured:
  """Measures supervised steps of an adapter."""
  remat.use(module, flags.remat)
  graph, values, frozen = nnx.split(module, nnx.LoRAParam, ...)
  optimizer = optax.adamw(1e-4)
  moments = optimizer.init(values)
  rows, length = flags.train_rows, flags.train_length

  @functools.partial(jax.jit, compiler_options=remat.compiler_options(module))
  def step(values: Any, moments: Any, frozen: Any) -> Any:
    mask = jnp.ones((rows, length), bool)
    batch = {
      "input_tokens": jnp.ones((rows, length), jnp.int32),
      "input_mask": mask,
      "places": jnp.tile(jnp.arange(1, length), (rows, 1)),
      "denominator": jnp.float32(rows * length),
    }

    def loss(model: nnx.Module) -> jax.Array:
      return losses.supervised_loss(model, **losses.model_inputs(batch))[0]

    model = nnx.merge(graph, values, frozen)
    wanted = nnx.DiffState(0, nnx.LoRAParam)
    gradients = nnx.grad(loss, argnums=wanted)(model)
    updates, moments = optimizer.update(gradients, moments, values)
    return optax.apply_updates(values, updates), moments

  took = speeds.seconds(lambda: step(values, moments, frozen), flags.repeats)
  count = sum(leaf.size for leaf in jax.tree.leaves((values, frozen)))
  # A forward pass and one for the gradients of activations; what is computed
  # again does not count.
  flops = 4 * count * rows * length
  return Measured(
    rows * length / took,
    flops / took / limits.flops_per_second,
    peak_memory(),
  )


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/real_shapes.py --model Qwen/Qwen2.5-7B-Instruct"
    " --output real_shapes.json",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
  parser.add_argument(
    "--num-layers",
    type=cli.positive,
    help="fewer, to try it on a small machine",
  )
  for name, default in (
    ("rows", 128),
    ("length", 320),
    ("steps", 64),
    ("train-rows", 16),
    ("train-length", 512),
    ("rank", 16),
    ("repeats", 5),
  ):
    parser.add_argument(f"--{name}", type=cli.positive, default=default)
  parser.add_argument(
    "--remat", choices=("none", "block", "decoder"), default="block"
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  spec = specs.published(flags.model, "bfloat16")
  if spec is None:
    raise errors.UserError(f"--model: {flags.model} is not known to Tunix")
  if flags.num_layers is not None:
    spec = dataclasses.replace(
      spec, num_layers=flags.num_layers, layer_types=None
    )
  limits = speeds.ceilings(flags.repeats)
  module = speeds.random_model(spec)
  phases = sampling(module, spec, flags, limits)
  adapted = specs.apply_lora(
    module, rank=flags.rank, alpha=32.0, target_modules="all-linear", seed=0
  )
  phases["training"] = training(adapted, flags, limits)
  results = {
    "settings": {
      name: value for name, value in vars(flags).items() if name != "output"
    },
    "parameters": sum(v.size for v in specs.parameters(module).values()),
    "ceilings": limits._asdict(),
    **{name: dataclasses.asdict(phase) for name, phase in phases.items()},
  }
  for name, phase in phases.items():
    peak = f"{phase.peak_bytes / 2**30:.1f} GiB" if phase.peak_bytes else "?"
    print(
      f"{name:9} {phase.tokens_per_second:12,.0f} tokens/s"
      f"  {phase.of_ceiling:6.1%} of the ceiling  peak {peak}"
    )
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
