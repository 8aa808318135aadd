"""The memory that a dry run tells, beside what XLA says of compiled steps."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

from tunix_ttt.algorithms import losses
from tunix_ttt.models import memory
from tunix_ttt.models.families import remat as remat_lib
from tunix_ttt.models.families import specs


def compiled_bytes(spec, rows, length, remat, adapted) -> int:
  """Returns the bytes of a supervised step's temporary values."""

  def build():
    module = spec.build()
    if not adapted:
      return module
    return specs.apply_lora(
      module, rank=8, alpha=16.0, target_modules="all-linear", seed=0
    )

  module = nnx.eval_shape(build)
  remat_lib.use(module, remat)
  kind = nnx.LoRAParam if adapted else nnx.Param
  graph, trained, frozen = nnx.split(module, kind, ...)

  def step(trained: Any, frozen: Any, batch: Any) -> Any:
    def loss(model):
      return losses.supervised_loss(model, **losses.model_inputs(batch))[0]

    model = nnx.merge(graph, trained, frozen)
    gradient = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, kind))
    value, gradients = gradient(model)
    # As in a step, no gradient is used before all are there.
    norm = optax.global_norm(gradients)
    return value, jax.tree.map(lambda leaf: leaf / norm, gradients)

  shape = (rows, length)
  batch = {
    "input_tokens": jax.ShapeDtypeStruct(shape, jnp.int32),
    "input_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    "places": jax.ShapeDtypeStruct((rows, length - 1), jnp.int32),
    "denominator": jax.ShapeDtypeStruct((), jnp.float32),
  }
  lowered = jax.jit(step).lower(trained, frozen, batch)
  options = remat_lib.compiler_options(module)
  analysis: Any = lowered.compile(compiler_options=options).memory_analysis()
  return analysis.temp_size_in_bytes


@pytest.mark.parametrize(
  ("family", "remat", "shape", "adapted"),
  [
    ("qwen2.5", "none", (8, 256), True),
    ("gemma2", "block", (8, 256), True),
    *(
      pytest.param(*each, marks=pytest.mark.slow)
      for each in (
        ("qwen2.5", "none", (8, 256), False),
        ("qwen2.5", "block", (2, 1024), True),
        ("qwen2.5", "decoder", (8, 256), True),
        ("gemma2", "none", (2, 1024), True),
      )
    ),
  ],
)
def test_activations_and_logits(family, remat, shape, adapted):
  spec = specs.ModelSpec(
    family=family,
    vocab_size=4096,
    num_layers=4,
    embed_dim=256,
    hidden_dim=1024,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    sliding_window=128 if family == "gemma2" else None,
  )
  rows, length = shape
  found = compiled_bytes(spec, rows, length, remat, adapted)
  estimate = memory.activations(spec, rows, length, remat)
  estimate += memory.logits(spec, rows, length)
  # Versions of XLA differ by as much; too high does less harm than too low.
  assert 0.65 < estimate / found < 2


SIZES: Any = {
  "num_layers": 3,
  "embed_dim": 8,
  "hidden_dim": 8,
  "num_heads": 2,
  "num_kv_heads": 1,
  "head_dim": 4,
}


def test_a_cache_holds_keys_and_values_of_every_layer():
  spec = specs.ModelSpec(family="qwen2.5", vocab_size=10, **SIZES)
  # Keys and values of 3 layers and 4 numbers are 96 bytes a slot; a layer's
  # own numbers of a token are 6 * 8 + (4 + 2) * 4 + 4 * 8 = 104, and 2 * 2
  # scores for each of the slots.
  assert memory.sampling(spec, 5, 7) == 5 * 7 * (96 + 4 * (104 + 4 * 7))


def test_what_is_not_fed_at_once_has_a_cache_alone():
  spec = specs.ModelSpec(family="qwen2.5", vocab_size=10, **SIZES)
  # As above, with 3 tokens fed, which have scores for all 7 slots.
  assert memory.sampling(spec, 5, 7, 3) == 5 * (7 * 96 + 3 * 4 * (104 + 4 * 7))


def test_the_total_is_that_of_the_hungrier_half():
  parts: dict[str, int] = {"weights": 10, "optimizer": 2, "gradients": 1}
  trains = memory.Estimate(**parts, activations=5, logits=1, playing=6)
  assert trains.total == 10 + 2 + 7
  plays = memory.Estimate(**parts, activations=5, logits=1, playing=8)
  assert plays.total == 10 + 2 + 8
  assert "in all" in plays.table()
