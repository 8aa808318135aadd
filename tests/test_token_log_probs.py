"""Log-probabilities in chunks against those from all logits at once."""

import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.models.qwen2 import model as qwen2
from tunix.rl import algo_core
from tunix.rl import common

from tests import conftest
from tunix_ttt.models import token_log_probs as lib
from tunix_ttt.models.families import specs

FAMILIES = ["qwen2.5", "qwen3", "gemma", "gemma2", "gemma3"]
VOCAB = 64


def adapt(module):
  return specs.apply_lora(
    module, rank=2, alpha=4, target_modules="all-linear", seed=0
  )


def make(family, adapted):
  window = 4 if family in ("gemma2", "gemma3") else None
  spec = conftest.small_spec(family, VOCAB, sliding_window=window)
  module = specs.initialize(spec, 0)
  if not adapted:
    return module, nnx.Param
  module = adapt(module)
  # Adapters begin at zero, where half of them has no gradient.
  noise = np.random.default_rng(0)
  state = jax.tree.map(
    lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32),
    nnx.state(module, nnx.LoRAParam),
  )
  nnx.update(module, state)
  return module, nnx.LoRAParam


def batch():
  """Rows padded on the right and on the left, and one of padding alone."""
  rng = np.random.default_rng(1)
  where = np.arange(12)
  mask = np.stack([where < 12, where < 7, where >= 4, where < 0])
  return jnp.asarray(rng.integers(0, VOCAB, mask.shape)), jnp.asarray(mask)


def inputs(tokens, mask):
  return (
    tokens,
    common.build_positions_from_mask(mask),
    common.make_causal_attn_mask(mask),
  )


def plain(module, tokens, positions, attention_mask, *, temperature=1.0):
  """Tunix's definitions, on the logits of its model."""
  logits, _ = module(tokens, positions, None, attention_mask)
  logits = logits[:, :-1] / temperature
  return lib.TokenLogProbs(
    log_probs=common.selective_log_softmax(logits, tokens[:, 1:]),
    entropy=algo_core.compute_entropy_from_logits(logits),
    is_first_choice=logits.argmax(axis=-1) == tokens[:, 1:],
  )


def weighted(function, temperature, tokens, mask):
  """Returns a loss that weighs every token that exists differently."""
  weights = np.random.default_rng(2).normal(size=(4, 11)) * mask[:, 1:]

  def loss(module):
    found = function(module, *inputs(tokens, mask), temperature=temperature)
    return (found.log_probs * weights).sum(), found

  return loss


@pytest.mark.parametrize(
  "adapted", [pytest.param(False, marks=pytest.mark.slow), True]
)
@pytest.mark.parametrize("family", conftest.slow_but(["gemma3"], FAMILIES))
def test_values_and_gradients(family, adapted, monkeypatch):
  temperature = 0.7 if adapted else 1.0
  module, kind = make(family, adapted)
  tokens, mask = batch()

  def run(function):
    return nnx.jit(
      nnx.value_and_grad(
        weighted(function, temperature, tokens, mask),
        argnums=nnx.DiffState(0, kind),
        has_aux=True,
      )
    )(module)

  (expected, known), known_grads = run(plain)
  # Of the 11 tokens to predict, all at a time, and 3, which does not divide 11.
  for chunk in (11, 3):
    monkeypatch.setattr(lib, "MAX_LOGITS", chunk * 4 * VOCAB)
    (value, found), grads = run(lib.token_log_probs)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(found.log_probs, known.log_probs, atol=1e-5)
    np.testing.assert_allclose(found.entropy, known.entropy, atol=1e-5)
    np.testing.assert_array_equal(found.is_first_choice, known.is_first_choice)
    flat = dict(nnx.to_flat_state(grads))
    leaves = nnx.to_flat_state(known_grads)
    assert len(flat) == len(leaves)
    for path, leaf in leaves:
      other, ours = leaf.get_value(), flat[path].get_value()
      assert float(jnp.abs(other).max()) > 1e-6, path
      np.testing.assert_allclose(ours, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", conftest.slow_but(["qwen2.5"], FAMILIES))
def test_tokens_in_places(family, monkeypatch):
  # Two of four tokens at a time.
  monkeypatch.setattr(lib, "MAX_LOGITS", 2 * 4 * VOCAB)
  module, kind = make(family, True)
  tokens, mask = batch()
  places = jnp.asarray([[1, 2, 8, 11], [3, 6, 0, 0], [9, 10, 11, 0], 4 * [0]])
  weights = np.random.default_rng(4).normal(size=(4, 4)) * (places > 0)

  def run(choose, **options):
    def loss(module):
      scored = choose(lib.token_log_probs(module, *arguments, **options))
      return (scored.log_probs * weights).sum(), scored

    return nnx.jit(
      nnx.value_and_grad(loss, argnums=nnx.DiffState(0, kind), has_aux=True)
    )(module)

  def of_places(scores):
    index = (places - 1).clip(0)
    return jax.tree.map(
      lambda leaf: jnp.where(
        places > 0, jnp.take_along_axis(leaf, index, axis=1), 0
      ),
      scores,
    )

  arguments = inputs(tokens, mask)
  (value, scored), grads = run(lambda scores: scores, places=places)
  (expected, selected), selected_grads = run(of_places)
  assert float(value) == pytest.approx(float(expected), rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
    (scored, grads),
    (selected, selected_grads),
  )


def test_the_first_choice_is_the_first_of_equals():
  table = jnp.asarray([[0.0, 3, 1, 3], [2, 0, 2, 0], [0, 0, 0, 0]])
  module = conftest.TableModel(jnp.pad(table, ((0, 1), (0, 0))))
  tokens = jnp.asarray([[0, 1, 0], [0, 3, 1], [1, 2, 0], [2, 0, 2]])
  found = lib.token_log_probs(module, *inputs(tokens, tokens >= 0))
  assert found.is_first_choice.tolist() == [
    [True, True],
    [False, False],
    [False, True],
    [True, False],
  ]


@pytest.mark.parametrize(
  "adapted", [pytest.param(False, marks=pytest.mark.slow), True]
)
@pytest.mark.parametrize("family", conftest.slow_but(["gemma3"], FAMILIES))
def test_rows_packed_behind_a_prefix(family, adapted, monkeypatch):
  # Two of three tokens at a time.
  monkeypatch.setattr(lib, "MAX_LOGITS", 2 * 6 * VOCAB)
  module, kind = make(family, adapted)
  rng, prefix = np.random.default_rng(3), (7, 9, 7, 11, 5, 6)
  # Windows of four tokens reach from the first tokens into the prefix.
  mask = np.arange(9) < np.array([9, 7, 8, 9, 0, 0])[:, None]
  tokens = np.where(mask, rng.integers(0, VOCAB, mask.shape), 0)
  tokens[:4, : len(prefix)] = prefix
  weights = rng.normal(size=(6, 8)) * mask[:, 1:]
  weights[:, : len(prefix) - 1] = 0
  arguments = inputs(jnp.asarray(tokens), jnp.asarray(mask))

  def run(weights, **options):
    def loss(module):
      found = lib.token_log_probs(
        module, *arguments, temperature=0.7, **options
      )
      return (found.log_probs * weights).sum(), found

    return nnx.jit(
      nnx.value_and_grad(loss, argnums=nnx.DiffState(0, kind), has_aux=True)
    )(module)

  (expected, known), known_grads = run(weights)
  for rows in (2, 3):
    monkeypatch.setattr(lib, "rows_behind", lambda *_, rows=rows: rows)
    (value, found), grads = run(weights, prefix=prefix)
    # The first is of the prefix.
    places = np.tile([3, 6, 7, 8], (6, 1))
    chosen = weights[:, places[0] - 1]
    (same, some), _ = run(chosen, prefix=prefix, places=places)
    assert float(same) == pytest.approx(float(value), rel=1e-5)
    for one, other in zip(some, found, strict=True):
      np.testing.assert_allclose(one, other[:, places[0] - 1], atol=2e-5)
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    trained = weights != 0
    for one, other in zip(found, known, strict=True):
      assert one.shape == (6, 8) and not one[:, : len(prefix) - 1].any()
      np.testing.assert_allclose(one[trained], other[trained], atol=2e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
      grads,
      known_grads,
    )


def test_when_rows_are_packed_behind_a_prefix():
  devices = jax.device_count()
  # With a short prefix attention would cost more than it saves.
  packed = [
    lib.rows_behind(24 * devices, 320, n) for n in (0, 60, 160, 210, 250)
  ]
  assert packed == [1, 1, 2, 6, 8]
  assert lib.rows_behind(24 * devices, 16, 40) == 1
  # Devices get as many packed rows each.
  assert lib.rows_behind(2 * devices - 1, 320, 250) == 1


def test_a_head_of_its_own(monkeypatch):
  monkeypatch.setattr(lib, "MAX_LOGITS", 5 * 4 * VOCAB)
  shape: dict[str, Any] = conftest.SMALL_MODEL.shape()
  config = qwen2.ModelConfig(
    vocab_size=VOCAB,
    **shape,
    rope_theta=10_000,
    norm_eps=1e-6,
    use_tied_embedding=False,
  )
  module = qwen2.Qwen2(config, rngs=nnx.Rngs(0))
  tokens, mask = batch()
  results = [
    nnx.jit(
      nnx.value_and_grad(weighted(function, 1.0, tokens, mask), has_aux=True)
    )(module)
    for function in (lib.token_log_probs, plain)
  ]
  ((value, _), grads), ((expected, _), known) = results
  assert float(value) == pytest.approx(float(expected), rel=1e-5)
  heads = [x["lm_head"]["w"].get_value() for x in (grads, known)]
  np.testing.assert_allclose(*heads, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_the_gradient_is_that_of_log_probabilities_alone():
  module, _ = make("qwen2.5", False)
  tokens, mask = batch()
  entropy = nnx.grad(
    lambda model: lib.token_log_probs(model, *inputs(tokens, mask)).entropy[
      0, 0
    ]
  )(module)
  assert not any(leaf.any() for leaf in jax.tree.leaves(entropy))


def compiled(build, function, kind, num_rows, length):
  """Returns a step's program, of a model without values."""
  module = nnx.eval_shape(build)
  graph, trained, frozen = nnx.split(module, kind, ...)

  def step(trained: Any, frozen: Any, tokens: jax.Array, mask: jax.Array):
    def loss(model):
      found = function(model, *inputs(tokens, mask))
      weights = mask[:, 1:] / mask.sum()
      correct = (found.is_first_choice * weights).sum()
      return -(found.log_probs * weights).sum(), correct

    return nnx.value_and_grad(
      loss, argnums=nnx.DiffState(0, kind), has_aux=True
    )(nnx.merge(graph, trained, frozen))

  shape = (num_rows, length)
  lowered = jax.jit(step).lower(
    trained,
    frozen,
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.bool_),
  )
  # As on accelerators. XLA's usual order on a CPU is whatever keeps its threads
  # busy, which undoes rematerialization.
  order = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
  return lowered.compile(compiler_options={"xla_cpu_scheduler_type": order})


def memory(program):
  """Returns the bytes of a program's temporary values."""
  analysis: Any = program.memory_analysis()
  return analysis.temp_size_in_bytes


def largest(text):
  """Returns how many numbers the largest array of a program has."""
  shapes = re.findall(r"\b(?:f32|bf16|s32|pred)\[([\d,]+)\]", text)
  return max(int(np.prod([*map(int, s.split(","))])) for s in shapes)


@pytest.mark.parametrize(
  "adapted", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_logits_of_all_tokens_are_never_there(adapted, monkeypatch):
  monkeypatch.setattr(lib, "MAX_LOGITS", 2**17)
  vocab, rows, length = 8192, 4, 65
  spec = conftest.small_spec("qwen2.5", vocab)

  def build():
    return adapt(spec.build()) if adapted else spec.build()

  kind = nnx.LoRAParam if adapted else nnx.Param
  programs = [
    compiled(build, function, kind, rows, length)
    for function in (lib.token_log_probs, plain)
  ]
  ours, theirs = (largest(program.as_text()) for program in programs)
  # The embedding is larger than a chunk.
  assert ours == vocab * spec.embed_dim
  assert theirs >= vocab * rows * (length - 1)
  assert memory(programs[0]) <= memory(programs[1]) / 4


@pytest.mark.slow
def test_memory_of_a_step_of_qwen_2_5_0_5b():
  # In float32, since XLA for a CPU keeps copies in it of what is bfloat16. The
  # whole model is trained: how XLA orders the gradients of adapters, and so
  # what the layers need, differs twofold from one version of it to the next.
  spec = specs.ModelSpec(
    family="qwen2.5",
    vocab_size=151_936,
    num_layers=24,
    embed_dim=896,
    hidden_dim=4864,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
  )

  def build():
    module: Any = spec.build()
    # Or attention's probabilities, 470 MB a layer, would outweigh any loss.
    module.config.remat_config = qwen2.RematConfig.DECODER
    return module

  ours, theirs = (
    memory(compiled(build, function, nnx.Param, 8, 1024))
    for function in (lib.token_log_probs, plain)
  )
  print(f"{ours / 1e9:.2f} GB instead of {theirs / 1e9:.2f} GB")
  assert ours <= theirs / 4
