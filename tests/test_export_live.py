"""Exported models in transformers and PEFT themselves: the same answers."""

import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from tests import conftest
from tests import hugging_face as made
from tests import test_adapters
from tests import test_export
from tests import test_hugging_face as hf
from tests import test_hugging_face_tokenizers as made_turns
from tests.fixtures import make_models
from tunix_ttt import config as config_lib
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def torch() -> Any:
  pytest.importorskip("peft")
  return pytest.importorskip("torch")


def theirs(torch, directory: pathlib.Path, tokens, *, peft: bool):
  import transformers

  kind: Any = transformers.AutoModelForCausalLM
  if peft:
    kind = pytest.importorskip("peft").AutoPeftModelForCausalLM
  model = kind.from_pretrained(
    str(directory), dtype=torch.float32, attn_implementation="eager"
  )
  with torch.no_grad():
    return model(torch.from_numpy(np.asarray(tokens)).long()).logits.numpy()


def check(torch, model, path, tokens, *, merge: bool) -> None:
  test_export.written(model, path, merge=merge, size=20_000)
  ours = hf.logits(model.module, tokens)
  found = theirs(torch, path, tokens, peft=not merge)
  np.testing.assert_allclose(
    found, ours, atol=1e-4 * max(1.0, float(np.abs(ours).max()))
  )


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("case", hf.CASES)
def test_weights(case, merge, torch, tmp_path):
  tokens, _ = hf.expected(hf.FIXTURES / case)
  model = test_export.with_adapter(case)
  check(torch, model, tmp_path / "export", tokens, merge=merge)


@pytest.mark.parametrize("case", hf.CASES)
def test_configs_made_of_a_spec_alone(case, torch, tmp_path):
  tokens, _ = hf.expected(hf.FIXTURES / case)
  model = test_export.model_of(case)
  tokenizer: Any = model.tokenizer
  tokenizer._config = b"{}"
  check(torch, model, tmp_path / "export", tokens, merge=True)


@pytest.mark.parametrize("name", sorted(specs.TINY_MODELS))
def test_models_from_scratch(name, tokenizer, torch, tmp_path):
  import transformers

  config = dataclasses.replace(conftest.SMALL_MODEL, name=name)
  model = sources.start_from(config, lambda: tokenizer, 0)
  tokens = np.arange(24).reshape(2, 12)
  check(torch, model, tmp_path / "export", tokens, merge=True)
  # See the model card.
  kind: Any = transformers.AutoTokenizer
  if name == "tiny-qwen2.5":
    kind = transformers.PreTrainedTokenizerFast
  loaded = kind.from_pretrained(str(tmp_path / "export"))
  text = made_turns.OBSERVATION
  assert loaded(text)["input_ids"] == tokenizer.encode(text)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("family", ["qwen2.5", "gemma3"])
def test_texts(family, merge, tmp_path):
  import transformers

  base = tmp_path / "base"
  shutil.copytree(make_models.MODELS / family, base)
  made.write_tokenizer(base, family, 384 if family == "qwen2.5" else 400)
  model = sources.open_model(str(base), config_lib.ModelConfig())
  lora = config_lib.LoraConfig(rank=2)
  adapted = sources.adapt(model, lora, str(base), 0)
  module = test_adapters.adapted(model.module, lora)
  adapted = dataclasses.replace(adapted, module=module)
  prepared = hub_export.prepare(adapted, merge=merge, max_shard_size=10**9)
  hub_export.write(prepared, tmp_path / "export")
  loaded: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
  text = made_turns.OBSERVATION
  assert loaded(text)["input_ids"] == model.tokenizer.encode(text)
  turns = made_turns.messages(text)
  ids = made_turns.theirs(tmp_path / "export", turns)
  assert ids == made_turns.theirs(base, turns)
