"""Installed versions are compared with the package's own metadata."""

import importlib.metadata
import tomllib

import packaging.requirements
import pytest

from tests import conftest
from tests import oldest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt import requirements

REQUIRED = [
  "jax>=0.10,<0.13",
  "flax<0.13,>=0.12.8",
  'wandb>=0.20; extra == "tracking"',
  'colorama>=0.4; sys_platform == "nowhere"',
]


def pretend(monkeypatch, required, installed):
  """Replaces what the package requires, and the versions of some packages."""
  version = importlib.metadata.version

  def found(name):
    if installed.get(name, "") is None:
      raise importlib.metadata.PackageNotFoundError(name)
    return installed.get(name) or version(name)

  monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
  monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.parametrize(
  "jax", ["0.10", "0.10.0", "0.12.99", "0.12.1.dev20260101", "0.11.0+local"]
)
def test_versions_within_bounds(monkeypatch, jax):
  pretend(monkeypatch, REQUIRED, {"jax": jax, "flax": "0.12.8"})
  requirements.check()


@pytest.mark.parametrize("jax", ["0.9.2", "0.13", "0.13.0.1", "1.0"])
def test_a_version_out_of_bounds(monkeypatch, jax):
  pretend(monkeypatch, REQUIRED, {"jax": jax, "flax": "0.12.9"})
  with pytest.raises(errors.UserError) as error:
    requirements.check()
  assert str(error.value) == (
    f"tunix_ttt needs jax<0.13,>=0.10 (found {jax}); run: python -m pip install"
    " 'jax<0.13,>=0.10'"
  )


def test_all_are_named_at_once(monkeypatch):
  pretend(monkeypatch, REQUIRED, {"jax": "0.9", "flax": None})
  with pytest.raises(errors.UserError) as error:
    requirements.check()
  assert str(error.value) == (
    "tunix_ttt needs jax<0.13,>=0.10 (found 0.9), flax<0.13,>=0.12.8 (not"
    " installed); run: python -m pip install 'jax<0.13,>=0.10'"
    " 'flax<0.13,>=0.12.8'"
  )


def test_a_script_says_it_and_writes_nothing(run, monkeypatch, tmp_path):
  pretend(monkeypatch, ["google-tunix==0.1.7"], {"google-tunix": "0.1.6"})
  script = conftest.ROOT / "training/train_sft_tunix.py"
  config = conftest.ROOT / "configs/sft_tiny.yaml"
  result = run(script, "--config", config, "--output", tmp_path / "run")
  conftest.refused(
    result,
    "needs google-tunix==0.1.7 (found 0.1.6); run: python -m pip install",
  )
  assert not list(tmp_path.iterdir())


def test_training_from_python_says_it(monkeypatch, tmp_path):
  pretend(monkeypatch, REQUIRED, {"jax": "0.9"})
  with pytest.raises(errors.UserError, match="found 0.9"):
    recipes.train_sft(config_lib.SFTConfig(), tmp_path / "run")
  with pytest.raises(errors.UserError, match="found 0.9"):
    recipes.resume(tmp_path, config_lib.SFTConfig())
  assert not list(tmp_path.iterdir())


def test_a_source_tree_that_is_not_installed(monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "requires", missing)
  requirements.check()


def test_bounds_are_complete_and_the_oldest_versions_are_theirs():
  path = conftest.ROOT / "pyproject.toml"
  project = tomllib.loads(path.read_text())["project"]
  expected = []
  for text in project["dependencies"]:
    requirement = packaging.requirements.Requirement(text)
    bounds = {part.operator: part.version for part in requirement.specifier}
    # Its versions are years.
    if requirement.name != "packaging":
      assert bounds.keys() in ({">=", "<"}, {"=="}), text
    expected.append(f"{requirement.name}=={bounds.get('>=') or bounds['==']}")
  assert [*oldest.constraints()][: len(expected)] == expected
