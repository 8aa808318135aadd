"""Tests runs that were moved, renamed or copied."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
import yaml

from tests import conftest
from tests import test_sft
import tunix_ttt as ttt
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import resume_checks

TRAINING = conftest.ROOT / "training"
CONFIG = dataclasses.replace(
  test_sft.CONFIG,
  model=config_lib.ModelConfig(name="cold"),
  data=config_lib.DataConfig(path="rows.jsonl", eval_fraction=0.1),
  training=dataclasses.replace(test_sft.CONFIG.training, max_steps=5),
  play=config_lib.PlayConfig(num_games=2, max_new_tokens=9, batch_size=8),
  eval=config_lib.EvalConfig(max_new_tokens=2, batch_size=2),
)
LORA = dataclasses.replace(CONFIG, lora=config_lib.LoraConfig(rank=2))


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tokenizer):
  """A directory in which runs were made, and which was moved since."""
  root = tmp_path_factory.mktemp("moved")
  (root / "before").mkdir()
  with pytest.MonkeyPatch.context() as patched:
    patched.chdir(root / "before")
    rows = "".join(f'{{"text": "row {n} of text"}}\n' for n in range(43))
    pathlib.Path("rows.jsonl").write_text(rows)
    cold = sources.start_from(conftest.SMALL_MODEL, lambda: tokenizer, 0)
    checkpoints.save(cold, pathlib.Path("cold"))
    recipes.train_sft(CONFIG, pathlib.Path("runs/whole"))
    recipes.train_sft(LORA, pathlib.Path("runs/adapter"))
  (root / "before").rename(root / "after")
  return root / "after"


def values(model):
  return specs.parameters(model.module)


def assert_equal(ours, theirs):
  a, b = values(ours), values(theirs)
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_a_whole_model_needs_its_run_alone(tree, tmp_path, monkeypatch, run):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(tree / "runs/whole", "mine")
  model = "mine/checkpoint-final"

  def succeeds(script, *flags):
    code, out, err = run(TRAINING / f"{script}.py", *flags)
    assert code == 0, err
    return out

  succeeds("play", "--model", model, "--self-play", 2)
  succeeds("eval_play", "--model", model, "--output", "mine/more.jsonl")
  pathlib.Path("e.jsonl").write_text(
    '{"id": "a", "prompt": "2+2?", "expected_answer": "4"}\n'
  )
  common = ["--eval-set", "e.jsonl", "--output", "answers.jsonl"]
  succeeds("eval_generate", "--model", model, *common)
  succeeds("export", "--model", model, "--output", "exported")
  assert "| X | 2 sampled |" in pathlib.Path("exported/README.md").read_text()
  succeeds("eval_report", "--run", "mine", "--output", "report.html")
  shutil.copytree("mine", "twin")
  assert "no setting differs" in succeeds("compare", "mine", "twin")
  assert_equal(ttt.load_model("mine"), checkpoints.load(tree / "runs/whole"))
  conftest.refused(
    run(TRAINING / "play.py", "--model", model, "--base", "twin"),
    f"{model} is no adapter on a base",
  )


def test_an_adapter_finds_its_base_by_digest(tree, tmp_path, monkeypatch, run):
  monkeypatch.chdir(tmp_path)
  loaded = ttt.load_model(tree / "runs/adapter")
  assert loaded.base is not None and loaded.base.path == str(tree / "cold")
  shutil.copytree(tree / "runs/adapter", "mine")
  with pytest.raises(errors.UserError) as caught:
    ttt.load_model("mine")
  for part in ("mine", "before/cold", loaded.base.revision, "--base DIR"):
    assert part in str(caught.value)
  assert_equal(ttt.load_model("mine", base=tree / "cold"), loaded)
  export = (TRAINING / "export.py", "--model", "mine", "--output", "exported")
  conftest.refused(
    run(*export, "--base", tree / "runs/whole"),
    "trained on another base than the one now at",
    loaded.base.revision,
    "--base DIR",
  )
  code, _, err = run(*export, "--merge", "--base", tree / "cold")
  assert code == 0, err
  with pytest.raises(errors.UserError, match="base is not at nowhere"):
    ttt.load_model("mine", base="nowhere")
  # What is made of it names the base where it is now.
  checkpoints.save(loaded, pathlib.Path("deeper/saved"))
  record = checkpoints.describe(pathlib.Path("deeper/saved")).base
  assert record is not None and record.path == str(tree / "cold")
  assert record.relative is not None
  beside = pathlib.Path("deeper/saved") / record.relative
  assert beside.resolve() == (tree / "cold").resolve()


@pytest.mark.parametrize(
  "name", conftest.slow_but(["adapter"], ["whole", "adapter"])
)
def test_a_moved_run_goes_on_as_if_it_had_not_been(
  name, tree, tmp_path, monkeypatch
):
  new = tmp_path / "new"
  shutil.copytree(tree, new)
  (new / "runs" / name).rename(new / "runs/renamed")
  monkeypatch.chdir(tmp_path)
  moved = pathlib.Path("new/runs/renamed")
  ttt.resume(moved, step=3)
  assert test_sft.rows(moved) == test_sft.rows(tree / "runs" / name)
  assert test_sft.final(moved) == test_sft.final(tree / "runs" / name)
  manifest = run_manifest.RunManifest.read(moved)
  assert [session.from_step for session in manifest.sessions] == [0, 3]
  assert_equal(ttt.load_model(moved), ttt.load_model(tree / "runs" / name))


def test_the_model_that_a_run_started_from(tree, tmp_path, monkeypatch, run):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(tree / "runs/whole", "mine")
  mine = pathlib.Path("mine")
  manifest = run_manifest.RunManifest.read("mine")
  found = resume_checks.relocate(CONFIG, manifest, tree / "runs/whole")
  assert found.model.name == str(tree / "cold")
  assert found.data.path == str(tree / "rows.jsonl")

  def at(base):
    model = dataclasses.replace(CONFIG.model, base=str(base))
    return dataclasses.replace(CONFIG, model=model)

  given = resume_checks.relocate(at(tree / "cold"), manifest, mine).model
  assert (given.name, given.base) == (str(tree / "cold"), None)
  for config, place in (
    (CONFIG, "cold"),
    (at("nowhere"), "nowhere"),
    (at(tree / "runs/whole"), "whole"),
  ):
    with pytest.raises(errors.UserError) as caught:
      resume_checks.relocate(config, manifest, mine)
    assert f"{place}; give the model with the digest" in str(caught.value)
    assert manifest.model.revision in str(caught.value)
  # The data can be told by a flag; its digest is checked.
  shutil.copy(tree / "rows.jsonl", "renamed.jsonl")
  pathlib.Path("config.yaml").write_text(
    yaml.safe_dump(config_lib.to_dict(CONFIG))
  )
  flags = [
    "--config",
    "config.yaml",
    "--output",
    "mine",
    "--base",
    tree / "cold",
  ]
  flags += ["--resume", "3", "--data", "renamed.jsonl"]
  code, _, err = run(TRAINING / "train_sft_tunix.py", *flags, "--dry-run")
  assert code == 0, err
