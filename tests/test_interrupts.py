"""Ctrl-C and SIGTERM, sent to real processes: what is saved, said and left."""

import _imp
import dataclasses
import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from tests import conftest
from tests import test_grpo
from tests import test_meshes
from tests import test_processes
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt import recipes
from tunix_ttt.evaluate import matches
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import run_directory
from tunix_ttt.train import recorder

INT, TERM = signal.SIGINT, signal.SIGTERM


def ended(process: subprocess.Popen, code: int) -> tuple[str, str]:
  """Waits for a process; the last line it said and the command in that."""
  _, err = process.communicate(timeout=300)
  assert process.returncode == code, err
  last = err.splitlines()[-1]
  return last, last.partition(". To resume: ")[2]


def again(command: str) -> subprocess.Popen:
  """Starts the command that a message names."""
  python, *rest = shlex.split(command)
  # An interpreter within the checkout is named by its path.
  assert python == "python" or (conftest.ROOT / python).samefile(sys.executable)
  return subprocess.Popen(
    [sys.executable, *rest],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=conftest.ROOT,
    text=True,
  )


def write(config, path):
  path.write_text(yaml.safe_dump(config_lib.to_dict(config)))
  return path


def saved(run) -> int:
  return max(run_directory.checkpoint_steps(run))


def test_before_the_first_step(tmp_path):
  path = write(test_sft.CONFIG, tmp_path / "config.yaml")
  run = tmp_path / "run"
  process = conftest.start(test_sft.SCRIPT, path, run)
  conftest.wait_for(process, run.is_dir)
  process.send_signal(INT)
  line, command = ended(process, 130)
  assert line.startswith("interrupted; nothing was trained yet. To resume: ")
  assert f" --output {run} " in command and command.endswith("--resume latest")


@pytest.mark.slow
def test_a_run_ends_as_if_it_had_not_been_interrupted(tmp_path):
  config = dataclasses.replace(
    test_sft.CONFIG,
    training=dataclasses.replace(
      test_sft.CONFIG.training, max_steps=90, eval_every_n_steps=25
    ),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=80),
  )
  path, run = write(config, tmp_path / "config.yaml"), tmp_path / "run"
  process = conftest.start(test_sft.SCRIPT, path, run)
  conftest.signal_at(process, run, 4, TERM)
  line, command = ended(process, 143)
  assert saved(run) >= 4
  assert f" --output {run} " in command and command.endswith("--resume latest")
  assert f"at step {saved(run)}, which is saved. To resume: " in line
  process = again(command)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  assert f"trained model: {run}/checkpoint-final" in out

  whole = recipes.train_sft(config, tmp_path / "whole")
  assert test_sft.rows(run) == test_sft.rows(whole)
  assert test_sft.final(run) == test_sft.final(whole)
  assert test_sft.optimizer_state(run) == test_sft.optimizer_state(whole)


@pytest.mark.parametrize("step", [3, 4, 8])
def test_in_a_library(step, sft_run, tmp_path, monkeypatch):
  """After an evaluation, after any step and after the last one."""
  handlers = [signal.getsignal(number) for number in interrupts.SIGNALS]
  record = recorder.Recorder.train

  def press(self, number, *arguments):
    record(self, number, *arguments)
    if number == step:
      signal.raise_signal(INT)

  run = tmp_path / "run"
  monkeypatch.setattr(recorder.Recorder, "train", press)
  with pytest.raises(KeyboardInterrupt) as found:
    recipes.train_sft(test_sft.CONFIG, run)
  at = saved(run)
  assert step <= at <= step + 1
  assert str(found.value) == (
    f"interrupted at step {at}, which is saved. To resume: resume(config,"
    f" {str(run)!r})"
  )
  assert handlers == [signal.getsignal(n) for n in interrupts.SIGNALS]
  monkeypatch.undo()
  recipes.resume(run, test_sft.CONFIG)
  assert test_sft.rows(run) == test_sft.rows(sft_run)
  assert test_sft.optimizer_state(run) == test_sft.optimizer_state(sft_run)


def test_while_a_finished_run_plays_its_games(tmp_path, sft_run, monkeypatch):
  run = tmp_path / "run"
  shutil.copytree(sft_run, run)
  for name in (run_directory.PAGE, run_directory.GAMES):
    (run / name).unlink(missing_ok=True)
  monkeypatch.setattr(matches, "table", lambda _: signal.raise_signal(INT))
  config = dataclasses.replace(
    test_sft.CONFIG, logging=config_lib.LoggingConfig(report=True)
  )
  with pytest.raises(KeyboardInterrupt) as found:
    recipes.report(run, config)
  assert f"; step {saved(run)} is saved. To resume: " in str(found.value)
  assert (run / run_directory.GAMES).exists()


def test_at_once_before_the_first_step_and_the_second_time():
  with (
    pytest.raises(interrupts.Interrupted) as found,
    interrupts.between_steps(),
  ):
    signal.raise_signal(TERM)
  assert found.value.exit_code == 143
  with (
    pytest.raises(interrupts.Interrupted) as found,
    interrupts.between_steps() as stop,
  ):
    assert not stop.is_asked()
    signal.raise_signal(INT)
    # A launcher's copy of the first.
    signal.raise_signal(INT)
    assert stop.is_asked()
    time.sleep(0.3)
    signal.raise_signal(INT)
  assert found.value.exit_code == 130


def test_is_not_lost_in_a_callback():
  class Collected:
    def __del__(self):
      signal.raise_signal(TERM)
      pytest.fail("goes on")

  with (
    pytest.raises(interrupts.Interrupted) as found,
    interrupts.between_steps(),
  ):
    Collected()
    time.sleep(60)
  assert found.value.exit_code == 143


def test_is_not_lost_where_compiled_code_calls_python():
  with pytest.raises(interrupts.Interrupted), interrupts.between_steps():
    try:
      signal.raise_signal(INT)
    except interrupts.Interrupted as error:
      raise SystemError from error


def test_waits_until_a_library_is_loaded(monkeypatch):
  """An exception in the midst of that ends the process, in JAX's."""
  create = _imp.create_dynamic
  loaded = []

  def press(*arguments):
    signal.raise_signal(INT)
    loaded.append(create(*arguments))
    return loaded[0]

  monkeypatch.setattr(_imp, "create_dynamic", press)
  spec = importlib.util.find_spec("_lsprof")
  assert spec is not None
  with pytest.raises(interrupts.Interrupted), interrupts.between_steps():
    importlib.util.module_from_spec(spec)
    time.sleep(60)
  assert loaded


def test_waits_until_a_temporary_is_removed(tmp_path, monkeypatch):
  remove = files.remove

  def press(path):
    signal.raise_signal(INT)
    remove(path)

  monkeypatch.setattr(files, "remove", press)
  with pytest.raises(interrupts.Interrupted), interrupts.between_steps():
    with pytest.raises(ValueError), files.new_file(tmp_path / "x"):
      raise ValueError
    time.sleep(60)
  assert not [*tmp_path.iterdir()]


def test_signals_are_the_main_threads():
  before = signal.getsignal(INT)
  found = []

  def work():
    with interrupts.between_steps() as stop, interrupts.in_script():
      found.extend([signal.getsignal(INT), stop.is_asked()])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [before, False]


# Stands for a step that Python cannot interrupt.
STUCK = """
import pathlib, sys, time
from tunix_ttt import cli
from tunix_ttt.runs import interrupts

def main():
  run = pathlib.Path(sys.argv[1])
  interrupts.resume_command = lambda run: cli.same_command("--resume latest")
  with interrupts.working_on(run), interrupts.between_steps() as stop:
    stop.is_asked()
    print("begun", flush=True)
    pow(3, 10**9)

cli.run(main)
"""


@pytest.mark.parametrize(
  "number", [INT, pytest.param(TERM, marks=pytest.mark.slow)]
)
def test_the_second_ends_at_once(number, tmp_path):
  (tmp_path / "checkpoints/7").mkdir(parents=True)
  process = subprocess.Popen(
    [sys.executable, "-c", STUCK, tmp_path],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=conftest.ROOT,
  )
  assert process.stdout is not None and process.stdout.readline() == "begun\n"
  process.send_signal(number)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(number)
  line, _ = ended(process, 128 + number)
  assert re.match(
    r"interrupted; step 7 is saved. To resume: \S*python -c", line
  )


@pytest.mark.parametrize(
  "number", [INT, pytest.param(TERM, marks=pytest.mark.slow)]
)
def test_other_scripts_leave_nothing(number, tmp_path):
  output = tmp_path / "made" / "games.jsonl"
  output.parent.mkdir()
  process = subprocess.Popen(
    [
      sys.executable,
      conftest.ROOT / "training/generate_data.py",
      *("--kind", "games", "--count", "1000000", "--output", output),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  # Its rows go into a file beside it.
  conftest.wait_for(process, lambda: any(tmp_path.glob("made/.*")))
  process.send_signal(number)
  line, _ = ended(process, 128 + number)
  assert line == "interrupted"
  assert not [*output.parent.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_games(staleness, tmp_path):
  config = test_grpo.changed(
    test_grpo.CONFIG, "training", max_steps=24, eval_every_n_steps=8
  )
  config = test_grpo.changed(config, "rollout", max_staleness=staleness)
  config = test_grpo.changed(config, "checkpoint", save_interval_steps=5)
  path, run = write(config, tmp_path / "config.yaml"), tmp_path / "run"
  process = conftest.start("train_grpo_tunix", path, run)
  conftest.signal_at(process, run, 7, INT)
  line, command = ended(process, 130)
  found = re.match(r"interrupted at step (\d+)(.*?) is saved", line)
  assert found
  if staleness:
    # Not exact between checkpoints, as games are begun a step ahead.
    assert saved(run) % 5 == 0
  else:
    assert found[2] == ", which" and int(found[1]) == saved(run) >= 7
  assert any((run / run_directory.TENSORBOARD).iterdir())
  process = again(command)
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  whole = test_grpo.train(config, tmp_path / "whole")
  assert test_grpo.rows(run) == test_grpo.rows(whole)
  assert test_grpo.final(run) == test_grpo.final(whole)
  assert (run / run_directory.ROLLOUTS).read_text() == (
    whole / run_directory.ROLLOUTS
  ).read_text()


@pytest.mark.slow
def test_several_processes_end_at_the_same_step(tmp_path):
  config = dataclasses.replace(
    test_sft.CONFIG,
    mesh=test_meshes.FSDP,
    training=dataclasses.replace(
      test_sft.CONFIG.training, max_steps=200, eval_every_n_steps=100
    ),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=150),
  )
  run = tmp_path / "run"
  first, second = test_processes.start("train_sft_tunix", config, run)
  # One of them is told; not the one that writes.
  conftest.signal_at(second, run, 7, TERM)
  line, _ = ended(first, 143)
  second.communicate(timeout=60)
  assert second.returncode == 143
  assert f"at step {saved(run)}, which is saved" in line
  test_processes.finish(
    test_processes.start("train_sft_tunix", config, run, "--resume", "latest")
  )
  whole = recipes.train_sft(config, tmp_path / "whole")
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  test_meshes.assert_alike(run, whole)


def test_a_background_job_is_not_interrupted():
  before = signal.signal(INT, signal.SIG_IGN)
  try:
    with interrupts.between_steps() as stop:
      stop.is_asked()
      signal.raise_signal(INT)
      assert not stop.is_asked()
  finally:
    signal.signal(INT, before)
