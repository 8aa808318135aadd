"""The notebooks: their pages, their outputs, and their execution from a wheel."""

import ast
import contextlib
import copy
import importlib.util
import io
import json
import re
import tomllib
from typing import Any

import nbformat
from packaging import requirements
import pytest

from tests import conftest
from tests import test_wheel
import tunix_ttt
from tunix_ttt.evaluate import partner
from tunix_ttt.games import catalog

installed = test_wheel.installed
PATH = conftest.ROOT / "docs" / "notebook.py"
SPEC: Any = importlib.util.spec_from_file_location("notebook", PATH)
writer = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(writer)
# Bytes that read well on GitHub.
MAX_SIZE = 200_000
# What differs from one machine or day to the next.
PRIVATE = re.compile(
  r"(?<![\w.])/(?:tmp|home|root|work|usr)\b|20\d\d-?[01]\d-?[0-3]\d"
  r"|tokens/s|site-packages"
)
# Blocks of a page that train or need a trained model.
LONG = re.compile(r"^```py\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
CORNERS = re.compile(r"^corner openings \w+: +(\d+)%$", re.MULTILINE)
# Enough to run every cell of the first run; the model learns next to nothing.
SHORT = {
  "NUM_GAMES": 100,
  "SFT_STEPS": 2,
  "GRPO_STEPS": 1,
  "OWN_REWARD_STEPS": 1,
  "MODEL": {"name": "tiny-qwen2.5", **conftest.SMALL_MODEL.shape()},
}


def path_of(name):
  return writer.NOTEBOOKS / f"{name}.ipynb"


def committed(name):
  return nbformat.read(path_of(name), as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> dict[str, str]:
  """Returns the text of each cell's outputs."""
  return {
    cell.id: "".join(map(text, cell.outputs)) for cell in code_cells(notebook)
  }


def text(output: Any) -> str:
  if output.output_type == "stream":
    return output.text if output.name == "stdout" else ""
  return output.data.get("text/plain", "")


def execute(name, directory, **parameters: Any) -> dict[str, str]:
  """Runs a notebook in a directory; returns the text of each cell's outputs."""
  notebook = writer.build(name)
  lines = [f"{key} = {value!r}" for key, value in parameters.items()]
  for cell in code_cells(notebook):
    if cell.id == "parameters":
      cell.source += "\n" + "\n".join(lines)
  writer.execute(notebook, directory)
  return printed(notebook)


def run_cell(source: str, names: dict[str, Any]) -> str:
  """Runs a cell's code; returns the text of its outputs."""
  tree, value, last = ast.parse(source), None, None
  if isinstance(tree.body[-1], ast.Expr):
    last = tree.body.pop()
  with contextlib.redirect_stdout(io.StringIO()) as out:
    exec(ast.unparse(tree), names)
    if last:
      value = eval(ast.unparse(last), names)
  return out.getvalue() + ("" if value is None else repr(value))


class Replay:
  """A partner that repeats the answers of a recorded game."""

  def __init__(self, recorded: str):
    self.game = catalog.load("tictactoe")
    self.seed = 0
    self._answers = iter(
      re.findall(r"^The model: (.+?)\n\n", recorded, re.MULTILINE | re.DOTALL)
    )

  def answer(self, seat, moves):
    del seat, moves
    response = next(self._answers)
    _, _, move = response.partition("<move>")
    action = self.game.read_move(move.removesuffix("</move>").lower())
    assert action is not None, response
    return [partner.Answer(response, action, is_legal=True)]


def numbers(table: str, column: int) -> list[float]:
  """Reads a column of numbers of a table, counted from the right."""
  rows = [line.split() for line in table.splitlines()]
  values = [row[-column] for row in rows if len(row) > column]
  return [float(x) for x in values if re.fullmatch(r"-?[\d.]+", x)]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, installed):
  """A directory to run in, from which only the wheel's package is found."""
  monkeypatch.setattr(writer, "PACKAGE", installed)
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
  # What is compiled is kept as it is for anyone.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
  work = tmp_path / "work"
  work.mkdir()
  return work


@pytest.fixture
def fast_code(monkeypatch):
  """Compiles as on any machine, where most of the time is not compilation."""
  monkeypatch.delenv("XLA_FLAGS")


def test_there_are_five():
  paths = sorted(writer.NOTEBOOKS.glob("*.ipynb"))
  assert paths == sorted(map(path_of, writer.PAGES)) and len(paths) == 5


@pytest.mark.parametrize("name", writer.PAGES)
def test_it_has_the_text_and_the_code_of_its_page(name):
  notebook = committed(name)
  nbformat.validate(notebook)
  text = nbformat.writes(notebook, ensure_ascii=False, sort_keys=True)
  assert text + "\n" == path_of(name).read_text()
  for cell in code_cells(notebook):
    cell.outputs, cell.execution_count = [], None
  assert notebook == writer.build(name)


@pytest.mark.parametrize("name", writer.PAGES)
def test_its_outputs_are_whole_and_small(name):
  cells = code_cells(committed(name))
  # All cells were run once, in order.
  assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
  assert path_of(name).stat().st_size < MAX_SIZE
  assert any(cell.outputs for cell in cells)
  for cell in cells:
    for output in cell.outputs:
      assert output.output_type != "error"
      assert output.get("name", "stdout") == "stdout"
    outputs = json.dumps([text(output) for output in cell.outputs])
    assert not PRIVATE.search(outputs), cell.id
    assert outputs.count("\\n") < 60, cell.id


@pytest.mark.parametrize("name", writer.PAGES)
def test_outputs_of_cells_without_training_are_current(name):
  long = LONG.findall(writer.PAGES[name].read_text())
  names: dict[str, Any] = {"__name__": name}
  outputs = printed(committed(name))
  for cell in code_cells(committed(name)):
    if cell.id != "install" and not any(code in cell.source for code in long):
      assert run_cell(cell.source, names) == outputs[cell.id], cell.id


def test_the_game_against_the_model_is_current(monkeypatch):
  (cell,) = (
    cell
    for cell in code_cells(committed("first_run"))
    if cell.id == "play-against-it"
  )
  recorded = "".join(map(text, cell.outputs))
  replay = Replay(recorded)
  monkeypatch.setattr(tunix_ttt, "Partner", lambda *_: replay)
  names = {"ttt": tunix_ttt, "player_model": None, "config": None}
  assert run_cell(cell.source, names) == recorded


def test_changing_parts_of_outputs_are_left_out():
  stream = nbformat.v4.new_output("stream", name="stdout", text="")
  stream.text = (
    "model artifacts/training_runs/x: 1 parameter\n"
    "step 1/2  loss 0.1  3,145 tokens/s  00:01 left\n"
  )
  assert writer.clean(copy.deepcopy(stream)).text == "step 1/2  loss 0.1\n"
  stream.name = "stderr"
  assert writer.clean(stream) is None


def test_outputs_are_kept_while_the_code_is_the_same(tmp_path, monkeypatch):
  monkeypatch.setattr(writer, "NOTEBOOKS", tmp_path)
  notebook = writer.build("your_own_game")
  code_cells(notebook)[1].execution_count = 7
  writer.write("your_own_game", notebook)
  monkeypatch.setattr("sys.argv", ["notebook.py", "your_own_game"])
  writer.main()
  assert code_cells(committed("your_own_game"))[1].execution_count == 7
  page = tmp_path / "page.md"
  page.write_text(writer.PAGES["your_own_game"].read_text() + "\nThe end.\n")
  monkeypatch.setitem(writer.PAGES, "your_own_game", page)
  writer.main()
  notebook = committed("your_own_game")
  assert notebook.cells[-1].source.endswith("The end.")
  assert code_cells(notebook)[1].execution_count == 7
  page.write_text(page.read_text().replace("jnp.int32(9)", "jnp.int32(8)"))
  writer.main()
  assert code_cells(committed("your_own_game"))[1].execution_count is None


def test_what_it_installs_is_what_the_package_asks_for():
  pins = re.findall(r"([\w-]+)(?:\[\w+\])?==([\d.]+)", writer.INSTALL)
  assert {"jax", "flax", "google-tunix"} <= {name for name, _ in pins}
  project = tomllib.loads((conftest.ROOT / "pyproject.toml").read_text())
  asked = map(requirements.Requirement, project["project"]["dependencies"])
  specifiers = {each.name: each.specifier for each in asked}
  for name, version in pins:
    assert version in specifiers[name], name
  assert f"tunix_ttt-{tunix_ttt.__version__}-py3-none-any.whl" in writer.SETUP


def test_where_it_installs_from(tmp_path, monkeypatch, capsys):
  code = re.sub("^( *)%", r"\1pass #", writer.INSTALL, flags=re.MULTILINE)
  assert "://" not in re.sub("git[+]https://", "", code)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match="Put its wheel beside this notebook"):
    exec(code, {})
  monkeypatch.chdir(writer.NOTEBOOKS)
  names = {}
  exec(code, names)
  assert names["ADDRESS"] == conftest.ROOT.as_uri()
  monkeypatch.chdir(tmp_path)
  wheel = tmp_path / "tunix_ttt-0.1.0-py3-none-any.whl"
  wheel.touch()
  exec(code, {})
  assert capsys.readouterr().out.endswith(f"from {wheel.as_uri()}\n")
  names = {}
  exec(code.replace('ADDRESS = ""', 'ADDRESS = "git+x@1"'), names)
  assert names["ADDRESS"] == "git+x@1"


@pytest.mark.parametrize("name", writer.PAGES)
def test_its_names_are_there(name):
  used = set()
  for cell in code_cells(writer.build(name)):
    if cell.id == "install":
      continue
    used |= {
      node.attr
      for node in ast.walk(ast.parse(cell.source))
      if isinstance(node, ast.Attribute)
      and isinstance(node.value, ast.Name)
      and node.value.id == "ttt"
    }
  assert used or name == "your_own_game"
  assert not [name for name in used if not hasattr(tunix_ttt, name)]


@pytest.mark.slow
def test_the_first_run_runs(elsewhere):
  cells = execute("first_run", elsewhere, **SHORT)
  assert cells["install"] == ""
  assert cells["the-game"].endswith("ONGOING\n")
  assert "best replies to the center: (0, 2, 6, 8)" in cells["the-solver"]
  assert "as X: " in cells["a-model-that-knows-nothing"]
  assert "The model: " in cells["play-against-it"]
  assert len(CORNERS.findall(cells["your-own-reward"])) == 2
  assert "model.safetensors" in cells["take-it-with-you"]
  # What it writes lies where it runs, in directories that git ignores.
  assert {path.name for path in elsewhere.iterdir()} == {"artifacts"}
  runs = elsewhere / "artifacts" / "training_runs"
  assert (next(runs.glob("grpo-*/exported")) / "config.json").is_file()


@pytest.mark.slow
def test_the_first_run_teaches(elsewhere, fast_code):
  cells = execute("first_run", elsewhere)
  before = numbers(cells["imitation-supervised-fine-tuning-2"], 3)
  x_before, o_before, x_after, o_after = numbers(cells["playing-grpo-4"], 3)
  assert before == [x_before, o_before]
  assert x_after <= x_before and o_after < o_before / 2
  before, after = map(int, CORNERS.findall(cells["your-own-reward"]))
  assert after > 50 > before


@pytest.mark.slow
def test_your_own_game(elsewhere, fast_code):
  cells = execute("your_own_game", elsewhere)
  assert "as first: " in cells["train-and-judge-2"]
  assert "0 lost" in cells["train-and-judge-2"]
  assert (elsewhere / "grpo" / "report.html").is_file()


@pytest.mark.slow
def test_self_play(elsewhere, fast_code):
  cells = execute("self_play", elsewhere, GRPO_STEPS=50)
  meter = cells["a-meter-that-cannot-be-fooled"]
  assert numbers(meter, 1) == [0, 0, 0.9167, 0.6667, 2]
  table = cells["two-meters"]
  start, against_random, against_itself = numbers(table, 2)
  assert against_random > max(start, against_itself)
  start, against_random, against_itself = numbers(table, 1)
  assert against_itself + 0.1 < against_random < start - 0.1


@pytest.mark.slow
def test_adapters(elsewhere):
  cells = execute("adapters", elsewhere, SFT_STEPS=30, GRPO_STEPS=2)
  assert "model.safetensors" in cells["the-base"]
  assert "trained" in cells["what-will-be-trained"]
  assert len(numbers(cells["playing-from-the-adapter-on"], 2)) == 6
  saved = cells["what-was-trained-and-what-was-not"]
  assert "adapter: {'rank': 8" in saved and saved.endswith(": 29,184\n")
  assert "equal answers: 64 of 64" in cells["merge-and-compare"]


@pytest.mark.slow
def test_silent_failures(elsewhere):
  cells = execute("silent_failures", elsewhere, SFT_STEPS=60)
  clean = cells["a-poor-player-and-two-steps-without-a-mistake"]
  assert clean.endswith("checks without a mistake: nothing\n")
  assert cells["all-twelve"].endswith("12 of 12\n")
