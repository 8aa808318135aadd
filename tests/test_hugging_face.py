"""Models that transformers saved: they answer here as they do there."""

import dataclasses
import pathlib
import shutil
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from tests import conftest
from tests.fixtures import make_hugging_face
from tunix_ttt import errors
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_config as config_lib
from tunix_ttt.models.hub import hub_loading

FIXTURES = make_hugging_face.FIXTURES
CASES = sorted(make_hugging_face.CASES)
# One of each kind; all have their logits compared.
TWO = ("qwen2.5-untied", "gemma3")
GEMMA = {
  "q_einsum",
  "kv_einsum",
  "attn_vec_einsum",
  "gate_proj",
  "up_proj",
  "down_proj",
}
QWEN = {
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
}


def logits(module: nnx.Module, tokens: np.ndarray) -> np.ndarray:
  batch, length = tokens.shape
  positions = jnp.arange(length)[None].repeat(batch, axis=0)
  mask = jnp.tril(jnp.ones((batch, length, length), bool))
  return np.asarray(
    cast(Any, module)(jnp.asarray(tokens), positions, None, mask)[0]
  )


def expected(directory: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with np.load(directory / "expected.npz") as file:
    return file["tokens"], file["logits"]


def check(directory: pathlib.Path) -> None:
  tokens, theirs = expected(directory)
  module, _ = hub_loading.load(directory, dtype="float32")
  np.testing.assert_allclose(logits(module, tokens), theirs, atol=5e-5)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case):
  check(FIXTURES / case)


@conftest.each_case(CASES, TWO)
def test_a_spec_alone_and_values_make_the_same_model(case):
  tokens, theirs = expected(FIXTURES / case)
  module, spec = hub_loading.load(FIXTURES / case)
  assert spec == config_lib.read_spec(FIXTURES / case / "config.json")
  adapter = pydantic.TypeAdapter(specs.ModelSpec)
  again = adapter.validate_json(adapter.dump_json(spec))
  assert again == spec
  rebuilt = specs.with_parameters(
    nnx.eval_shape(again.build), specs.parameters(module)
  )
  np.testing.assert_allclose(logits(rebuilt, tokens), theirs, atol=5e-5)


@pytest.mark.parametrize(
  ("case", "change"),
  [
    ("qwen2.5-tied", {"rope_theta": 1e4}),
    ("gemma2", {"attn_logit_softcap": 0.0}),
    ("gemma3", {"sliding_window": 12}),
    ("gemma3", {"rope_scale": 1.0}),
    *(
      pytest.param(*each, marks=pytest.mark.slow)
      for each in (
        ("qwen2.5-untied", {"norm_eps": 1e-6}),
        ("qwen3-untied", {"rope_theta": 1e6}),
        ("gemma2", {"sliding_window": 12}),
        ("gemma2", {"query_pre_attn_scalar": None}),
        ("gemma2-fused", {"query_pre_attn_scalar": None}),
        ("gemma2", {"final_logit_softcap": 30.0}),
        ("gemma3", {"layer_types": None}),
        ("gemma3", {"rope_theta": 1e4}),
        ("gemma3", {"local_rope_theta": 1e4}),
        ("gemma3", {"query_pre_attn_scalar": None}),
      )
    ),
  ],
)
def test_every_field_of_a_spec_matters(case, change):
  tokens, theirs = expected(FIXTURES / case)
  module, spec = hub_loading.load(FIXTURES / case)
  other = specs.with_parameters(
    nnx.eval_shape(dataclasses.replace(spec, **change).build),
    specs.parameters(module),
  )
  assert np.abs(logits(other, tokens) - theirs).max() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_names_lead_from_tensors_to_parameters_and_back(case):
  module, spec = hub_loading.load(FIXTURES / case)
  parameters = specs.parameters(module)
  table = spec.tensor_sources()
  assert table.keys() == parameters.keys()
  for path, source in table.items():
    tensors = source.to_tensors(np.asarray(parameters[path]))
    assert tuple(x.shape for x in tensors) == source.shapes
    assert np.array_equal(source.to_parameter(tensors), parameters[path])


@conftest.each_case(CASES, TWO)
def test_decoding_with_a_cache(case):
  tokens, theirs = expected(FIXTURES / case)
  module, spec = hub_loading.load(FIXTURES / case)
  policy = policy_lib.ModelPolicy(module, spec)
  decode = jax.jit(lambda *arguments: policy(*arguments))
  batch, length = tokens.shape
  # Two chunks, the second one longer than a window, and then single tokens.
  # The slots beyond the text and one after the first chunk stay empty.
  chunks, slots = [3, 6, 1, 1, 1], length + 3
  cache = policy.init_cache(batch, slots)
  filled = np.zeros(slots, bool)
  seen, end = 0, 0
  for size in chunks:
    filled[end : end + size] = True
    mask = np.zeros((batch, size, slots), bool)
    for row in range(size):
      mask[:, row] = filled & (np.arange(slots) <= end + row)
    part, cache = decode(
      policy.params,
      jnp.asarray(tokens[:, seen : seen + size]),
      jnp.arange(seen, seen + size)[None].repeat(batch, axis=0),
      cache,
      jnp.int32(end),
      jnp.asarray(mask),
      jnp.full(batch, size - 1),
    )
    seen, end = seen + size, end + size + (seen == 0)
    np.testing.assert_allclose(part, theirs[:, seen - 1], atol=5e-5)


@conftest.each_case(CASES, TWO[:1])
def test_lora_finds_every_linear_module_and_starts_as_the_base(case):
  tokens, _ = expected(FIXTURES / case)
  module, spec = hub_loading.load(FIXTURES / case)
  adapted = specs.apply_lora(
    module, rank=2, alpha=4.0, target_modules="all-linear", seed=0
  )
  found = {
    path.split(".")[-2] for path in specs.parameters(adapted, nnx.LoRAParam)
  }
  wanted = QWEN if spec.family.startswith("qwen") else GEMMA
  if spec.family.startswith("gemma") and spec.num_heads == spec.num_kv_heads:
    wanted = wanted - {"q_einsum", "kv_einsum"} | {"qkv_einsum"}
  assert found == wanted
  np.testing.assert_array_equal(logits(adapted, tokens), logits(module, tokens))


@pytest.mark.parametrize(
  ("case", "target", "product"),
  [
    ("qwen2.5-tied", "q_proj", "dr,rnh->dnh"),
    ("gemma2-fused", "qkv_einsum", "dr,rsnh->sndh"),
    *(
      pytest.param(*each, marks=pytest.mark.slow)
      for each in (
        ("qwen3-untied", "q_proj", "dr,rnh->dnh"),
        ("gemma2", "q_einsum", "dr,rnh->ndh"),
        ("gemma3", "q_einsum", "dr,rnh->ndh"),
      )
    ),
  ],
)
def test_an_adapter_adds_to_the_checkpoints_own_weights(case, target, product):
  tokens, theirs = expected(FIXTURES / case)
  module, _ = hub_loading.load(FIXTURES / case)
  adapted = specs.apply_lora(
    module, rank=2, alpha=4.0, target_modules=[target], seed=0
  )
  rng = np.random.default_rng(0)
  values = specs.parameters(adapted)
  merged = specs.parameters(module)
  for path in merged:
    if path.split(".")[-2] == target:
      a = values[f"{path}_lora_a"]
      b = values[f"{path}_lora_b"]
      b = values[f"{path}_lora_b"] = jnp.asarray(
        rng.standard_normal(b.shape), b.dtype
      )
      merged[path] = merged[path] + 4.0 / 2 * jnp.einsum(product, a, b)
  ours = logits(specs.with_parameters(adapted, values), tokens)
  assert np.abs(ours - theirs).max() > 1e-2
  np.testing.assert_allclose(
    ours, logits(specs.with_parameters(module, merged), tokens), atol=1e-4
  )


def test_lora_names_gemmas_modules_to_who_knows_others():
  module, _ = hub_loading.load(FIXTURES / "gemma2")
  with pytest.raises(
    errors.UserError, match=r"q_proj: .* attn_vec_einsum, .* q_einsum, up_proj"
  ):
    specs.apply_lora(
      module, rank=2, alpha=4.0, target_modules=["q_proj"], seed=0
    )


@conftest.each_case(["qwen2.5-untied", "gemma2", "gemma3"], TWO[1:])
def test_parameters_go_to_their_places_on_a_mesh(case):
  tokens, theirs = expected(FIXTURES / case)
  devices = np.asarray(jax.devices()).reshape(2, 1)
  mesh = jax.sharding.Mesh(devices, ("fsdp", "tp"))
  module, _ = hub_loading.load(FIXTURES / case, mesh=mesh)
  parameters = specs.parameters(module)
  kernel = parameters["layers.1.mlp.up_proj.kernel"]
  assert kernel.sharding.mesh == mesh
  assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tp")
  assert kernel.addressable_shards[0].data.shape == (12, 32)
  # Beside a computation on the mesh, which is the trainers'.
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  gathered = specs.with_parameters(module, jax.device_put(parameters, one))
  np.testing.assert_allclose(logits(gathered, tokens), theirs, atol=5e-5)


@conftest.each_case(CASES, TWO)
def test_bfloat16(case):
  tokens, theirs = expected(FIXTURES / case)
  module, spec = hub_loading.load(FIXTURES / case, dtype="bfloat16")
  assert spec.dtype == "bfloat16"
  kinds = {x.dtype for x in specs.parameters(module).values()}
  assert kinds == {jnp.dtype(jnp.bfloat16)}
  ours = logits(module, tokens).astype(np.float32)
  # Eight bits of logits of a few units, through some layers.
  assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()


def test_the_revision_is_of_the_config_and_the_weights(tmp_path):
  path = tmp_path / "model"
  shutil.copytree(FIXTURES / "gemma2", path)
  first = hub_loading.revision(path)
  (path / "README.md").write_text("text")
  assert hub_loading.revision(path) == first
  weights = path / "model-00002-of-00004.safetensors"
  data = bytearray(weights.read_bytes())
  data[-1] ^= 1
  weights.write_bytes(data)
  second = hub_loading.revision(path)
  config = path / "config.json"
  config.write_text(config.read_text() + " ")
  assert len({first, second, hub_loading.revision(path)}) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [100, 101])
@pytest.mark.parametrize("case", CASES)
def test_fresh_models_of_transformers(case, seed, tmp_path):
  pytest.importorskip("torch")
  make_hugging_face.make(case, tmp_path, seed)
  check(tmp_path)
