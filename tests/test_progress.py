"""What is shown of work: bars, lines of what takes long, and nothing in quiet."""

import io
import logging
import os
import sys
import threading
import time

import absl.logging
import pytest

from tests import conftest
from tunix_ttt.runs import progress


class Terminal(io.StringIO):
  """A stderr that says it is a terminal."""

  def isatty(self):
    return True


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
  monkeypatch.setattr(progress, "quiet", False)
  names = ("tunix_ttt", "absl", "jax", "orbax", "tunix", "qwix", "flax")
  levels = {name: logging.getLogger(name).level for name in names}
  verbosity = absl.logging.get_verbosity()
  yield
  absl.logging.set_verbosity(verbosity)
  for name, level in levels.items():
    logging.getLogger(name).setLevel(level)


def test_what_takes_long_is_told_once(capsys, monkeypatch):
  monkeypatch.setattr(progress, "PATIENCE", 0.05)
  threads = threading.active_count()
  with progress.stage("waiting"):
    time.sleep(0.3)
  with progress.stage("hurrying"):
    pass
  time.sleep(0.1)
  assert capsys.readouterr().err == "waiting …\n"
  assert threading.active_count() <= threads


def test_a_terminal_has_bars_instead(capsys, monkeypatch):
  monkeypatch.setattr(progress, "PATIENCE", 0.01)
  stderr = Terminal()
  monkeypatch.setattr(sys, "stderr", stderr)
  with (
    progress.bar(total=2, unit="game", desc="playing") as bar,
    progress.stage("playing", has_bar=True),
  ):
    time.sleep(0.1)
    bar.update(2)
  shown = stderr.getvalue()
  assert "playing: 100%" in shown and "…" not in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet(terminal, capsys, monkeypatch):
  monkeypatch.setattr(progress, "PATIENCE", 0.01)
  stderr = Terminal()
  if terminal:
    monkeypatch.setattr(sys, "stderr", stderr)
  monkeypatch.setattr(progress, "quiet", True)
  progress.say("step 1")
  with progress.stage("waiting"):
    time.sleep(0.1)
  assert [*progress.bar(range(3), total=3, unit="step")] == [0, 1, 2]
  out, err = capsys.readouterr()
  assert not out and not err
  assert not stderr.getvalue()


def test_levels(monkeypatch):
  monkeypatch.setattr(os, "environ", dict(os.environ))
  ours, theirs = logging.getLogger("tunix_ttt"), logging.getLogger("jax")
  for quiet, level, expected in (
    (False, None, ("INFO", "ERROR")),
    (True, None, ("ERROR", "ERROR")),
    (False, "debug", ("DEBUG", "DEBUG")),
    (True, "warning", ("WARNING", "WARNING")),
  ):
    progress.set_up(quiet, level)
    found = [logging.getLevelName(log.level) for log in (ours, theirs)]
    assert tuple(found) == expected
    assert absl.logging.level_debug() == (level == "debug")
  assert "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ


def test_a_quiet_run_says_its_result_alone(run, tmp_path):
  path = tmp_path / "config.yaml"
  path.write_text(
    "model: {num_layers: 1, embed_dim: 32, hidden_dim: 32, num_heads: 2,"
    " num_kv_heads: 1, head_dim: 16}\n"
    "data: {games: {num_games: 40}}\n"
    "training: {max_steps: 2, batch_size: 8}\n"
  )
  script = conftest.ROOT / "training/train_sft_tunix.py"
  common = (script, "--config", path, "--set", "logging.report=false")
  common += ("--output",)
  code, out, err = run(*common, tmp_path / "a", "--quiet")
  assert code == 0 and not err
  assert out == f"trained model: {tmp_path}/a/checkpoint-final\n"
  (log,) = tmp_path.glob("a/*.txt")
  assert "Step 2" in log.read_text()
  code, _, err = run(*common, tmp_path / "a", "--quiet")
  assert code == 2 and err.startswith("error: ")


def test_a_library_hushes_others_unless_they_were_asked(monkeypatch):
  monkeypatch.setattr(progress, "_is_set_up", False)
  logging.getLogger("absl").setLevel(logging.WARNING)
  logging.getLogger("jax").setLevel(logging.DEBUG)
  progress.hush()
  assert logging.getLogger("absl").level == logging.ERROR
  assert logging.getLogger("jax").level == logging.DEBUG
  progress.set_up(False, "warning")
  progress.hush()
  assert logging.getLogger("absl").level == logging.WARNING
