"""Costs of compiled programs by XLA's analysis, and traffic between devices.

Figures are of one device. XLA counts the body of a loop once, so that they mean
something of programs without loops alone: reading a chunk, a token, a step.
"""

import dataclasses
import math
import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import peft_trainer
from tunix.sft import sharding_utils

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import losses
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.train import optimizers
from tunix_ttt.train import trainer as trainer_lib

# What comes in of a result, as a share of its size, of n devices in a ring.
_RECEIVED = {
  "all-gather": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "reduce-scatter": lambda n: n - 1,
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1,
}
# What is asynchronous has its result at its end.
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_RECEIVED)})(?:-done)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
  """Device properties that an estimate assumes.

  Attributes:
    flops: Operations per second.
    memory: Bytes per second from its own memory.
    link: Bytes per second from the other devices.
  """

  flops: float
  memory: float
  link: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """The cost of a program on one device.

  Attributes:
    flops: Number of operations.
    accessed: Bytes read and written.
    received: Bytes from other devices.
    held: Bytes of its arguments.
    temporary: Bytes of all other buffers.
  """

  flops: float
  accessed: float
  received: float
  held: int
  temporary: int

  def share_of_link(self, device: Device) -> float:
    """Estimates which part of the time is communication, if none overlaps."""
    link = self.received / device.link
    local = max(self.flops / device.flops, self.accessed / device.memory)
    return link / (link + local)


def received(program: str, num_devices: int) -> float:
  """Returns the bytes that a device is sent.

  Args:
    program: Text of a compiled program.
    num_devices: Number of devices that run it; all take part in each collective.
  """
  total = 0.0
  for results, kind in _COLLECTIVE.findall(program):
    for dtype, bits, shape in _ARRAY.findall(results):
      sizes = [int(size) for size in shape.split(",") if size]
      size = 1 if dtype == "pred" else int(bits) / 8
      total += math.prod(sizes) * size * _RECEIVED[kind](num_devices)
  return total


def cost(lowered: jax.stages.Lowered, num_devices: int) -> Cost:
  """Compiles a program and returns what it costs; see `received`."""
  program: Any = lowered.compile()
  analysis, memory = program.cost_analysis(), program.memory_analysis()
  return Cost(
    flops=analysis.get("flops", 0.0),
    accessed=analysis.get("bytes accessed", 0.0),
    received=received(program.as_text(), num_devices),
    held=memory.argument_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
  )


def read(
  policy: policy_lib.ModelPolicy,
  *,
  rows: int,
  tokens: int,
  slots: int,
) -> jax.stages.Lowered:
  """Returns what the sampler does with a chunk: reads it, up to logits.

  Args:
    policy: Model.
    rows: Number of games.
    tokens: Tokens of the chunk; a single token is a step of decoding.
    slots: Slots of the cache.
  """

  @jax.jit
  def empty() -> Any:
    return policy.grow_cache(policy.init_cache(rows, 0), slots)

  # A policy is not hashable, nor are its methods.
  @jax.jit
  def feed(*inputs: Any) -> Any:
    return policy(*inputs)

  return feed.lower(
    policy.params,
    jnp.zeros((rows, tokens), jnp.int32),
    jnp.zeros((rows, tokens), jnp.int32),
    empty(),
    jnp.int32(0),
    jnp.ones((rows, tokens, slots), bool),
    jnp.zeros(rows, jnp.int32),
  )


def trainer(module: nnx.Module) -> trainer_lib.LeanSteps:
  """Returns a trainer of supervised steps."""
  result = trainer_lib.LeanSteps(
    module,
    optimizers.make(config_lib.TrainingConfig()),
    peft_trainer.TrainingConfig(eval_every_n_steps=1),
  )
  result.with_gen_model_input_fn(losses.model_inputs)
  result.with_loss_fn(losses.supervised_loss, has_aux=True)
  return result


def batch(tokens: Any, mask: Any, trained: Any) -> Any:
  """Returns what a supervised step takes, on the devices of `meshes.use`.

  All are [B, L]; `trained` is the mask of the tokens to predict.
  """
  made: Any = {
    "input_tokens": tokens,
    "input_mask": mask,
    "places": np.where(trained, np.arange(trained.shape[1]), 0),
    "denominator": np.float32(trained.sum()),
  }
  return sharding_utils.shard_input(made, (meshes.FSDP,))
