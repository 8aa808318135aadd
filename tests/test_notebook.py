"""The notebooks, executed from top to bottom, and what is committed of them."""

import ast
import copy
import importlib.util
import re
import tomllib
from typing import Any

import nbclient
import nbformat
from packaging import requirements
import pytest

from tests import conftest
import tunix_ttt
import tunix_ttt as ttt
from tunix_ttt import config as config_lib

PATH = conftest.ROOT / "notebooks" / "tictactoe_colab.ipynb"
# Enough to run every cell; the model learns next to nothing.
SHORT = {
  "NUM_GAMES": 100,
  "SFT_STEPS": 2,
  "GRPO_STEPS": 1,
  "OWN_REWARD_STEPS": 1,
  "MODEL": {"name": "tiny-qwen2.5", **conftest.SMALL_MODEL.shape()},
}


@pytest.fixture(scope="module")
def notebook():
  return nbformat.read(PATH, as_version=4)


def source(notebook, cell_id: str) -> str:
  (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
  return cell.source


def execute(notebook, directory, **parameters: Any) -> dict[str, str]:
  """Runs a notebook in a directory; returns the text of each cell's outputs."""
  notebook = copy.deepcopy(notebook)
  for number, cell in enumerate(notebook.cells):
    if "parameters" in cell.metadata.get("tags", []):
      lines = [f"{name} = {value!r}" for name, value in parameters.items()]
      added = nbformat.v4.new_code_cell("\n".join(lines))
      notebook.cells.insert(number + 1, added)
      break
  resources = {"metadata": {"path": str(directory)}}
  nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
  return {
    cell.id: "".join(map(text, cell.outputs))
    for cell in notebook.cells
    if cell.cell_type == "code"
  }


def text(output: Any) -> str:
  if output.output_type == "stream":
    return output.text if output.name == "stdout" else ""
  return output.data.get("text/plain", "")


def lines_lost(table: str) -> list[int]:
  """Reads the column `lines lost`, the third from the right."""
  rows = [line.split() for line in table.splitlines()]
  return [int(row[-3]) for row in rows if len(row) > 4 and row[-3].isdecimal()]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A directory to run in, from which the package is found."""
  monkeypatch.setenv("PYTHONPATH", str(conftest.ROOT))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
  work = tmp_path / "work"
  work.mkdir()
  return work


def test_nothing_but_sources_is_committed(notebook):
  nbformat.validate(notebook)
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  assert notebook.metadata.kernelspec.name == "python3"
  assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None
  # As it is written, so that a change is a small one.
  written = nbformat.writes(notebook, ensure_ascii=False, sort_keys=True)
  assert written + "\n" == PATH.read_text()


def test_what_it_installs_is_what_the_package_asks_for(notebook):
  pins = re.findall(
    r"([\w-]+)(?:\[\w+\])?==([\d.]+)", source(notebook, "install")
  )
  assert {"jax", "flax", "google-tunix"} <= {name for name, _ in pins}
  project = tomllib.loads((conftest.ROOT / "pyproject.toml").read_text())
  asked = map(requirements.Requirement, project["project"]["dependencies"])
  specifiers = {each.name: each.specifier for each in asked}
  for name, version in pins:
    assert version in specifiers[name], name


def test_where_it_installs_from(notebook, elsewhere, monkeypatch):
  code = source(notebook, "install").replace("%pip", "pass #")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.chdir(elsewhere)
  with pytest.raises(SystemExit, match="Set ADDRESS"):
    exec(code, {})
  monkeypatch.chdir(PATH.parent)
  names = {}
  exec(code, names)
  assert names["ADDRESS"] == conftest.ROOT.as_uri()


def test_adapters_are_trained_as_the_configs_of_qwen_say(notebook):
  names: dict[str, Any] = {"ttt": ttt, "imitator": "Qwen/Qwen2.5-0.5B-Instruct"}
  exec(source(notebook, "parameters"), names)
  names["LORA"] = {"rank": 16, "alpha": 32}
  exec(source(notebook, "untrained").partition("def show_games")[0], names)
  exec(source(notebook, "grpo").partition("player =")[0], names)
  for kind, own, file in (
    (ttt.SFTConfig, names["config"], "sft_qwen2.5_0.5b.yaml"),
    (ttt.GRPOConfig, names["playing"], "grpo_qwen2.5_0.5b.yaml"),
  ):
    ours = config_lib.to_dict(
      ttt.load_config(kind, own) if isinstance(own, dict) else own
    )
    theirs = config_lib.to_dict(
      ttt.load_config(kind, conftest.ROOT / "configs" / file)
    )
    assert ours["lora"] == theirs["lora"]
    assert ours["play"] == theirs["play"]
    for key in (
      "optimizer",
      "learning_rate",
      "batch_size",
      "gradient_accumulation_steps",
    ):
      assert ours["training"][key] == theirs["training"][key]


def test_its_names_are_there(notebook):
  used = set()
  for cell in notebook.cells:
    if cell.cell_type == "code":
      lines = [x for x in cell.source.splitlines() if "%" not in x[:4]]
      tree = ast.parse("\n".join(x for x in lines if "%pip" not in x) + "\n")
      used |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ttt"
      }
  assert {"train_sft", "train_grpo", "export_model"} <= used
  assert not [name for name in used if not hasattr(tunix_ttt, name)]


@pytest.mark.slow
def test_it_runs(notebook, elsewhere):
  found = execute(notebook, elsewhere, **SHORT)
  assert found["install"] == ""
  assert found["play-a-game"].endswith("ONGOING\n")
  assert "best replies to the centre: (0, 2, 6, 8)" in found["solver"]
  assert "as X: " in found["untrained"]
  assert len(lines_lost(found["exact-before"])) == 2
  assert len(lines_lost(found["exact-after"])) == 4
  assert "The model: " in found["play"]
  assert re.findall(r"(\d+)%", found["openings"])
  assert "model.safetensors" in found["export"]
  # What it writes lies where it runs, in directories that git ignores.
  assert {path.name for path in elsewhere.iterdir()} == {"artifacts"}
  runs = elsewhere / "artifacts" / "training_runs"
  assert (next(runs.glob("grpo-*/exported")) / "config.json").is_file()


@pytest.mark.slow
def test_it_teaches(notebook, elsewhere, monkeypatch):
  # Here most of the time is not compilation.
  monkeypatch.delenv("XLA_FLAGS")
  found = execute(notebook, elsewhere)
  x_before, o_before = lines_lost(found["exact-before"])
  again = lines_lost(found["exact-after"])
  assert again[:2] == [x_before, o_before]
  x_after, o_after = again[2:]
  assert x_after <= x_before and o_after < o_before / 2
  before, after = map(int, re.findall(r"(\d+)%", found["openings"]))
  assert after > 50 > before


def test_the_notebook_of_a_page_has_its_text_and_code():
  path = conftest.ROOT / "docs" / "notebook.py"
  spec: Any = importlib.util.spec_from_file_location("notebook", path)
  writer = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(writer)
  assert writer.build() == writer.NOTEBOOK.read_text()


@pytest.mark.slow
def test_a_game_of_ones_own_in_a_notebook(elsewhere, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS")
  path = PATH.with_name("your_own_game.ipynb")
  cells = execute(nbformat.read(path, as_version=4), elsewhere)
  assert "as first: " in cells["part-9"] and "0 lost" in cells["part-9"]
  assert (elsewhere / "grpo" / "report.html").is_file()
