"""Describes a machine: its devices, their speed, what fits, and what to set."""

from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import shutil
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt import requirements
from tunix_ttt.models import memory
from tunix_ttt.models import model_policy
from tunix_ttt.models import sources
from tunix_ttt.models import speeds
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest

MODELS = (
  "Qwen/Qwen2.5-0.5B-Instruct",
  "Qwen/Qwen2.5-1.5B-Instruct",
  "Qwen/Qwen2.5-7B-Instruct",
)
# Tokens of a prompt and of an answer, turns of a game, and steps of a run.
PROMPT, ANSWER, TURNS, STEPS = 200, 64, 4, 100
_BATCHES = (256, 128, 64, 32, 16, 8)
_REPEATS = 5
_GIB = 2**30


class Fit(NamedTuple):
  """GRPO with adapters of rank 16 on a model.

  Attributes:
    model: Name of the model.
    parameters: Number of its parameters.
    games: Games of a step, the most of those tried whose memory is there; 0 if
      none is.
    bytes: Estimated memory of the device with so many games, or the fewest.
    seconds: Seconds of a step at the machine's ceilings; see `step_seconds`.
  """

  model: str
  parameters: int
  games: int
  bytes: int
  seconds: float


def step_seconds(parameters: int, games: int, limits: speeds.Ceilings) -> float:
  """Returns the seconds of a step of GRPO at a machine's ceilings.

  Each of the `ANSWER` tokens of a turn reads the weights once, 2 bytes a parameter, and
  takes 2 operations a parameter and game; so do the tokens of a prompt. Training takes
  6 a token and parameter: a pass, its repetition, and one for the gradients. What all
  prompts begin with is counted each time, though it is read once.
  """
  flops = 2 * parameters * games / limits.flops_per_second
  answer = ANSWER * max(2 * parameters / limits.bytes_per_second, flops)
  return TURNS * (answer + PROMPT * flops + 3 * (PROMPT + ANSWER) * flops)


def fit(name: str, available: int, limits: speeds.Ceilings) -> Fit:
  """Returns how many games a step fit in memory, and how long steps take."""
  spec = specs.published(name, "bfloat16")
  assert spec is not None
  config = config_lib.load(
    config_lib.GRPOConfig,
    {
      "model": {"name": name, "dtype": "bfloat16", "remat": "decoder"},
      "lora": {"rank": 16},
      "play": {"max_new_tokens": ANSWER, "max_turns": TURNS},
    },
  )
  module = nnx.eval_shape(spec.build)
  outline = sources.Outline(module=module, spec=spec, tokenizer=None)
  outline = sources.adapt(outline, config.lora, name)
  needed = games = 0
  for games in _BATCHES:
    training = dataclasses.replace(config.training, batch_size=games)
    run = dataclasses.replace(config, training=training)
    shape = memory.shape_of_games(run, PROMPT)
    (estimate,) = memory.of_run(outline, run, *shape).values()
    needed = estimate.total
    if needed <= available:
      break
  else:
    games = 0
  leaves = specs.parameters(outline.module).values()
  count = sum(leaf.size for leaf in leaves)
  seconds = step_seconds(count, games or _BATCHES[-1], limits)
  return Fit(name, count, games, needed, seconds)


def decode_seconds() -> float:
  """Returns the seconds of a token that a small model says in 64 rows."""
  spec = specs.ModelSpec(
    family="qwen2.5",
    vocab_size=4096,
    num_layers=4,
    embed_dim=256,
    hidden_dim=1024,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
  )
  policy = model_policy.ModelPolicy(speeds.random_model(spec), spec)
  rows, steps = 64, 32

  @jax.jit
  def decode(params: Any) -> jax.Array:
    start = policy_lib.grow(policy, policy_lib.empty(policy, rows), steps)
    tokens = jnp.ones((rows, 1), jnp.int32)
    feed = functools.partial(policy_lib.feed, policy, params)

    def step(_: jax.Array, carry: Any) -> Any:
      seen, tokens = carry
      seen, logits = feed(seen, tokens, tokens > -1)
      return seen, logits.argmax(axis=-1)[:, None].astype(tokens.dtype)

    return jax.lax.fori_loop(0, steps, step, (start, tokens))[1]

  return speeds.seconds(lambda: decode(policy.params), _REPEATS) / steps


def advice() -> Iterator[str]:
  """Yields what to install or set on this machine."""
  devices = jax.devices()
  has_gpu = (
    shutil.which("nvidia-smi") or pathlib.Path("/proc/driver/nvidia").exists()
  )
  if devices[0].platform == "cpu" and has_gpu:
    yield (
      "there is an NVIDIA GPU that JAX does not see; run: pip install"
      " 'tunix_ttt[cuda12]'"
    )
  elif devices[0].platform == "cpu":
    yield (
      "no GPU: tiny models train in minutes (make demo); for real ones see"
      " docs/how_to/tinker.md"
    )
  else:
    yield (
      "JAX takes three quarters of a GPU's memory at its start;"
      " XLA_PYTHON_CLIENT_PREALLOCATE=false if other programs need it"
    )
  if len(devices) > 1:
    yield (
      f"{len(devices)} devices: mesh.fsdp=auto takes all; see"
      " docs/how_to/several_gpus.md"
    )
  free = shutil.disk_usage(pathlib.Path.home()).free
  if free < 20 * _GIB:
    yield (
      f"{free / _GIB:.0f} GiB of disk are free; weights of 7B take 15, so set"
      " HF_HOME to a larger disk"
    )


def report() -> Iterator[str]:
  """Yields the lines of the description; measures speeds first."""
  devices, available = jax.devices(), requirements.device_memory()
  names = ", ".join(f"{k} {v}" for k, v in run_manifest.versions().items())
  yield f"versions  {names}"
  yield (
    f"devices   {len(devices)} x {devices[0].device_kind} ({devices[0].platform}),"
    f" {available / _GIB:.1f} GiB each"
  )
  with progress.stage("measuring"):
    limits, token = speeds.ceilings(_REPEATS), decode_seconds()
  yield (
    f"ceilings  {limits.flops_per_second / 1e12:.2f} TFLOP/s of bfloat16 products,"
    f" {limits.bytes_per_second / 1e9:.0f} GB/s of memory"
  )
  yield f"decoding  {1e3 * token:.2f} ms a token of 64 rows, a model of 5 million"
  yield ""
  yield (
    f"GRPO with adapters of rank 16 on one device, {STEPS} steps, estimated at the"
    " ceilings:"
  )
  yield f"{'model':28} {'games a step':>12} {'memory':>10} {'time':>12}"
  for name in MODELS:
    each = fit(name, available, limits)
    games = f"{each.games}" if each.games else "none fit"
    minutes = STEPS * each.seconds / 60
    time = f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.0f} h"
    size = f"{each.bytes / _GIB:.1f} GiB"
    yield f"{name:28} {games:>12} {size:>10} {time if each.games else '':>12}"
  yield ""
  yield from (f"- {text}" for text in advice())
