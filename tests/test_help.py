"""The help of every script: complete, and with an example that works."""

import argparse
import runpy
import shlex

import pytest

from tests import conftest
from tunix_ttt import cli

SCRIPTS = sorted((conftest.ROOT / "training").glob("*.py"))
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def parsers(script, monkeypatch) -> list[argparse.ArgumentParser]:
  """A script's parser, and those of its commands."""
  found = []

  def keep(parser, args=None, namespace=None):
    found.append(parser)
    raise SystemExit

  with monkeypatch.context() as patched:
    patched.setattr(cli._Parser, "parse_args", keep)
    with pytest.raises(SystemExit):
      runpy.run_path(str(script))["_parse"]()
  for parser in found:
    for action in parser._actions:
      if isinstance(action, argparse._SubParsersAction):
        found.extend(action.choices.values())
  return found


@each_script
def test_everything_is_explained(script, run, monkeypatch):
  code, out, _ = run(script, "--help")
  assert code == 0
  found = parsers(script, monkeypatch)
  description = " ".join((found[0].description or "").split())
  assert description and description in " ".join(out.split())
  for parser in found:
    for action in parser._actions:
      # A list of commands explains each.
      if not isinstance(action, argparse._SubParsersAction):
        assert action.help, f"{parser.prog}: {action.dest}"


@each_script
def test_defaults_are_told(script, monkeypatch):
  for parser in parsers(script, monkeypatch):
    text = parser.format_help()
    assert "(default: None)" not in text and "(default: False)" not in text
    for action in parser._actions:
      value = action.default
      if isinstance(value, (bool, list)) or value in (None, argparse.SUPPRESS):
        continue
      assert f"(default: {value})" in " ".join(text.split())


@each_script
def test_the_example_parses(script, run, monkeypatch):
  _, out, _ = run(script, "--help")
  first, *_, last = out.rpartition("example:\n")
  assert first and len(last.strip().splitlines()) == 1
  python, path, *words = shlex.split(last)
  assert (python, path) == ("python", f"training/{script.name}")
  known = {
    flag
    for parser in parsers(script, monkeypatch)
    for flag in parser._option_string_actions
  }
  assert {word for word in words if word.startswith("-")} <= known
  monkeypatch.setattr("sys.argv", [path, *words])
  flags = runpy.run_path(str(script))["_parse"]()
  # Files of the repository that it names are there.
  for word in words:
    if word.startswith(("configs/", "evalsets/")):
      assert (conftest.ROOT / word).is_file(), word
  assert flags is not None


def test_quiet_stands_before_and_after_a_command(run, monkeypatch):
  path = conftest.ROOT / "training/evalset.py"
  for words in (["--quiet", "validate"], ["validate", "--quiet"]):
    evalset = conftest.ROOT / "evalsets/eval_v1.jsonl"
    code, out, err = run(path, *words, evalset)
    assert code == 0 and "46 items" in out and not err
