"""The command `ttt`, from an installed wheel in an empty directory."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests import conftest
from tunix_ttt import cli
from tunix_ttt import config as config_lib

BUILT = ("configs", "evalsets", "training", "tunix_ttt")
RUN = "import sys; from tunix_ttt import cli; cli.main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """A directory with the wheel's files."""
  source = tmp_path_factory.mktemp("source")
  for name in BUILT:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(conftest.ROOT / name, source / name, ignore=ignored)
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(conftest.ROOT / name, source)
  build = (
    "import sys; from setuptools import build_meta as b; b.build_wheel('wheel')"
  )
  subprocess.run(
    [sys.executable, "-c", build], cwd=source, check=True, capture_output=True
  )
  (wheel,) = (source / "wheel").glob("*.whl")
  target = tmp_path_factory.mktemp("installed")
  zipfile.ZipFile(wheel).extractall(target)
  return target


@pytest.fixture
def ttt(installed, tmp_path):
  """Runs `ttt` in an empty directory."""

  def run(*arguments, cwd=".", typed=""):
    result = subprocess.run(
      [sys.executable, "-c", RUN, *arguments],
      cwd=tmp_path / cwd,
      input=typed,
      env=os.environ | {"PYTHONPATH": str(installed)},
      capture_output=True,
      text=True,
    )
    return result.returncode, result.stdout, result.stderr

  return run


def test_it_has_all_packages():
  project = tomllib.loads((conftest.ROOT / "pyproject.toml").read_text())
  listed = set(project["tool"]["setuptools"]["packages"])
  packages = {
    ".".join(path.parent.relative_to(conftest.ROOT).parts)
    for path in (conftest.ROOT / "tunix_ttt").rglob("__init__.py")
  }
  moved = set(project["tool"]["setuptools"]["package-dir"])
  assert listed == packages | moved


def test_it_has_all_assets(installed):
  assets = {
    path.relative_to(conftest.ROOT)
    for path in (conftest.ROOT / "tunix_ttt").rglob("assets/*")
  }
  assert len(assets) > 5
  assert all((installed / path).is_file() for path in assets)


def test_commands_are_the_scripts(ttt):
  code, out, _ = ttt("--help")
  assert code == 0 and "usage: ttt COMMAND" in out
  scripts = {p.stem for p in (conftest.ROOT / "training").glob("*.py")}
  named = {script for script, _ in cli.COMMANDS.values() if script}
  trainers = {f"train_{recipe}_tunix" for recipe in config_lib.RECIPES}
  # Those of a service are `ttt train --backend tinker`, too.
  on_service = {"train_sft_tinker", "train_grpo_tinker"}
  assert named | trainers | on_service == scripts


@pytest.mark.slow
def test_a_config_of_the_package_is_trained(ttt):
  code, out, err = ttt("train", "--config", "sft_tiny.yaml", "--dry-run")
  assert code == 0, err
  assert out.startswith("model    tiny-qwen2.5")
  result = ttt("train", "--config", "grpo_tiny", "--resume", "latest")
  conftest.refused(result, "--resume needs --output")


@pytest.mark.slow
def test_a_newcomers_path(ttt, tmp_path):
  """Trains, reports and plays away from a checkout, then again after a move."""

  def succeeds(*arguments, **options):
    code, out, err = ttt(*arguments, **options)
    assert code == 0, err
    return out

  few = ["--set", "training.max_steps=4", "training.warmup_steps=0"]
  cold = ["--config", "sft_cold_start", "--output", "COLD"]
  succeeds("train", *cold, *few, "data.games.num_games=300")
  model = ["--config", "grpo_tiny", "--model", "COLD/checkpoint-final"]
  succeeds("train", *model, "--output", "RUN", *few, "training.batch_size=32")
  games = ["--games-before", "COLD/games.jsonl"]
  out = succeeds("report", "--run", "RUN", *games, "--output", "page.html")
  table = [line for line in out.splitlines() if line.startswith("lost lines")]
  assert len(table) == 2
  play = ["play", "--model", "RUN/checkpoint-final", "--as", "x"]
  assert "A1 | A2 | A3" in succeeds(*play, typed="q\n")
  shutil.rmtree(tmp_path / "COLD")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "RUN").rename(tmp_path / "elsewhere" / "moved")
  moved = ["--model", "moved/checkpoint-final"]
  in_elsewhere = {"cwd": "elsewhere"}
  assert "A1 | A2 | A3" in succeeds("play", *moved, "--as", "x", **in_elsewhere)
  second_table = succeeds(
    "report", "--run", "moved", "--output", "p.html", **in_elsewhere
  )
  for line in table:
    # Its last words are the result after training, such as "3 of 90".
    assert line.split()[-3:] == next(
      other.split()[-3:]
      for other in second_table.splitlines()
      if other.split()[:4] == line.split()[:4]
    )
  succeeds("export", *moved, "--output", "exported", **in_elsewhere)
  assert (tmp_path / "elsewhere/exported/model.safetensors").is_file()


def test_mistakes(ttt):
  conftest.refused(ttt("trane"), "there is no command 'trane'; commands are")
  conftest.refused(ttt("train", "--config", "none.yaml"), "none.yaml: no such")
