"""Adapters between PEFT and Qwix: the same numbers, or they are refused."""

import dataclasses
import json
import pathlib
import shutil

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests import conftest
from tests import hugging_face as made
from tests import test_hugging_face as hf
from tests.fixtures import make_models
from tests.fixtures import make_peft
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.models.families import specs as lora_lib
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import hub_config as hf_config
from tunix_ttt.models.hub import hub_loading

PEFT = make_peft.FIXTURES
BASES = conftest.ROOT / make_peft.BASES
# All A that Gemma has in common are equal.
SHARED = ["qwen2.5", "gemma2", "gemma3-vision"]


def adapted(module, lora, seed=0):
  """A model with adapters whose A and B are random."""
  module = lora_lib.apply_lora(module, **config_lib.to_dict(lora), seed=seed)
  rng = np.random.default_rng(seed)
  values = specs.parameters(module)
  for path, value in values.items():
    if "_lora_" in path:
      values[path] = jnp.asarray(
        0.3 * rng.standard_normal(value.shape), value.dtype
      )
  return specs.with_parameters(module, values)


def read(directory, base):
  module, spec = hub_loading.load(base)
  adapter = adapters.read(directory, spec)
  settings = config_lib.to_dict(adapter.lora)
  module = lora_lib.apply_lora(module, **settings, seed=0)
  return adapters.fill(module, adapter), spec, adapter


@conftest.each_case(sorted(make_peft.CASES), ("qwen2.5", "gemma2"))
def test_logits_are_those_of_peft(case):
  tokens, theirs = hf.expected(PEFT / case)
  module, _, adapter = read(PEFT / case, BASES / make_peft.CASES[case][0])
  np.testing.assert_allclose(hf.logits(module, tokens), theirs, atol=5e-5)
  times = 1 if case in SHARED else 2
  assert (adapter.lora.rank, adapter.lora.alpha) == (2 * times, 3.0 * times)


@pytest.mark.parametrize("case", SHARED)
def test_tensors_are_those_that_peft_writes(case):
  base = BASES / make_peft.CASES[case][0]
  module, spec, adapter = read(PEFT / case, base)
  prefix = hf_config.read(base, "float32")[0].modules
  ours = adapters.tensors(specs.parameters(module), spec, prefix)
  theirs = safetensors.numpy.load_file(PEFT / case / adapters.WEIGHTS)
  assert ours.keys() == theirs.keys()
  for name, tensor in ours.items():
    np.testing.assert_array_equal(tensor, theirs[name])
  settings = adapters.settings(adapter.lora, ours, "base", None)
  written = json.loads((PEFT / case / adapters.CONFIG).read_text())
  for key, value in settings.items():
    if key != "base_model_name_or_path":
      found = written[key]
      assert (sorted(found) if isinstance(found, list) else found) == value


@conftest.each_case(hf.CASES, hf.TWO)
def test_there_and_back(case, tmp_path):
  tokens, _ = hf.expected(BASES / case)
  base, spec = hub_loading.load(BASES / case)
  lora = config_lib.LoraConfig(rank=3, alpha=5.0)
  module = adapted(base, lora)
  prefix = hf_config.read(BASES / case, "float32")[0].modules
  tensors = adapters.tensors(specs.parameters(module), spec, prefix)
  contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
  safetensors.numpy.save_file(contiguous, tmp_path / adapters.WEIGHTS)
  settings = adapters.settings(lora, tensors, "base", None)
  (tmp_path / adapters.CONFIG).write_text(json.dumps(settings))
  again, _, adapter = read(tmp_path, BASES / case)
  assert adapter.lora == lora
  np.testing.assert_array_equal(
    hf.logits(again, tokens), hf.logits(module, tokens)
  )


@pytest.fixture
def gemma(tmp_path) -> pathlib.Path:
  path = tmp_path / "gemma"
  shutil.copytree(PEFT / "gemma2", path)
  return path


def change(directory, **values):
  path = directory / adapters.CONFIG
  settings = json.loads(path.read_text()) | values
  path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"peft_type": "IA3"}, 'peft_type is "IA3"; expected "LORA"'),
    ({"bias": "all"}, 'bias is "all"; expected "none"'),
    ({"use_rslora": True}, "use_rslora is true; plain LoRA"),
    ({"use_dora": True}, "use_dora is true"),
    ({"layers_to_transform": 0}, "layers_to_transform is 0"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
    ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is"),
    ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is"),
    ({"exclude_modules": ["q_proj"]}, "exclude_modules is"),
    ({"something_new": {"a": 1}}, "something_new is"),
    ({"r": 0}, "r is 0; expected a positive"),
    ({"r": True}, "r is true"),
    ({"r": 3}, r"lora_A.weight: has shape \[2, 32\], the model needs"),
    ({"lora_alpha": "x"}, "lora_alpha is"),
    ({"base_model_name_or_path": None}, "base_model_name_or_path is null"),
    ({"revision": 3}, "revision is 3"),
    ({"target_modules": 3}, "target_modules is 3"),
    ({"target_modules": ["lm_head"]}, "names no linear module"),
    ({"target_modules": ["q_proj"]}, "the model has no such tensor"),
    (
      {"target_modules": ["layers.0.self_attn.q_proj"]},
      "leaves out model.layers.1.self_attn.q_proj",
    ),
  ],
)
def test_settings_that_are_refused(gemma, values, message):
  change(gemma, **values)
  spec = hf_config.read_spec(BASES / "gemma2")
  with pytest.raises(errors.UserError, match=message) as caught:
    adapters.read(gemma, spec)
  assert str(gemma) in str(caught.value)


def test_tensors_that_are_refused(gemma):
  spec = hf_config.read_spec(BASES / "gemma2")
  path = gemma / adapters.WEIGHTS
  whole = safetensors.numpy.load_file(path)
  name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
  for tensors, message in (
    ({k: v for k, v in whole.items() if k != name}, f"{name}, .* is in none"),
    (whole | {"more": np.zeros(3, np.float32)}, "more: the model has no such"),
    (whole | {name: whole[name][:, :1].copy()}, r"has shape \[32, 1\]"),
    (whole | {name: whole[name].astype(np.int32)}, "has dtype I32"),
  ):
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(errors.UserError, match=message):
      adapters.read(gemma, spec)
  path.write_bytes(b"x")
  with pytest.raises(errors.UserError, match="cannot read this weight file"):
    adapters.read(gemma, spec)
  path.unlink()
  with pytest.raises(errors.UserError, match="this file is missing"):
    adapters.read(gemma, spec)
  (gemma / "adapter_model.bin").write_bytes(b"x")
  with pytest.raises(errors.UserError, match="as a pickle are never opened"):
    adapters.read(gemma, spec)


@pytest.fixture
def opened(tmp_path, monkeypatch):
  """A PEFT adapter on a model with a tokenizer, both directories."""
  monkeypatch.chdir(tmp_path)
  base = pathlib.Path("base")
  shutil.copytree(make_models.MODELS / "gemma3", base)
  made.write_tokenizer(base, "gemma3", 400)
  module, spec = hub_loading.load(base)
  lora = config_lib.LoraConfig(rank=2, target_modules=["kv_einsum"])
  tensors = adapters.tensors(
    specs.parameters(adapted(module, lora)), spec, "model."
  )
  path = pathlib.Path("adapter")
  path.mkdir()
  contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
  safetensors.numpy.save_file(contiguous, path / adapters.WEIGHTS)
  settings = adapters.settings(lora, tensors, "base", None)
  (path / adapters.CONFIG).write_text(json.dumps(settings))
  return path, lora


def test_an_adapter_is_opened_trained_on_and_saved(opened, tmp_path):
  path, lora = opened
  config = config_lib.ModelConfig(name=str(path))
  model = sources.open_model(str(path), config)
  assert model.lora == lora
  assert model.base is not None
  assert model.base.path == str((tmp_path / "base").absolute())
  outline = sources.outline(config, lambda: model.tokenizer)
  assert (outline.spec, outline.lora) == (model.spec, model.lora)
  assert sources.adapt(model, lora, str(path), 0) is model
  with pytest.raises(errors.UserError, match=r'lora: \{"rank": 2, "alpha": 16'):
    sources.adapt(model, None, str(path), 0)
  values = specs.parameters(model.module)
  moved = {k: v + ("lora" in k) * 0.01 for k, v in values.items()}
  trained = dataclasses.replace(
    model, module=specs.with_parameters(model.module, moved)
  )
  checkpoints.save(trained, tmp_path / "saved")
  again = checkpoints.load(tmp_path / "saved")
  for name, value in specs.parameters(again.module, nnx.LoRAParam).items():
    np.testing.assert_array_equal(value, moved[name])


def test_an_adapters_own_tokenizer_comes_first(opened):
  path, _ = opened
  config = config_lib.ModelConfig(name=str(path))
  tokenizer = sources.open_model(str(path), config).tokenizer
  assert tokenizer.template.system is not None
  made.write_tokenizer(path, "gemma2", 400)
  tokenizer = sources.open_model(str(path), config).tokenizer
  assert tokenizer.template.system is None


def test_where_the_base_is(opened, tmp_path):
  path, _ = opened
  change(path, base_model_name_or_path="/nowhere/base")
  own = config_lib.ModelConfig(name=str(path))
  with pytest.raises(errors.UserError, match="must be a whole Hugging Face"):
    sources.open_model(str(path), own)
  for name in ("tiny-gemma3", "nowhere"):
    config = config_lib.ModelConfig(name=name)
    with pytest.raises(errors.UserError, match="which is not here; give"):
      sources.open_model(str(path), config)
  model = sources.open_model(str(path), config_lib.ModelConfig(name="base"))
  assert model.base is not None
  assert model.base.path == str((tmp_path / "base").absolute())
