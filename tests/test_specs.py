"""Tiny models: built from Tunix's classes, with values that train."""

import dataclasses
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import conftest
from tunix_ttt import errors
from tunix_ttt.algorithms import losses
from tunix_ttt.models.families import specs

NAMES = sorted(specs.TINY_MODELS)


def make(name, seed=0):
  spec = specs.ModelSpec(**specs.TINY_MODELS[name], vocab_size=64)
  return spec, specs.initialize(spec, seed)


def batch():
  rng = np.random.default_rng(0)
  # Every token of the vocabulary occurs, so every embedding has a gradient.
  tokens = np.stack([rng.permutation(64) for _ in range(2)]).astype(np.int32)
  ones = np.ones_like(tokens, bool)
  return losses.model_inputs(
    {
      "input_tokens": jnp.asarray(tokens),
      "input_mask": jnp.asarray(ones),
      "places": conftest.places(ones),
      "denominator": jnp.float32(126),
    }
  )


def loss_of(module, kind=nnx.Param):
  graphdef, trained, rest = nnx.split(module, kind, ...)

  def loss(state):
    model = nnx.merge(graphdef, state, rest)
    return losses.supervised_loss(model, **batch())[0]

  return jax.jit(loss), trained


@conftest.each_case(NAMES, ("tiny-qwen2.5",))
def test_every_parameter_gets_a_gradient(case):
  _, module = make(case)
  loss, state = loss_of(module)
  grads = jax.jit(jax.grad(loss))(state)
  for path, grad in nnx.to_flat_state(grads):
    assert float(jnp.abs(grad.get_value()).max()) > 1e-7, path


@conftest.each_case(NAMES, ("tiny-qwen2.5", "tiny-gemma2"))
def test_the_initial_loss_is_that_of_guessing(case):
  _, module = make(case)
  loss, state = loss_of(module)
  assert abs(float(loss(state)) - np.log(64)) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_tunix_own_values_would_not_train_the_feed_forward_layers(name):
  spec, _ = make(name)
  values = specs.parameters(spec.build())
  assert not values["layers.0.mlp.gate_proj.kernel"].any()


def test_gradient_descent_lowers_the_loss():
  _, module = make("tiny-qwen2.5")
  loss, state = loss_of(module)
  optimizer = optax.adam(3e-3)
  moments = optimizer.init(state)
  before = float(loss(state))

  @jax.jit
  def step(state, moments):
    updates, moments = optimizer.update(jax.grad(loss)(state), moments, state)
    return optax.apply_updates(state, updates), moments

  for _ in range(20):
    state, moments = step(state, moments)
  assert float(loss(state)) < 0.8 * before


@pytest.mark.parametrize("name", NAMES)
def test_values_depend_on_the_seed_alone(name):
  values, again, other = (
    specs.parameters(make(name, seed)[1]) for seed in (1, 1, 2)
  )
  assert all(np.array_equal(values[k], again[k]) for k in values)
  kernel = "layers.1.mlp.up_proj.kernel"
  assert not np.array_equal(values[kernel], other[kernel])
  # Parameters of one shape differ from each other.
  assert not np.array_equal(
    values[kernel], values["layers.0.mlp.up_proj.kernel"]
  )


@pytest.mark.parametrize(
  ("name", "local"),
  [("tiny-gemma", "..."), ("tiny-gemma2", "L.L."), ("tiny-gemma3", "LLLLL.")],
)
def test_gemma_has_local_layers_and_global_ones(name, local):
  _, module = make(name)
  layers = cast(Any, module).layers
  found = "".join("L" if layer.attn.window else "." for layer in layers)
  assert found == local


def test_bad_shapes():
  shape = specs.TINY_MODELS["tiny-qwen2.5"]
  with pytest.raises(errors.UserError, match="4 does not divide num_heads"):
    specs.check_shape({**shape, "num_kv_heads": 4})
  with pytest.raises(errors.UserError, match="head_dim: 15 is odd"):
    specs.check_shape({**shape, "head_dim": 15})


@conftest.each_case(NAMES, ("tiny-qwen2.5",))
def test_lora_starts_as_the_base_and_only_adapters_train(case):
  _, module = make(case)
  adapted = specs.apply_lora(
    module, rank=4, alpha=8.0, target_modules="all-linear", seed=0
  )
  base_loss, base = loss_of(module)
  loss, adapters = loss_of(adapted, nnx.LoRAParam)
  assert float(loss(adapters)) == pytest.approx(
    float(base_loss(base)), rel=1e-6
  )
  # A is multiplied by B, which is zero: at first B alone has a gradient.
  grads = jax.jit(jax.grad(loss))(adapters)
  for path, grad in nnx.to_flat_state(grads):
    moves = float(jnp.abs(grad.get_value()).max()) > 0
    assert moves == str(path[-1]).endswith("_b"), path
  modules = {path[-2] for path, _ in nnx.to_flat_state(adapters)}
  assert modules == set(specs.linear_modules(module))


def test_lora_on_chosen_modules():
  _, module = make("tiny-qwen2.5")
  adapted = specs.apply_lora(
    module, rank=2, alpha=2.0, target_modules=["q_proj"], seed=0
  )
  names = specs.parameters(adapted, nnx.LoRAParam)
  assert {name.split(".")[-2] for name in names} == {"q_proj"}
  with pytest.raises(
    errors.UserError, match="q_einsum: this model's linear modules are"
  ):
    specs.apply_lora(
      module, rank=2, alpha=2.0, target_modules=["q_einsum"], seed=0
    )


@pytest.mark.parametrize(
  "family", conftest.slow_but(["gemma2"], sorted(specs.FAMILIES))
)
def test_attention_is_tunixs(family):
  shape = {**specs.TINY_MODELS[f"tiny-{family}"]}
  if "sliding_window" in shape:
    shape["sliding_window"] = 5
  if family == "qwen3":
    shape |= {"num_kv_heads": 2, "rope_theta": 1e6}
  spec = specs.ModelSpec(**shape, vocab_size=64)
  ours, tunix = specs.initialize(spec, 0), specs.initialize(spec, 0)
  for layer in cast(Any, tunix).layers:
    (layer.attn.__class__,) = type(layer.attn).__bases__
    assert type(layer.attn).__module__.startswith("tunix.models.")
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 16)))
  positions = jnp.arange(16)[None].repeat(2, axis=0)
  mask = jnp.tril(jnp.ones((2, 16, 16), bool))
  expected = cast(Any, tunix)(tokens, positions, None, mask)[0]
  found = cast(Any, ours)(tokens, positions, None, mask)[0]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  # With a cache of Tunix's samplers: a prompt, and then a token at a time.
  empty = jnp.zeros((2, 16, spec.num_kv_heads, spec.head_dim))
  layer = {"k": empty, "v": empty, "end_index": jnp.zeros(2, jnp.int32)}
  cache = {f"layer_{n}": layer for n in range(spec.num_layers)}
  for part in (slice(0, 14), slice(14, 15), slice(15, 16)):
    logits, cache = cast(Any, ours)(
      tokens[:, part], positions[:, part], cache, mask[:, part]
    )
    np.testing.assert_allclose(logits, expected[:, part], atol=1e-5)
  if spec.sliding_window is not None:
    # Windows matter: the whole past says something else.
    whole = specs.initialize(dataclasses.replace(spec, sliding_window=16), 0)
    other = cast(Any, whole)(tokens, positions, None, mask)[0]
    assert np.abs(other - expected).max() > 1e-3


def test_specs_keep_what_families_had_before_their_fields():
  shape = specs.TINY_MODELS["tiny-gemma2"]
  spec = specs.ModelSpec(**shape, vocab_size=8)
  assert spec.layer_types == ("local", "global", "local", "global")
  assert (spec.attn_logit_softcap, spec.final_logit_softcap) == (50, 30)
  spec = specs.ModelSpec(**specs.TINY_MODELS["tiny-qwen3"], vocab_size=8)
  assert spec.layer_types is None
  assert spec.rope_theta == 1e6
  assert spec.query_pre_attn_scalar == 16
  spec = specs.ModelSpec(**specs.TINY_MODELS["tiny-gemma3"], vocab_size=8)
  assert spec.rope_theta == spec.local_rope_theta == 10_000
  with pytest.raises(ValueError, match="1 layer_types for 4 layers"):
    specs.ModelSpec(**shape, vocab_size=8, layer_types=("local",))
