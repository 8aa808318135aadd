"""Exported models: they answer as before, here and, as files say, elsewhere."""

import dataclasses
import json
import pathlib
from typing import Any
from unittest import mock

import httpx
import huggingface_hub
from huggingface_hub import errors as hub_errors
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import yaml

from tests import conftest
from tests import test_adapters as made_adapters
from tests import test_hugging_face as hf
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_config
from tunix_ttt.models.hub import hub_export
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.report import model_card

LORA = config_lib.LoraConfig(rank=3, alpha=5.0)
WHOLE = 10**9


class Files:
  """Stands for the tokenizer of a fixture, which has none."""

  digest = ""
  end_ids = (2,)

  def __init__(self, directory: pathlib.Path):
    self._config = (directory / "config.json").read_bytes()

  def files(self):
    return {"tokenizer/config.json": self._config}

  def bos_id(self):
    return 1

  def eos_id(self):
    return 2

  def pad_id(self):
    return 0


def model_of(case: str, dtype: Any = "float32", **changes) -> checkpoints.Model:
  directory = hf.FIXTURES / case
  module, spec = hub_loading.load(directory, dtype=dtype)
  tokenizer: Any = Files(directory)
  return checkpoints.Model(
    module=module, spec=spec, tokenizer=tokenizer, revision="0", **changes
  )


def with_adapter(case: str, dtype: Any = "float32") -> checkpoints.Model:
  base = checkpoints.BaseRecord(
    path=str(hf.FIXTURES / case), seed=0, revision="0"
  )
  model = model_of(case, dtype, lora=LORA, base=base)
  module = made_adapters.adapted(model.module, LORA)
  return dataclasses.replace(model, module=module)


def written(model, path, *, merge, size=WHOLE):
  made = hub_export.prepare(model, merge=merge, max_shard_size=size)
  hub_export.write(made, path)
  return made


@conftest.each_case(hf.CASES, hf.TWO)
def test_a_merged_model_answers_as_it_did(case, tmp_path):
  tokens, _ = hf.expected(hf.FIXTURES / case)
  model = with_adapter(case)
  made = written(model, tmp_path / "merged", merge=True, size=16_000)
  assert not made.is_adapter and len(made.weights) > 1
  for name in made.weights:
    tensors = safetensors.numpy.load_file(tmp_path / "merged" / name)
    assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 16e3
  module, spec = hub_loading.load(tmp_path / "merged")
  assert spec == model.spec
  ours = hf.logits(model.module, tokens)
  np.testing.assert_allclose(
    hf.logits(module, tokens), ours, atol=1e-5 * max(1, np.abs(ours).max())
  )


@conftest.each_case(hf.CASES, hf.TWO)
def test_a_whole_model_keeps_its_values_and_its_config(case, tmp_path):
  model = model_of(case)
  written(model, tmp_path / "whole", merge=False)
  module, spec = hub_loading.load(tmp_path / "whole")
  assert spec == model.spec
  before, after = (specs.parameters(m) for m in (model.module, module))
  assert before.keys() == after.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(value, after[name])
  base = json.loads((hf.FIXTURES / case / "config.json").read_text())
  config = json.loads((tmp_path / "whole" / "config.json").read_text())
  text = base.get("text_config", base)
  lost = {key for key in text if config.get(key) != text[key]}
  assert lost <= {"dtype", "architectures", "model_type"}
  generation = tmp_path / "whole" / hub_export.GENERATION
  assert json.loads(generation.read_text())["eos_token_id"] == [2]


@conftest.each_case(hf.CASES, hf.TWO)
def test_a_spec_alone_makes_a_config(case):
  _, spec = hub_loading.load(hf.FIXTURES / case)
  for base in (None, {"model_type": "other"}):
    config = hub_config.of_model(spec, base)
    assert hub_config.describes(config, spec)
  types = spec.layer_types
  other = dataclasses.replace(
    spec, num_layers=2 * spec.num_layers, layer_types=types and types * 2
  )
  base = json.loads((hf.FIXTURES / case / "config.json").read_text())
  assert hub_config.describes(hub_config.of_model(other, base), other)


def test_nobodys_paths_or_code_are_in_a_config():
  _, spec = hub_loading.load(hf.FIXTURES / "gemma2")
  base = json.loads((hf.FIXTURES / "gemma2" / "config.json").read_text())
  base |= {"_name_or_path": "/home/x", "auto_map": {"AutoConfig": "evil.C"}}
  config = hub_config.of_model(spec, base)
  assert not config.keys() & {"_name_or_path", "auto_map"}


def test_bfloat16_is_merged_in_float32(tmp_path):
  model = with_adapter("gemma2", "bfloat16")
  written(model, tmp_path / "merged", merge=True)
  tensors = safetensors.numpy.load_file(
    tmp_path / "merged" / hub_loading.SINGLE
  )
  values = specs.parameters(model.module)
  path = "layers.0.mlp.up_proj.kernel"
  kernel, a, b = (
    np.asarray(values[path + end], np.float32)
    for end in ("", "_lora_a", "_lora_b")
  )
  expected = (kernel + np.float32(5 / 3) * (a @ b)).T.astype(jnp.bfloat16)
  found = tensors["model.layers.0.mlp.up_proj.weight"]
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, expected)


@conftest.each_case(hf.CASES, hf.TWO)
def test_an_adapter_alone(case, tmp_path):
  model = with_adapter(case)
  made = written(model, tmp_path / "adapter", merge=False)
  assert made.is_adapter
  assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
    "adapter_config.json",
    "adapter_model.safetensors",
    "generation_config.json",
  ]
  adapter = adapters.read(tmp_path / "adapter", model.spec)
  assert adapter.lora == LORA
  with pytest.raises(errors.UserError, match="a directory of this machine"):
    hub_export.check_public(made)


def test_what_is_there_stays(tmp_path):
  model = model_of("gemma")
  with pytest.raises(errors.UserError, match="already exists"):
    written(model, tmp_path, merge=False)


def test_the_base_must_be_hugging_faces(tokenizer, tmp_path):
  base = sources.start_from(conftest.SMALL_MODEL, lambda: tokenizer, 0)
  scratch = sources.adapt(base, LORA, "tiny-qwen2.5", 0)
  with pytest.raises(errors.UserError, match=r"from scratch, .* say --merge"):
    written(scratch, tmp_path / "a", merge=False)
  checkpoints.save(base, tmp_path / "base")
  ours = sources.adapt(base, LORA, str(tmp_path / "base"), 0)
  with pytest.raises(errors.UserError, match="say --merge"):
    written(ours, tmp_path / "a", merge=False)
  assert not (tmp_path / "a").exists()
  written(ours, tmp_path / "a", merge=True)


@conftest.each_case(sorted(specs.TINY_MODELS), ("tiny-gemma3",))
def test_models_from_scratch(case, tokenizer, tmp_path):
  config = dataclasses.replace(conftest.SMALL_MODEL, name=case)
  model = sources.start_from(config, lambda: tokenizer, 0)
  written(model, tmp_path / "whole", merge=False)
  again = sources.open_model(str(tmp_path / "whole"), config)
  sources.check_matches(again, config)
  tokens = np.arange(24).reshape(2, 12)
  np.testing.assert_array_equal(
    hf.logits(again.module, tokens), hf.logits(model.module, tokens)
  )


RATES = {f"{name}_rate": 0.25 for name in ("win", "draw", "loss", "illegal")}
EXACT = rates.Exact(
  lines=90,
  lines_lost=1,
  worst="loss",
  random=RATES,
  optimal=RATES,
  optimal_move_rate=0.975,
)
SAMPLED = rates.Sampled(
  games=8,
  rates=RATES,
  intervals={"win_rate": (0.1, 0.4)},
  optimal_move_rate=0.5,
)


def summary(**changes) -> dict[str, Any]:
  return {
    "model": "x",
    "play": {"opponent": "a|b"},
    "results": {
      "X": dataclasses.asdict(EXACT),
      "O": dataclasses.asdict(SAMPLED),
    },
  } | changes


def test_the_card_says_what_was_measured(tmp_path):
  path = tmp_path / "games.summary.json"
  path.write_text(json.dumps(summary()))
  made = hub_export.prepare(
    with_adapter("gemma2"), merge=False, max_shard_size=WHOLE
  )
  text = model_card.render(
    made, "me/model", None, [game_files.read_summary(path)]
  )
  rates = "25.00% | 25.00% | 25.00% | 25.00%"
  assert f"| X | 90 lines, 1 lost | random | {rates} | 97.50% |" in text
  assert f"| O | 8 sampled | a&#124;b | {rates} | 50.00% |" in text
  assert 'peft.AutoPeftModelForCausalLM.from_pretrained("me/model")' in text
  assert "vllm serve gemma2 --enable-lora --max-lora-rank 8" in text
  assert "trained on tic-tac-toe with" in text
  assert "--lora-modules tictactoe=me/model" in text
  # Nothing of this machine.
  assert str(hf.FIXTURES) not in text and "a local directory" in text


@pytest.mark.parametrize(
  "game, words",
  [("kuhn_poker", "Kuhn poker"), ("my.nim_game:define", "nim game")],
)
def test_the_card_names_the_game(game, words):
  model = dataclasses.replace(with_adapter("gemma2"), game=game)
  made = hub_export.prepare(model, merge=False, max_shard_size=WHOLE)
  text = model_card.render(made, "me/model", None, [])
  front = yaml.safe_load(text.split("---\n", 2)[1])
  assert words.lower().replace(" ", "-") in front["tags"]
  assert f"trained on {words} with" in text


@pytest.mark.parametrize(
  "change",
  [{"results": {"Z": {}}}, {"results": {"X": {"lines": 1}}}, {"play": 1}],
)
def test_what_is_no_summary(change, tmp_path):
  path = tmp_path / "games.summary.json"
  path.write_text(json.dumps(summary(**change)))
  with pytest.raises(errors.UserError, match="not a summary of games"):
    game_files.read_summary(path)


@pytest.mark.parametrize("merge", [False, True])
def test_names_cannot_break_the_card(merge, tmp_path):
  evil = 'a\n---\nx: "y"\n```\n# <script>`'
  model = with_adapter("gemma2")
  assert model.base is not None
  base = model.base.model_copy(update={"commit": "`\n# c"})
  made = hub_export.prepare(model, merge=merge, max_shard_size=WHOLE)
  named = dataclasses.replace(
    model, base=base.model_copy(update={"path": evil}), game=evil
  )
  made = dataclasses.replace(made, model=named)
  text = model_card.render(made, evil, None, [])
  begin, front, body = text.split("---\n", 2)
  assert begin == ""
  assert yaml.safe_load(front)["library_name"] == (
    "transformers" if merge else "peft"
  )
  lines = body.splitlines()
  assert [x for x in lines if x.startswith("#")] == [lines[1], "## Use"]
  assert sum(line.startswith("```") for line in lines) == 4
  assert "<script>`\n" not in body and "---\n" not in body


class Api:
  """Stands for the hub."""

  def __init__(self, **problems: Exception):
    self.problems, self.calls = problems, []

  def _do(self, name, values):
    self.calls.append((name, values))
    if name in self.problems:
      raise self.problems[name]
    return "https://hub/me/model"

  def create_repo(self, name, **values):
    return self._do("create_repo", {"name": name, **values})

  def upload_folder(self, **values):
    return self._do("upload_folder", values)


def status(code: int) -> Exception:
  request = httpx.Request("POST", "https://hub")
  response = httpx.Response(code, request=request)
  return hub_errors.HfHubHTTPError("secret", response=response)


def test_publishing(tmp_path):
  api = Api()
  with mock.patch.object(huggingface_hub, "HfApi", return_value=api):
    address = client.publish(tmp_path, "me/model", private=True)
  assert address == "https://hub/me/model"
  (made, values), (uploaded, sent) = api.calls
  assert (made, uploaded) == ("create_repo", "upload_folder")
  assert values == {"name": "me/model", "private": True, "exist_ok": False}
  assert (sent["repo_id"], sent["folder_path"]) == ("me/model", tmp_path)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    ("create_repo", status(401), "no valid token; set HF_TOKEN"),
    ("create_repo", status(403), "no right to write"),
    ("create_repo", status(409), "it exists already"),
    ("create_repo", status(500), "answers with status 500"),
    ("create_repo", httpx.ConnectError("x"), "cannot be reached"),
    (
      "upload_folder",
      ConnectionError("x"),
      "was made, and is empty: .*reached",
    ),
  ],
)
def test_what_the_hub_refuses(call, error, message, tmp_path):
  api = Api(**{call: error})
  with (
    mock.patch.object(huggingface_hub, "HfApi", return_value=api),
    pytest.raises(errors.UserError, match=message) as caught,
  ):
    client.publish(tmp_path, "me/model", private=False)
  assert "hf upload me/model" in str(caught.value)
  assert "secret" not in str(caught.value)


def test_summaries_beside_a_run_are_of_the_model(tmp_path):
  for name, revision in (("a", "1f"), ("b", "1f"), ("c", "2e"), ("d", None)):
    path = tmp_path / f"{name}.summary.json"
    path.write_text(json.dumps(summary(model=name) | {"revision": revision}))
  found = model_card.find_summaries("1f", tmp_path)
  assert [s.model for s in found] == ["a", "b"]
  assert model_card.find_summaries("1f", None) == []
