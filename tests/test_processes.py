"""Runs of two processes, on a device each, and what happens if one is killed."""

import dataclasses
import signal
import socket
import subprocess
import threading
import time

import jax
import pytest
import yaml

from tests import conftest
from tests import test_grpo
from tests import test_meshes
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.models import meshes
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Longer than it takes until a process is missed, by the setting below.
SECONDS = 60
LOST = "cannot be reached; start all processes again, with --resume latest"


def start(script, config, run, *flags) -> list[subprocess.Popen]:
  """Starts two processes of a run."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  path = run.parent / "config.yaml"
  path.write_text(yaml.safe_dump(config_lib.to_dict(config)))
  settings = (
    f"distributed.coordinator=localhost:{port}",
    "distributed.num_processes=2",
    "distributed.heartbeat_timeout_seconds=10",
  )
  return [
    conftest.start(
      script,
      path,
      run,
      *flags,
      "--set",
      *settings,
      f"distributed.process_id={number}",
      devices=1,
    )
    for number in (0, 1)
  ]


def finish(processes) -> list[tuple[str, str]]:
  """Waits for processes; what they said."""
  said = [process.communicate(timeout=300) for process in processes]
  for process, (_, err) in zip(processes, said, strict=True):
    assert process.returncode == 0, err
  return said


def kill(processes, run, step, number):
  """Kills one of two processes at a step; asserts that the other one ends."""
  killed, other = processes[number], processes[1 - number]
  try:
    conftest.kill_at(killed, run, step)
    began = time.monotonic()
    _, err = other.communicate(timeout=SECONDS)
    assert time.monotonic() - began < SECONDS
  finally:
    other.kill()
  assert other.returncode not in (0, -signal.SIGKILL)
  assert "error: a process of this run has ended" in err
  # A thread of gRPC may still write a line.
  assert any(LOST in line for line in err.splitlines()[-2:])
  assert run_manifest.RunManifest.read(run).status == "running"


def test_a_supervised_run_is_one_processes(tmp_path):
  config = dataclasses.replace(test_sft.CONFIG, mesh=test_meshes.FSDP)
  whole, run = tmp_path / "whole", tmp_path / "run"
  recipes.train_sft(config, whole)
  first, second = finish(start("train_sft_tunix", config, run))
  assert f"trained model: {run}/checkpoint-final" in first[0]
  assert "model" not in second[0]
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  test_meshes.assert_alike(run, whole)
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.status == "finished"
  assert manifest.devices == ["cpu", "cpu"]
  # Those who evaluate the model are processes of their own.
  assert manifest.config["distributed"]["num_processes"] == 2
  assert manifest.load_config(run).distributed is None


@pytest.mark.slow
def test_a_supervised_run(tmp_path):
  config = dataclasses.replace(
    test_sft.CONFIG,
    mesh=test_meshes.FSDP,
    training=dataclasses.replace(
      test_sft.CONFIG.training, max_steps=20, eval_every_n_steps=10
    ),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=5),
  )
  whole, run = tmp_path / "whole", tmp_path / "run"
  recipes.train_sft(config, whole)
  kill(start("train_sft_tunix", config, run), run, 7, number=1)
  first, second = finish(
    start(
      "train_sft_tunix",
      config,
      run,
      "--resume",
      "auto",
      "--set",
      "logging.report=true",
    )
  )
  assert f"trained model: {run}/checkpoint-final" in first[0]
  assert "model" not in second[0]
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  test_meshes.assert_alike(run, whole)
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.status == "finished" and len(manifest.sessions) == 2
  recipes.report(whole, config)
  for name in (run_directory.GAMES, run_directory.GAMES_SUMMARY):
    expected = (whole / name).read_text().replace(str(whole), str(run))
    assert (run / name).read_text() == expected
  assert 'id="game"' in (run / run_directory.PAGE).read_text()
  assert manifest.devices == ["cpu", "cpu"]
  # One process goes on from what two have saved.
  recipes.resume(run, config, step=15)
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  test_meshes.assert_alike(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["tables", "weights"])
def test_games(pool, tmp_path):
  # With what is read and written on the way: past selves and the best model.
  config = dataclasses.replace(
    test_meshes.games_config(test_meshes.FSDP),
    opponents=config_lib.OpponentsConfig(
      past_selves=(0.5, 0.5), add_every_n_steps=2, pool=pool
    ),
    grpo=dataclasses.replace(test_grpo.CONFIG.grpo, beta=0.05),
  )
  config = test_grpo.changed(config, "training", max_steps=5)
  whole, run = tmp_path / "whole", tmp_path / "run"
  recipes.train_grpo(config, whole)
  kill(start("train_grpo_tunix", config, run), run, 3, number=0)
  finish(start("train_grpo_tunix", config, run, "--resume", "latest"))
  test_meshes.rows_alike(test_grpo.rows(run), test_grpo.rows(whole), 1e-3)
  test_meshes.assert_alike(run, whole)
  assert (run / run_directory.ROLLOUTS).read_text() == (
    whole / run_directory.ROLLOUTS
  ).read_text()
  assert (run / run_directory.BEST_CHECKPOINT).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
  "script, flags",
  [
    ("eval_generate", ["--eval-set", "tictactoe_v1", "--max-examples", "70"]),
    ("eval_play", ["--episodes", "30", "--temperature", "1"]),
    ("eval_play", ["--exhaustive", "--context", "full"]),
    ("judge", []),
  ],
)
def test_an_evaluation_is_one_processes(script, flags, sft_run, run, tmp_path):
  # Legal moves only, for the model has learned little.
  flags = ["--model", str(sft_run), *flags, "--set", "play.constrained=legal"]
  one, two = tmp_path / "one", tmp_path / "two"
  code, out, err = run(
    conftest.ROOT / f"training/{script}.py",
    *flags,
    "--output",
    one / "out.jsonl",
  )
  assert code == 0, err
  config = dataclasses.replace(test_sft.CONFIG, mesh=test_meshes.FSDP)
  two.mkdir()
  first, second = finish(start(script, config, two / "out.jsonl", *flags))
  assert first[0].endswith(out.replace(str(one), str(two)))
  # Gloo prints a line in each process.
  assert "out.jsonl" not in second[0]
  for path in one.iterdir():
    assert (two / path.name).read_text() == path.read_text()


@pytest.mark.slow
def test_mistakes_are_told(tmp_path):
  config = test_meshes.on(test_sft.CONFIG, test_meshes.ONE)
  run = tmp_path / "run"
  first, second = start("train_sft_tunix", config, run)
  message = "error: mesh: 1 of the 2 devices of 2 processes would be used"
  _, err = first.communicate(timeout=SECONDS)
  assert first.returncode == 2 and message in err
  # If it is late, the first one has gone meanwhile.
  _, err = second.communicate(timeout=SECONDS)
  assert second.returncode != 0 and (message in err or LOST in err)
  assert not run.exists()


@pytest.mark.slow
def test_a_process_that_nobody_meets(tmp_path):
  path = tmp_path / "config.yaml"
  path.write_text("distributed: {num_processes: 2, process_id: 1}")
  process = conftest.start(
    "train_sft_tunix",
    path,
    tmp_path / "run",
    "--set",
    "distributed.coordinator=localhost:9",
    "distributed.initialization_timeout_seconds=1",
  )
  _, err = process.communicate(timeout=SECONDS)
  assert process.returncode != 0
  # A thread of gRPC may still write a line.
  assert any(LOST in line for line in err.splitlines()[-2:])


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings, found",
  [
    (["process_id=2"], "process_id and num_processes must be nonnegative"),
    (["coordinator=null"], "coordinator_address should be defined"),
  ],
)
def test_wrong_settings(settings, found, tmp_path):
  path = tmp_path / "config.yaml"
  path.write_text("distributed: {num_processes: 2, process_id: 0}")
  settings = ["coordinator=localhost:9", *settings]
  process = conftest.start(
    "train_sft_tunix",
    path,
    tmp_path / "run",
    "--set",
    *(f"distributed.{setting}" for setting in settings),
  )
  out, err = process.communicate(timeout=SECONDS)
  conftest.refused((process.returncode, out, err), f"distributed: {found}")


def test_only_errors_of_jax_tell_of_a_lost_process():
  lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo: Connection closed by peer")
  hub = ConnectionError("Connection to the hub refused")
  hub.__context__ = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory")
  wrapped = ValueError("not saved")
  wrapped.__cause__ = lost
  plain = ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
  for error, is_lost in (
    (lost, True),
    (plain, True),
    (wrapped, True),
    (hub, False),
  ):
    text = processes.explain(error)
    assert str(error) in text
    assert (LOST in text.splitlines()[-1]) == is_lost
    assert ("has ended" in text) == is_lost
  assert str(lost) in processes.explain(wrapped)


def test_a_path_that_appears_late(monkeypatch, tmp_path):
  path = tmp_path / "late"
  maker = threading.Timer(0.5, path.touch)
  maker.start()
  processes.await_path(path)
  assert path.exists()
  monkeypatch.setattr(processes, "_PATH_SECONDS", 0.2)
  began = time.monotonic()
  processes.await_path(tmp_path / "never")
  assert 0.2 <= time.monotonic() - began < 10


def test_several_processes_need_the_name_of_a_run(run):
  result = run(
    conftest.ROOT / "training/train_sft_tunix.py",
    "--config",
    conftest.ROOT / "configs/sft_tiny.yaml",
    "--set",
    "distributed.num_processes=2",
  )
  conftest.refused(result, "--output: several processes need it")


def test_answers_from_elsewhere_are_judged_by_one_process(run, tmp_path):
  result = run(
    conftest.ROOT / "training/judge.py",
    "--answers",
    tmp_path / "answers.jsonl",
    "--output",
    tmp_path / "judged.jsonl",
    "--set",
    "distributed={}",
  )
  conftest.refused(result, "distributed: answers from elsewhere are judged by")


def test_a_split_layout_is_of_one_process(monkeypatch):
  monkeypatch.setattr(meshes.jax, "process_count", lambda: 2)
  with pytest.raises(errors.UserError, match="split needs a single process"):
    meshes.make(test_meshes.SPLIT)
