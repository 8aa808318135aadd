"""Directories that transformers saved: what is in them, or what is wrong."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from tests.fixtures import make_hugging_face
from tunix_ttt import errors
from tunix_ttt.models.hub import hub_config as config_lib
from tunix_ttt.models.hub import hub_loading

FIXTURES = make_hugging_face.FIXTURES
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(tmp_path):
  """Copies a fixture, with changes to its config; None removes a key."""

  def make(case: str, **changes: Any) -> pathlib.Path:
    path = tmp_path / case
    shutil.copytree(FIXTURES / case, path)
    edit(path / "config.json", changes)
    return path

  return make


def edit(path: pathlib.Path, changes: dict[str, Any]) -> None:
  values = {**json.loads(path.read_text()), **changes}
  kept = {k: v for k, v in values.items() if v is not DROP}
  path.write_text(json.dumps(kept))


DROP = object()


def refused(path: pathlib.Path, message: str) -> None:
  with pytest.raises(errors.UserError, match=message) as caught:
    hub_loading.load(path)
  assert "\n" not in str(caught.value)
  assert str(path) in str(caught.value)


# The form that transformers 4 wrote, with what it left out.
QWEN = {
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "rope_theta": 1_000_000.0,
  "tie_word_embeddings": True,
  "use_sliding_window": False,
  "sliding_window": None,
  "vocab_size": 151_936,
}
PUBLISHED = {
  "qwen2.5-0.5b": {
    **QWEN,
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "sliding_window": 32_768,
  },
  "qwen3-0.6b": {
    **QWEN,
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_scaling": None,
  },
  "gemma-2b": {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10_000.0,
    "vocab_size": 256_128,
  },
  "gemma2-2b": {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "vocab_size": 256_128,
  },
  "gemma3-1b": {
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10_000,
    "rope_scaling": None,
    "rope_theta": 1_000_000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262_144,
  },
  "gemma3-4b": {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
      "hidden_size": 2560,
      "intermediate_size": 10_240,
      "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "sliding_window": 1024,
    },
  },
}
TUNIX = {
  "qwen2.5-0.5b": qwen2.ModelConfig.qwen2p5_0p5b,
  "qwen3-0.6b": qwen3.ModelConfig.qwen3_0p6b,
  "gemma-2b": gemma.ModelConfig.gemma_2b,
  "gemma2-2b": gemma.ModelConfig.gemma2_2b,
  "gemma3-1b": gemma3.ModelConfig.gemma3_1b_it,
  "gemma3-4b": gemma3.ModelConfig.gemma3_4b_it,
}
# Tunix's names of what `ModelSpec` names otherwise.
NAMES = {
  "num_embed": "vocab_size",
  "sliding_window_size": "sliding_window",
  "use_tied_embedding": "tied_embedding",
  "attn_logits_soft_cap": "attn_logit_softcap",
  "global_base_frequency": "rope_theta",
  "local_base_frequency": "local_rope_theta",
  "global_scale_factor": "rope_scale",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_as_transformers_4_wrote_them(name, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(PUBLISHED[name]))
  spec: Any = config_lib.read_spec(path, "bfloat16")
  assert spec.dtype == "bfloat16"
  theirs: Any = TUNIX[name]()
  compared = 0
  for field in theirs.__slots__:
    ours: Any = NAMES.get(field, field)
    if hasattr(spec, ours) and ours != "dtype":
      value = getattr(theirs, field)
      # Files of Gemma 3 that sees have 64 tokens more than Tunix names.
      if name == "gemma3-4b" and ours == "vocab_size":
        value += 64
      none = 0.0 if "softcap" in ours else None
      assert getattr(spec, ours) == (none if value is None else value), field
      compared += 1
  assert compared >= 9
  if name == "gemma2-2b":
    assert spec.layer_types == ("local", "global") * 13
  if name == "gemma3-4b":
    assert spec.layer_types[4:7] == ("local", "global", "local")
    assert spec.layer_types.count("global") == 5


@pytest.mark.parametrize(
  ("case", "changes"),
  [
    ("qwen2.5-tied", {"rope_parameters": DROP, "rope_theta": 1e6}),
    ("qwen3-untied", {"rope_parameters": DROP, "rope_theta": 300}),
    ("gemma2", {"rope_parameters": DROP, "rope_theta": 10_000}),
    ("gemma2", {"query_pre_attn_scalar": 20.0}),
    (
      "gemma3",
      {
        "rope_parameters": DROP,
        "rope_theta": 1e6,
        "rope_local_base_freq": 500,
        "rope_scaling": {"type": "linear", "factor": 8},
      },
    ),
  ],
)
def test_other_ways_to_write_the_same(copy, case, changes):
  assert config_lib.read_spec(copy(case, **changes)) == config_lib.read_spec(
    FIXTURES / case
  )


def test_null_softcaps_are_none(copy):
  path = copy(
    "gemma2", attn_logit_softcapping=None, final_logit_softcapping=None
  )
  spec = config_lib.read_spec(path)
  assert (spec.attn_logit_softcap, spec.final_logit_softcap) == (0, 0)


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
LOCAL = {"sliding_attention": LINEAR, "full_attention": {}}


@pytest.mark.parametrize(
  ("case", "changes", "message"),
  [
    (
      "gemma",
      {"architectures": ["LlamaForCausalLM"]},
      r'architectures is \["LlamaForCausalLM"\]; supported are Qwen2ForCausalLM'
      ", .* Gemma3ForConditionalGeneration$",
    ),
    ("gemma", {"architectures": DROP}, "architectures missing; supported are"),
    (
      "qwen3-tied",
      {"architectures": ["Qwen3MoeForCausalLM"]},
      "Qwen3MoeForCausalLM.*supported are",
    ),
    ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    ("gemma3", {"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    (
      "gemma3-vision",
      {"tie_word_embeddings": False},
      "config.json: tie_word_embeddings is false",
    ),
    ("gemma3-vision", {"text_config": {}}, "text_config.hidden_size missing"),
    ("gemma3-vision", {"text_config": 1}, "text_config is 1; expected an obj"),
    ("gemma2", {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05; Tunix's model"),
    ("gemma2", {"hidden_activation": "silu"}, 'hidden_activation is "silu"'),
    ("gemma", {"hidden_act": "relu"}, 'hidden_act is "relu"'),
    ("gemma2", {"attention_bias": True}, "attention_bias is true"),
    ("gemma3", {"attention_bias": True}, "attention_bias is true"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional"),
    ("gemma3", {"rope_parameters": LOCAL}, "sliding_attention.rope_type is"),
    (
      "gemma3",
      {"rope_parameters": {"full_attention": {**LINEAR, "factor": 0.5}}},
      "rope_parameters.full_attention.factor is 0.5",
    ),
    (
      "gemma3",
      {"rope_parameters": {"full_attention": YARN}},
      'rope_parameters.full_attention.rope_type is "yarn"; Tunix',
    ),
    ("gemma2", {"rope_parameters": {"rope_theta": 1e6}}, "a theta of 10000"),
    ("gemma", {"rope_parameters": DROP, "rope_theta": 1e6}, "rope_theta is"),
    ("gemma2", {"rope_parameters": LINEAR}, 'rope_type is "linear"'),
    ("qwen2.5-tied", {"rope_parameters": YARN}, 'rope_type is "yarn"'),
    (
      "qwen2.5-tied",
      {"rope_parameters": DROP, "rope_scaling": {"type": "yarn", "factor": 4}},
      'rope_scaling.type is "yarn"',
    ),
    ("qwen2.5-tied", {"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
    (
      "qwen2.5-tied",
      {"use_sliding_window": True, "layer_types": None, "max_window_layers": 1},
      "use_sliding_window is true",
    ),
    (
      "qwen2.5-tied",
      {"layer_types": ["full_attention", "sliding_attention"]},
      "layer_types is",
    ),
    ("qwen3-tied", {"attention_bias": True}, "attention_bias is true"),
    ("qwen3-tied", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("qwen3-tied", {"hidden_size": "wide"}, 'hidden_size is "wide"; expected'),
    ("qwen3-tied", {"hidden_size": True}, "hidden_size is true; expected"),
    ("qwen3-tied", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ("qwen3-tied", {"vocab_size": DROP}, "vocab_size missing; expected"),
    ("qwen3-tied", {"num_key_value_heads": 3}, "expected a divisor of num_att"),
    ("qwen3-tied", {"head_dim": 7}, "head_dim is 7; expected an even"),
    ("qwen3-tied", {"rms_norm_eps": -1}, "rms_norm_eps is -1; expected a pos"),
    ("qwen3-tied", {"tie_word_embeddings": 1}, "expected true or false"),
    ("gemma3", {"layer_types": ["full_attention"]}, r"expected 4 \(num_hidden"),
    ("gemma3", {"layer_types": ["chunked"] * 4}, "layer_types is"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
  ],
)
def test_what_tunix_cannot_compute_is_refused(copy, case, changes, message):
  refused(copy(case, **changes), message)


def test_windows_above_every_layer_are_none(copy):
  path = copy("qwen2.5-tied", use_sliding_window=True, layer_types=None)
  assert config_lib.read_spec(path).num_layers == 2


def test_what_is_no_such_directory(copy, tmp_path):
  refused(tmp_path / "none", "no such model directory")
  (tmp_path / "empty").mkdir()
  refused(tmp_path / "empty", "it has no config.json")
  path = copy("gemma")
  (path / ONE_FILE).unlink()
  refused(path, f"neither {ONE_FILE} nor {INDEX}")
  # Nothing of it is read: it isn't even a pickle.
  (path / "pytorch_model.bin").write_text("code")
  refused(path, r"pytorch_model.bin: weights as a pickle are never opened")
  for text, message in [
    ("{", "config.json:1: this model config is not valid JSON"),
    ('{"hidden_size": NaN}', "NaN is not JSON"),
    ("[" * 100_000, "not valid JSON"),
    ("[]", "expected a JSON object, found list"),
  ]:
    (path / "config.json").write_text(text)
    refused(path, message)


def test_an_architecture_is_known_without_weights(copy):
  path = copy("gemma3")
  spec = config_lib.read_spec(path)
  (path / ONE_FILE).unlink()
  assert config_lib.read_spec(path) == spec


def rewrite(path: pathlib.Path, **changes: Any) -> None:
  tensors = {**safetensors_numpy.load_file(path), **changes}
  safetensors_numpy.save_file(
    {k: np.ascontiguousarray(v) for k, v in tensors.items() if v is not DROP},
    path,
  )


NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
HEAD = "lm_head.weight"


@pytest.mark.parametrize(
  ("case", "changes", "message"),
  [
    ("gemma", {NORM: DROP}, rf"the tensor {NORM}, \[24\], is in none of"),
    ("gemma", {"a.b": np.zeros(2)}, "the tensor a.b: the model has no such"),
    (
      "gemma",
      {"vision_tower.x": np.zeros(2)},
      "vision_tower.x: the model has no such tensor",
    ),
    # Transposed: of as many values.
    (
      "gemma",
      {QUERY: np.zeros((24, 32), np.float32)},
      rf"{QUERY}: has shape \[24, 32\], the model needs \[32, 24\]",
    ),
    (
      "gemma",
      {QUERY: np.zeros((32, 24), np.int8)},
      f"{QUERY}: has dtype I8, expected one of F32, BF16, F16",
    ),
    (
      "gemma",
      {NORM: np.zeros(24, np.float16)},
      f"{NORM}: has dtype F16, others of this file F32",
    ),
    ("qwen2.5-tied", {"x.bias": np.zeros(2)}, "x.bias: the model has no such"),
  ],
)
def test_tensors_that_are_not_the_models(copy, case, changes, message):
  path = copy(case)
  rewrite(path / ONE_FILE, **changes)
  refused(path, message)


def test_the_head_of_a_tied_model_is_its_embedding(copy):
  path = copy("gemma")
  weights = path / ONE_FILE
  embedding = safetensors_numpy.load_file(weights)["model.embed_tokens.weight"]
  rewrite(weights, **{HEAD: embedding})
  tied = hub_loading.load(path)[1]
  assert tied == hub_loading.load(FIXTURES / "gemma")[1]
  other = embedding.copy()
  other[-1, -1] += 1
  rewrite(weights, **{HEAD: other})
  refused(path, f"the tensor {HEAD} is not model.embed")
  rewrite(weights, **{HEAD: embedding[:-1]})
  refused(path, f"{HEAD}: has shape")


def test_the_head_of_an_untied_model_is_needed(copy):
  refused(
    copy("qwen2.5-tied", tie_word_embeddings=False),
    rf"the tensor {HEAD}, \[40, 24\], is in none",
  )


@pytest.mark.parametrize("length", [0, 4, 100, 2000, -4])
def test_a_weight_file_that_is_cut_short(copy, length):
  path = copy("gemma") / ONE_FILE
  path.write_bytes(path.read_bytes()[:length])
  refused(path.parent, f"{ONE_FILE}: cannot read this weight file")


def test_a_weight_file_that_is_a_pointer_to_one(copy):
  path = copy("gemma") / ONE_FILE
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  refused(path.parent, "cannot read this weight file: .*not fetched whole")


def test_indexes_that_do_not_fit(copy):
  path = copy("gemma2")
  index = path / INDEX
  weights = json.loads(index.read_text())["weight_map"]
  second = "model-00002-of-00004.safetensors"

  def write(changes: dict[str, Any]) -> None:
    index.write_text(json.dumps({"weight_map": {**weights, **changes}}))

  first = "model-00001-of-00004.safetensors"
  assert weights[NORM] != first
  write({NORM: first})
  refused(path, f"{INDEX}: the tensor {NORM} is said to be in {first}")
  write({"more": first})
  refused(path, "the tensor more is said to be in .* but is in None")
  for outside in ("../x.safetensors", "/x.safetensors", "a\\b.safetensors"):
    write({NORM: outside})
    refused(path, "is not the name of a .safetensors file beside it")
  write({NORM: "x.bin"})
  refused(path, "is in 'x.bin', which is not")
  write({NORM: 3})
  refused(path, "is in 3, which is not")
  write({NORM: "x.safetensors"})
  refused(path, "x.safetensors: this file is missing")
  index.write_text("{}")
  refused(path, "it has no weight_map")
  index.write_text("{")
  refused(path, "this index of weights is not valid JSON")
  write({})
  shutil.copy(path / second, path / "left-over.safetensors")
  refused(path, "left-over.safetensors: not one of this model's weight files")
  write({"x": "left-over.safetensors"})
  refused(path, "is also in left-over.safetensors")


def test_links_to_weights_are_followed(copy):
  path = copy("gemma")
  shutil.move(path / ONE_FILE, path / "blob")
  (path / ONE_FILE).symlink_to("blob")
  hub_loading.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", ["qwen3-tied", "gemma2-fused"])
def test_a_number_that_is_not_finite(copy, case, value):
  path = copy(case)
  file = max(path.glob("*.safetensors"))
  tensors = safetensors_numpy.load_file(file)
  name = sorted(tensors)[-1]
  tensors[name].reshape(-1)[-1] = value
  safetensors_numpy.save_file(tensors, file)
  message = f"{file.name}: the tensor {name} has NaN or infinite values"
  refused(path, message)


def test_two_ropes_that_differ(copy):
  rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
  other = {"rope_type": "yarn", "factor": 4.0}
  path = copy("qwen3-tied", rope_parameters=rope, rope_scaling=other)
  refused(path, "rope_scaling .* rope_parameters says otherwise; keep one")
