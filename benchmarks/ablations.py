"""Compares this library's ways of computing with those of Tunix and JAX, one by one.

A decode step, the drawing of a token and a training step of a tiny model with random
weights are timed with one thing at a time done as Tunix or JAX does it; the variants
of a size take turns. A ratio above 1 is gained by doing it otherwise. Transposing a
cache around Tunix's attention gives the cache the same order without attention of
one's own.
"""

from collections.abc import Callable
import pathlib
import statistics
import time
from typing import Any
from unittest import mock

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import programs
import record
import sampler as sampler_benchmark

from tunix_ttt import cli
from tunix_ttt.models import model_policy
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling
from tunix_ttt.train import products

# Rows, and slots of the cache.
DECODE = ((32, 34), (64, 54), (64, 234), (256, 34))
# Rows, and tokens of each.
TRAIN = ((64, 28), (64, 123))
_STEPS, _VOCAB_SIZE = 12, 512

Run = Callable[[], Any]


class _TunixPolicy(model_policy.ModelPolicy):
  """A model with Tunix's attention and cache, [B, S, K, H]."""

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    cache = super().init_cache(batch_size, num_slots)
    return {
      name: dict(zip("kv", map(_swap, layer.values()), strict=True))
      for name, layer in cache.items()
    }


class _TransposingPolicy(_TunixPolicy):
  """The same with a cache [B, K, S, H], transposed around each call."""

  def init_cache(self, batch_size: int, num_slots: int) -> Any:
    return jax.tree.map(_swap, super().init_cache(batch_size, num_slots))

  def __call__(
    self, params: Any, tokens: Any, positions: Any, cache: Any, *rest: Any
  ) -> Any:
    cache = jax.tree.map(_swap, cache)
    logits, cache = super().__call__(params, tokens, positions, cache, *rest)
    return logits, jax.tree.map(_swap, cache)


def _swap(leaf: jax.Array) -> jax.Array:
  return jnp.swapaxes(leaf, 1, 2)


def make_model() -> tuple[Any, specs.ModelSpec]:
  """Returns a tiny Qwen 2.5 with random weights."""
  shape = specs.TINY_MODELS["tiny-qwen2.5"]
  spec = specs.ModelSpec(**shape, vocab_size=_VOCAB_SIZE)
  return specs.initialize(spec, 0), spec


def decode_runs(rows: int, slots: int) -> dict[str, Run]:
  """Returns functions that decode tokens after a prompt, greedily."""
  module, spec = make_model()
  tunix = sampler_benchmark.with_tunix_attention(module)
  length = slots - _STEPS

  def run(policy: policy_lib.Policy, params: Any) -> Any:
    # Nothing is read: the cache's contents don't matter to its speed.
    cache = policy.init_cache(rows, slots)
    mask = jnp.arange(slots) <= length

    def step(number: Any, carry: Any) -> Any:
      tokens, cache = carry
      end = length + number
      logits, cache = policy(
        params,
        tokens,
        jnp.full((rows, 1), end),
        cache,
        end,
        jnp.broadcast_to(mask | (jnp.arange(slots) <= end), (rows, 1, slots)),
        jnp.zeros(rows, jnp.int32),
      )
      return logits.argmax(axis=-1)[:, None], cache

    first = jnp.zeros((rows, 1), jnp.int32)
    return jax.lax.fori_loop(0, _STEPS, step, (first, cache))[0]

  policies = {
    "with": model_policy.ModelPolicy(module, spec),
    "Tunix's attention": _TunixPolicy(tunix, spec),
    "Tunix's attention, transposed cache": _TransposingPolicy(tunix, spec),
  }
  return {name: jitted(run, policy) for name, policy in policies.items()}


def jitted(run: Callable[..., Any], policy: Any) -> Run:
  """Returns a compiled function of a policy, called with its parameters."""
  compiled = jax.jit(lambda params: run(policy, params))
  return lambda: compiled(policy.params)


def draw_runs(rows: int) -> dict[str, Run]:
  """Returns functions that draw a token of each row."""
  logits = jax.random.normal(jax.random.key(0), (rows, _VOCAB_SIZE))
  keys = jax.random.split(jax.random.key(1), rows)
  settings = sampling.Sampling()
  by_one_number = jax.jit(
    lambda keys, logits: sampling.sample(keys, logits, settings)[0]
  )
  categorical = jax.jit(jax.vmap(jax.random.categorical))
  return {
    "with": lambda: by_one_number(keys, logits),
    "jax.random.categorical": lambda: categorical(keys, logits),
  }


def train_runs(rows: int, length: int) -> dict[str, Run]:
  """Returns functions that take a step of supervised training."""
  module, _ = make_model()
  mask = np.ones((rows, length), bool)
  tokens = np.random.default_rng(0).integers(0, _VOCAB_SIZE, mask.shape)
  batch = programs.batch(tokens.astype(np.int32), mask, mask)

  def step(module: nnx.Module) -> Run:
    train = programs.trainer(module).create_train_step_fn()
    # Compiled here, within what is patched.
    train(batch)
    return lambda: train(batch)

  with mock.patch.object(products, "use"):
    plain = step(nnx.clone(module))
  return {
    "with": step(nnx.clone(module)),
    "JAX's derivatives of feed-forward layers": plain,
  }


def measure(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
  """Returns the seconds of each function, called in turn."""
  for run in runs.values():
    jax.block_until_ready(run())
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      started = time.perf_counter()
      jax.block_until_ready(run())
      seconds[name].append(time.perf_counter() - started)
  return seconds


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(__doc__ or "", "python benchmarks/ablations.py")
  parser.add_argument("--repeats", type=cli.positive, default=30)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  sizes: list[tuple[str, Callable[[], dict[str, Run]]]] = [
    *(
      (f"decode {rows} x {slots}", lambda a=rows, b=slots: decode_runs(a, b))
      for rows, slots in DECODE
    ),
    *((f"draw {rows}", lambda a=rows: draw_runs(a)) for rows in (32, 256)),
    *(
      (f"train {rows} x {length}", lambda a=rows, b=length: train_runs(a, b))
      for rows, length in TRAIN
    ),
  ]
  rows = []
  for size, make in sizes:
    seconds = measure(make(), flags.repeats)
    shipped = seconds.pop("with")
    for name, other in seconds.items():
      ratios = [b / a for a, b in zip(shipped, other, strict=True)]
      row = {
        "size": size,
        "without": name,
        "milliseconds": round(statistics.median(shipped) * 1e3, 2),
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
      }
      rows.append(row)
      print("  ".join(f"{key} {value}" for key, value in row.items()))
  record.write(flags.output, {"steps": _STEPS, "rows": rows})


if __name__ == "__main__":
  cli.run(main)
