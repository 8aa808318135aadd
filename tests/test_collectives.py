"""What devices send one another, read off compiled programs."""

import collections
from collections.abc import Iterable
import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from tunix.sft import peft_trainer
from tunix.sft import sharding_utils

from tests import conftest
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import losses
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import specs
from tunix_ttt.train import optimizers
from tunix_ttt.train import trainer as trainer_lib

FSDP = config_lib.MeshConfig(fsdp=2)
TP = config_lib.MeshConfig(tp=2)
# Rows and lengths that no weight has among its sizes.
ROWS, LENGTH, RANK = 6, 14, 5
# With few norms and with many; `tp` divides the keys' heads of one alone.
FAMILIES: dict[str, dict[str, Any]] = {
  "qwen2.5": {"num_layers": 2, "num_kv_heads": 2},
  "gemma3": {
    "num_layers": 3,
    "num_kv_heads": 1,
    "layer_types": ("local", "local", "global"),
    "sliding_window": 3,
  },
}
_COLLECTIVE = re.compile(
  r" = (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter"
  r"|collective-permute|collective-broadcast|ragged-all-to-all)(?:-start)?\("
)

Sizes = tuple[int, ...]


def bare(shape: Iterable[int]) -> Sizes:
  """Returns the sizes that a compiler's transposing and reshaping leaves."""
  return tuple(sorted(size for size in shape if size != 1))


def collectives(program: str) -> dict[str, collections.Counter[Sizes]]:
  """Counts a program's collectives by kind and by the sizes of each result."""
  found: dict[str, collections.Counter[Sizes]] = {}
  for results, kind in _COLLECTIVE.findall(program):
    counts = found.setdefault(kind, collections.Counter())
    for shape in re.findall(r"\w+\[([\d,]*)\]", results):
      counts[bare(int(size) for size in shape.split(",") if size)] += 1
  return found


def make(family, mesh, adapted=True):
  spec = conftest.small_spec(family, 128, num_heads=4, **FAMILIES[family])
  module = specs.initialize(spec, 0)
  if adapted:
    module = specs.apply_lora(
      module, rank=RANK, alpha=4.0, target_modules="all-linear", seed=0
    )
  meshes.place(module, meshes.make(mesh))
  return spec, module


def split_weights(module):
  weights = specs.parameters(module).values()
  split = [w for w in weights if not w.sharding.is_fully_replicated]
  assert 0 < len(split) < len(weights)
  return collections.Counter(bare(weight.shape) for weight in split)


def decode(spec, module) -> str:
  """Returns the program that reads one token of each row."""
  policy = policy_lib.ModelPolicy(module, spec)

  @jax.jit
  def empty():
    return policy.grow_cache(policy.init_cache(ROWS, 0), LENGTH)

  # A policy is not hashable, nor are its methods.
  @jax.jit
  def step(*inputs):
    return policy(*inputs)

  cache = empty()
  heads = "tp" if spec.num_kv_heads > 1 else None
  mesh: Any = meshes.of(module)
  split = NamedSharding(mesh, P("fsdp", heads))
  for leaf in jax.tree.leaves(cache):
    assert leaf.sharding.is_equivalent_to(split, leaf.ndim)
  tokens = positions = jnp.zeros((ROWS, 1), jnp.int32)
  mask = jnp.ones((ROWS, 1, LENGTH), bool)
  read = jnp.zeros(ROWS, jnp.int32)
  inputs = tokens, positions, cache, jnp.int32(3), mask, read
  program: Any = step.lower(policy.params, *inputs).compile()
  return program.as_text()


def train(module) -> str:
  """Returns the program of a supervised step."""
  mask = np.ones((ROWS, LENGTH), bool)
  batch: Any = {
    "input_tokens": np.zeros((ROWS, LENGTH), np.int32),
    "input_mask": mask,
    "places": np.asarray(conftest.places(mask)),
    "denominator": np.float32(mask.sum()),
  }
  trainer = trainer_lib.LeanSteps(
    module,
    optimizers.make(test_sft.CONFIG.training),
    peft_trainer.TrainingConfig(eval_every_n_steps=1),
  )
  trainer.with_gen_model_input_fn(losses.model_inputs)
  trainer.with_loss_fn(losses.supervised_loss, has_aux=True)
  with meshes.use(meshes.of(module)):
    inputs = sharding_utils.shard_input(batch, (meshes.FSDP,))
    program: Any = trainer.lower_train_step(inputs).compile()
  return program.as_text()


@pytest.mark.parametrize("family", conftest.slow_but(["qwen2.5"], FAMILIES))
def test_a_decode_step_gathers_each_split_weight_once(family):
  spec, module = make(family, FSDP)
  found = collectives(decode(spec, module))
  # Of the embedding, each device looks its columns up for the tokens of all
  # rows, and keeps all columns of its own rows.
  tokens, part = bare([ROWS]), bare([ROWS // 2, spec.embed_dim // 2])
  assert found == {
    "all-gather": split_weights(module) + collections.Counter([tokens]),
    "all-to-all": {part: 2},
  }


@pytest.mark.parametrize("family", conftest.slow_but(["qwen2.5"], FAMILIES))
def test_a_decode_step_adds_up_what_split_products_give(family):
  spec, module = make(family, TP)
  found = collectives(decode(spec, module))
  weights = specs.parameters(module)
  stream = bare([ROWS, spec.embed_dim])
  # Between the products, the residual stream is split by width.
  norms = [
    name
    for name, weight in weights.items()
    if "norm" in name and weight.shape == (spec.embed_dim,)
  ]
  adapters = [name for name in weights if name.endswith("lora_a")]
  assert found == {
    # For queries, keys and values, for the feed-forward layer and for logits.
    "all-gather": {stream: 2 * spec.num_layers + 1},
    "all-reduce": {
      # Of attention, of the feed-forward layer and of the embedding.
      stream: 2 * spec.num_layers + 1,
      bare([ROWS]): len(norms),
      bare([ROWS, RANK]): len(adapters),
    },
  }


@pytest.mark.parametrize(
  "adapted", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_a_training_step_gathers_weights_and_adds_up_gradients(adapted):
  spec, module = make("qwen2.5", FSDP, adapted)
  found = collectives(train(module))
  trained = specs.parameters(module, nnx.LoRAParam if adapted else nnx.Param)
  # Sums over all rows or weights, as the loss and the norm of gradients.
  found["all-reduce"].pop(())
  # As above; the embedding's gradient takes the way back.
  tokens = bare([ROWS, LENGTH])
  part = bare([ROWS // 2, LENGTH, spec.embed_dim // 2])
  assert found == {
    "all-gather": split_weights(module) + collections.Counter([tokens]),
    "all-to-all": {part: 2 if adapted else 4},
    "all-reduce": collections.Counter(
      bare(weight.shape) for weight in trained.values()
    ),
  }


def test_logits_in_chunks_stay_with_their_rows(monkeypatch):
  # Two tokens of each row at a time, whose gradients are less than the head.
  monkeypatch.setattr(token_log_probs, "MAX_LOGITS", 2 * ROWS * 128)
  spec, module = make("qwen2.5", FSDP)
  found = collectives(train(module))
  assert bare([ROWS, 2, spec.vocab_size]) not in found["all-gather"]
