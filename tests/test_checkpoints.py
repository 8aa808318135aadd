"""Model directories: what is saved is what is loaded, or it is refused."""

import dataclasses
import gc
import json
import re
import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.text import chat as chat_lib

# As many layers as `tiny-qwen2.5`.
CONFIG = dataclasses.replace(conftest.SMALL_MODEL, num_layers=2)


@pytest.fixture(scope="module")
def base(tokenizer):
  return sources.start_from(CONFIG, lambda: tokenizer, 0)


@pytest.fixture
def saved(base, tmp_path):
  path = tmp_path / "model"
  checkpoints.save(base, path)
  return path


def equal(ours, theirs):
  a, b = specs.parameters(ours.module), specs.parameters(theirs.module)
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def edit(path, **changes):
  description = json.loads((path / "model.json").read_text())
  description["spec"] |= changes
  (path / "model.json").write_text(json.dumps(description))


def test_round_trip(base, saved):
  loaded = checkpoints.load(saved)
  assert equal(base, loaded)
  assert loaded.spec == base.spec
  assert loaded.tokenizer.digest == base.tokenizer.digest
  assert sorted(p.name for p in saved.iterdir()) == [
    "digests.json",
    "model.json",
    "params",
    "tokenizer.model",
  ]


def test_a_run_directory_stands_for_its_final_checkpoint(base, tmp_path):
  checkpoints.save(base, tmp_path / "run" / "checkpoint-final")
  assert equal(base, checkpoints.load(tmp_path / "run"))


def test_an_existing_directory_is_not_written_over(base, saved):
  with pytest.raises(errors.UserError, match="already exists"):
    checkpoints.save(base, saved)


def adapted(model, name):
  lora = config_lib.LoraConfig(rank=2)
  model = sources.adapt(model, lora, str(name), 0)
  values = specs.parameters(model.module)
  moved = {k: v + 0.1 if k.endswith("_b") else v for k, v in values.items()}
  module = specs.with_parameters(model.module, moved)
  return checkpoints.dataclasses.replace(model, module=module)


def test_an_adapter_is_saved_alone_and_finds_its_base(saved, tmp_path):
  model = adapted(checkpoints.load(saved), saved)
  checkpoints.save(model, tmp_path / "adapter")
  loaded = checkpoints.load(tmp_path / "adapter")
  assert equal(model, loaded)
  assert loaded.lora == config_lib.LoraConfig(rank=2)
  size = {
    p: sum(f.stat().st_size for f in (p / "params").rglob("*") if f.is_file())
    for p in (saved, tmp_path / "adapter")
  }
  assert size[tmp_path / "adapter"] < size[saved] / 2
  shutil.rmtree(saved)
  with pytest.raises(errors.UserError, match="base is not at .*: --base DIR"):
    checkpoints.load(tmp_path / "adapter")


def test_an_adapter_on_a_base_from_scratch(base, tmp_path):
  model = adapted(base, "tiny-qwen2.5")
  checkpoints.save(model, tmp_path / "adapter")
  assert equal(model, checkpoints.load(tmp_path / "adapter"))


def test_an_adapter_refuses_another_base(base, saved, tmp_path):
  model = adapted(checkpoints.load(saved), saved)
  checkpoints.save(model, tmp_path / "adapter")
  shutil.rmtree(saved)
  values = specs.parameters(base.module)
  values["final_norm.w"] = values["final_norm.w"] + 1
  module = specs.with_parameters(base.module, values)
  checkpoints.save(checkpoints.dataclasses.replace(base, module=module), saved)
  with pytest.raises(errors.UserError, match="trained on another base"):
    checkpoints.load(tmp_path / "adapter")


def test_adapters_are_trained_further_with_the_same_settings_only(
  saved, tmp_path
):
  checkpoints.save(adapted(checkpoints.load(saved), saved), tmp_path / "a")
  loaded = checkpoints.load(tmp_path / "a")
  same = sources.adapt(loaded, config_lib.LoraConfig(rank=2), "a", 0)
  assert same is loaded
  for other in (None, config_lib.LoraConfig(rank=3)):
    with pytest.raises(
      errors.UserError, match=r'holds an adapter; .*lora: \{"rank": 2'
    ):
      sources.adapt(loaded, other, "a", 0)


@pytest.mark.parametrize(
  "changes, found",
  [
    ({"num_layers": 1}, "the parameter layers.1.attn.k_bias is unknown"),
    ({"num_layers": 3}, "the parameter layers.2.attn.k_bias is missing"),
    ({"embed_dim": 16}, r"has shape \(512, 32\), the model needs \(512, 16\)"),
    ({"dtype": "bfloat16"}, "has type float32, the model needs bfloat16"),
    ({"family": "llama"}, "spec: .*family: expected one of qwen2.5, .*llama"),
    ({"extra": 1}, "spec.extra"),
  ],
)
def test_a_description_that_does_not_fit_is_refused(saved, changes, found):
  without_digests(saved)
  edit(saved, **changes)
  with pytest.raises(errors.UserError, match=found):
    checkpoints.load(saved)


def without_digests(directory):
  """Makes a model directory one of the format that has no digests."""
  path = directory / checkpoints.MODEL_JSON
  description = json.loads(path.read_text())
  path.write_text(json.dumps(description | {"format": "tunix_ttt.model/1"}))
  (directory / "digests.json").unlink()


# Orbax abandons its other reads when one fails, which Python remarks on when
# they are collected: here, that no other test is blamed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_damage_is_found_without_digests(saved):
  without_digests(saved)
  largest = max(
    (f for f in (saved / "params").rglob("*") if f.is_file()),
    key=lambda f: f.stat().st_size,
  )
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 255
  largest.write_bytes(data)
  with pytest.raises(errors.UserError, match=str(saved / "params")):
    checkpoints.load(saved)
  largest.write_bytes(data[:100])
  with pytest.raises(errors.UserError, match="cannot read this checkpoint"):
    checkpoints.load(saved)
  shutil.rmtree(saved / "params")
  with pytest.raises(errors.UserError, match=str(saved / "params")):
    checkpoints.load(saved)
  # They end in threads of their own, some time after the first has failed.
  for _ in range(20):
    time.sleep(0.1)
    gc.collect()


def test_other_values_are_refused(base, saved, tmp_path):
  values = specs.parameters(base.module)
  values["final_norm.w"] = values["final_norm.w"] + 1
  module = specs.with_parameters(base.module, values)
  other = checkpoints.dataclasses.replace(base, module=module)
  checkpoints.save(other, tmp_path / "other")
  without_digests(saved)
  shutil.rmtree(saved / "params")
  shutil.copytree(tmp_path / "other" / "params", saved / "params")
  with pytest.raises(errors.UserError, match="not those that were saved"):
    checkpoints.load(saved)


def test_damage_of_any_file_is_found(saved):
  names = [p.relative_to(saved) for p in saved.rglob("*") if p.is_file()]
  assert len(names) > 4
  for name in names:
    data = (saved / name).read_bytes()
    damaged = bytearray(data or b"x")
    damaged[len(damaged) // 2] ^= 1
    (saved / name).write_bytes(damaged)
    with pytest.raises(errors.UserError, match=re.escape(str(saved))):
      checkpoints.load(saved)
    (saved / name).write_bytes(data)
  checkpoints.load(saved)


def test_what_is_no_model_directory(tmp_path):
  with pytest.raises(errors.UserError, match="no such model directory"):
    checkpoints.load(tmp_path / "none")
  with pytest.raises(errors.UserError, match="neither model.json nor"):
    checkpoints.load(tmp_path)
  (tmp_path / "model.json").write_text("{}")
  with pytest.raises(errors.UserError, match="spec: Field required"):
    checkpoints.load(tmp_path)


def test_another_tokenizer_is_refused(saved):
  from tunix_ttt.text import tokenizers

  without_digests(saved)
  other = tokenizers.train_tokenizer(["some other text"], 512)
  files.write_all(saved, other.files())
  with pytest.raises(
    errors.UserError, match="not the one this model was saved with"
  ):
    checkpoints.load(saved)


def test_a_checkpoint_of_another_model_than_the_configs(base):
  sources.check_matches(base, CONFIG)
  # Files are not looked at: they may be elsewhere by now.
  sources.check_matches(base, config_lib.ModelConfig(name="nowhere"))
  with pytest.raises(
    errors.UserError, match="of another model: its embed_dim is 32"
  ):
    sources.check_matches(base, config_lib.ModelConfig())
  other = config_lib.ModelConfig(name="tiny-gemma3")
  with pytest.raises(errors.UserError, match="its family is qwen2.5"):
    sources.check_matches(base, other)


def test_starting_from_a_name(tokenizer, saved):
  loaded = sources.start_from(
    config_lib.ModelConfig(name=str(saved)), lambda: tokenizer, 0
  )
  assert equal(loaded, checkpoints.load(saved))
  with pytest.raises(errors.UserError, match="neither a directory"):
    sources.start_from(
      config_lib.ModelConfig(name="tiny-qwen"), lambda: tokenizer, 0
    )
  with pytest.raises(errors.UserError, match="model.num_layers: the shape of"):
    sources.start_from(
      config_lib.ModelConfig(name=str(saved), num_layers=2),
      lambda: tokenizer,
      0,
    )


def test_the_revision_is_of_names_types_shapes_and_values():
  one = {"a": jnp.zeros(4), "b": jnp.ones(2)}
  same = {"b": jnp.ones(2), "a": jnp.zeros(4)}
  others = [
    {"a": jnp.zeros(4), "c": jnp.ones(2)},
    {"a": jnp.zeros((2, 2)), "b": jnp.ones(2)},
    {"a": jnp.zeros(4, jnp.int32), "b": jnp.ones(2)},
    {"a": jnp.zeros(4), "b": jnp.zeros(2)},
  ]
  assert checkpoints.revision(one) == checkpoints.revision(same)
  assert all(
    checkpoints.revision(one) != checkpoints.revision(o) for o in others
  )


def greedy(model, prompt, max_new_tokens):
  """Decodes the most likely tokens without a cache."""
  if isinstance(prompt, str):
    prompt = [chat_lib.message("user", prompt)]
  ids, answer = chat_lib.encode_chat(prompt, model.tokenizer).ids, []
  for _ in range(max_new_tokens):
    tokens = jnp.array([ids + answer])
    size = tokens.shape[1]
    positions, mask = jnp.arange(size)[None], jnp.tri(size, dtype=bool)[None]
    logits = model.module(tokens, positions, None, mask)[0][0, -1]
    answer.append(int(logits.argmax()))
    if answer[-1] in model.tokenizer.end_ids:
      break
  return model.tokenizer.decode(answer)


@pytest.mark.slow
def test_a_model_answers_prompts(base):
  chat = [{"role": "user", "content": "a1"}]
  prompts = ["a1", "b2, please", chat]
  settings = {"max_new_tokens": 5, "temperature": 1.0}
  answers = base.generate(prompts, batch_size=2, seed=1, **settings)
  assert answers == base.generate(prompts, seed=1, **settings)
  assert answers != base.generate(prompts, seed=2, **settings)
  texts = base.generate(prompts, max_new_tokens=5)
  assert texts[0] == texts[2] != ""
  assert texts == [greedy(base, prompt, 5) for prompt in prompts]
  assert base.generate([]) == []
  with pytest.raises(ValueError, match="the last message is not the user's"):
    base.generate([[*chat, {"role": "assistant", "content": "b2"}]])
