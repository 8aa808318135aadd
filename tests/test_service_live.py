"""Training on a real Tinker-compatible server on loopback, see `skyrl`."""

from collections.abc import Sequence
import json
import os
import pathlib
import signal
import socket
import time
from typing import Any

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from tests import conftest
from tests import skyrl
import tunix_ttt as ttt
from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import rates
from tunix_ttt.service import connection
from tunix_ttt.service import service_games
from tunix_ttt.service import service_runs
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import trainer

EVAL_SET = conftest.ROOT / "evalsets" / "tictactoe_v1.jsonl"
SETTINGS: Any = {
  "model": {"dtype": "float32"},
  "lora": {"rank": 8, "alpha": 32},
  "data": {
    "max_seq_length": 1024,
    "games": {"num_games": 400, "thoughts": "none"},
  },
  "checkpoint": {"save_interval_steps": 5},
  "logging": {"report": False, "log_every_n_steps": 1},
  "play": {"max_new_tokens": 24, "batch_size": 64},
}
SFT: Any = {
  **SETTINGS,
  # The model has not seen thoughts.
  "data": {"max_seq_length": 1024, "games": {"num_games": 100}},
  "training": {
    "max_steps": 8,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "eval_every_n_steps": 8,
  },
}
GRPO: Any = {
  **SETTINGS,
  "training": {
    "max_steps": 12,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 1,
    "eval_every_n_steps": 12,
  },
  "episodes": {"agent": "x"},
  # A tiny model learns a square in few steps, and the game in thousands.
  "rewards": {
    "outcome": {"weight": 0.0},
    "custom": {"centre": f"{__name__}:centre"},
  },
  "grpo": {"advantage_level": "turn", "turn_baseline": "turn", "discount": 0.0},
}


def centre(games: Any) -> np.ndarray:
  """Rewards the move to the centre."""
  return np.asarray(games.moves) == 4


needs_server = [
  pytest.mark.slow,
  # Tinker's client leaves its connections to the garbage collector.
  pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
  ),
  pytest.mark.skipif(
    not skyrl.PYTHON.exists(),
    reason="no server: run python tests/skyrl.py",
  ),
]


class Server:
  """A server on a port of its own, that can be killed and started again."""

  def __init__(self, model: pathlib.Path, state: pathlib.Path):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      self.port = free.getsockname()[1]
    self.model, self.state = model, state
    self.url = f"http://127.0.0.1:{self.port}"
    self.start()

  def start(self) -> None:
    self.process = skyrl.start(self.model, self.state, self.port)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
      assert self.process.poll() is None, self.log()
      try:
        httpx.get(f"{self.url}/api/v1/healthz", timeout=1)
      except httpx.HTTPError:
        time.sleep(0.5)
      else:
        return
    pytest.fail(self.log())

  def log(self) -> str:
    return (self.state / "server.log").read_text()[-3000:]

  def kill(self) -> None:
    os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
  """A Qwen3 directory whose model has learned the format, not the game."""
  root = tmp_path_factory.mktemp("service")
  skyrl.write_tiny(root / "start")
  run = ttt.train_sft(
    {
      **SETTINGS,
      "lora": None,
      "model": {"name": str(root / "start"), "dtype": "float32"},
      "training": {
        "max_steps": 120,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "eval_every_n_steps": 120,
      },
    },
    root / "sft",
  )
  return ttt.export_model(run / "checkpoint-final", root / "model")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
  running = Server(model, tmp_path_factory.mktemp("server"))
  yield running
  running.kill()


@pytest.fixture(scope="module", autouse=True)
def key():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(connection.KEY_VARIABLE, "tml-of-a-test")
    # Processes find `centre` before any installed package of the name `tests`.
    patch.setenv("PYTHONPATH", str(conftest.ROOT))
    yield


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> pathlib.Path:
  """A run of SFT on the service, of 8 steps."""
  path = tmp_path_factory.mktemp("trained") / "sft"
  return ttt.train_sft(with_service(SFT, server), path)


def with_service(config: Any, server: Server, **changes: Any) -> Any:
  service = {"base_url": server.url, "averages": True, **changes}
  name = {**config["model"], "name": str(server.model)}
  return {**config, "model": name, "service": service}


def rows(run: pathlib.Path, split: str = "train") -> list[dict[str, Any]]:
  lines = (run / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if row["split"] == split]


def summary(games: pathlib.Path) -> game_files.Summary:
  return game_files.read_summary(game_files.summary_path(games))


def write(config: Any, path: pathlib.Path) -> pathlib.Path:
  path.write_text(yaml.safe_dump(config))
  return path


class TestAgainstAServer:
  pytestmark = needs_server

  @pytest.mark.parametrize("context", ["board", "full", "truncated"])
  def test_greedy_games_are_those_of_local_devices(self, server, context):
    play = {**SETTINGS["play"], "context": context, "on_parse_error": "retry"}
    config = config_lib.load_any(
      {**with_service(SETTINGS, server), "play": play}
    )
    local = reference_log_probs.load(server.model, with_no_lora(config))
    player = model_player.Player(local, config)
    assert config.service is not None
    weights = connection.Weights(
      connection.Connection(config.service), str(server.model), rank=8, seed=0
    )
    remote = service_games.ServedModel(local.tokenizer, weights).player(config)
    keys = jax.random.split(jax.random.key(3), 12)
    states = player.begin(keys, jnp.arange(12) % 2)
    games, expected = remote(keys, states), player(keys, states)
    assert expected.turn_mask.sum() > 20
    for name in ("ending", "moves", "turn_mask", "retried", "actions"):
      np.testing.assert_array_equal(
        getattr(games, name), getattr(expected, name), name
      )
    np.testing.assert_array_equal(games.action_mask, expected.action_mask)
    np.testing.assert_allclose(games.log_probs, expected.log_probs, atol=1e-4)

  def test_sft_learns_and_its_adapter_comes_home(
    self, server, trained, tmp_path
  ):
    config = with_service(SFT, server)
    losses = [row["loss"] for row in rows(trained, "eval")]
    assert losses[-1] < losses[0]
    here = ttt.train_sft(
      {
        **config,
        "service": None,
        "training": {**SFT["training"], "max_steps": 1},
      },
      tmp_path / "local",
    )
    assert losses[0] == pytest.approx(rows(here, "eval")[0]["loss"], abs=1e-4)
    # The same tokens by the downloaded adapter and by the service's weights.
    final = trained / "checkpoint-final"
    here = reference_log_probs.load(final, config)
    assert here.lora is not None
    state = json.loads((final / "service.json").read_text())
    settings = config_lib.load_any(config).service
    assert settings is not None
    weights = connection.Weights(
      connection.Connection(settings),
      state["model"],
      rank=8,
      seed=0,
      state=state["state"],
    )
    tokens = np.random.default_rng(0).integers(3, skyrl.VOCAB_SIZE, (4, 20))
    scored = weights.score(
      [weights.datum(row.tolist(), weights=np.ones(19)) for row in tokens]
    )
    mask = jnp.ones(tokens.shape, bool)
    scores = grpo_loss.log_probs(
      here.module, jnp.asarray(tokens), mask, mask, 20, 1.0
    )
    np.testing.assert_allclose(scores.log_probs, np.stack(scored), atol=1e-4)

  def test_a_step_is_that_of_local_devices(self, server, tmp_path):
    config = {**GRPO, "grpo": {**GRPO["grpo"], "num_iterations": 2}}
    config = config_lib.load(
      config_lib.GRPOConfig, with_service(config, server)
    )
    rewards = {"centre": rewards_lib.CustomReward(centre, 1.0)}
    plan = service_runs.plan_grpo(config, rewards=rewards)
    run = service_runs.GRPORun(plan, tmp_path / "service")
    run.save_model(tmp_path / "start")
    here = reference_log_probs.load(tmp_path / "start", config)
    local = trainer.GRPOTrainer(here.module, config, tmp_path / "local")
    update, results = run.trainer.update, []

    def both(batch):
      results.extend([update(batch), local.update(batch)])
      return results[0]

    run.trainer.update = both
    run.step(0)
    for name in ("loss", "pg_clipfrac", "log_ratio", "grad_norm"):
      values = [result[name] for result in results]
      assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-5), name
    assert results[0]["grad_norm"] > 1e-3

  def test_evaluations_are_those_of_local_devices(
    self, server, trained, tmp_path, run
  ):
    def outputs(
      script: str, *flags: object, backends: Sequence[str] = ("tinker", "local")
    ) -> list[pathlib.Path]:
      """Returns the output on each backend."""
      result = [tmp_path / f"{script}-{each}.jsonl" for each in backends]
      for backend, output in zip(backends, result, strict=True):
        code, _, err = run(
          conftest.ROOT / "training" / f"{script}.py",
          "--model", trained / "checkpoint-final",
          "--output", output, "--backend", backend, *flags,
        )  # fmt: skip
        assert code == 0, err
      return result

    answers = outputs(
      "eval_generate", "--eval-set", EVAL_SET, "--max-examples", 12
    )
    games = outputs("judge")
    for service, local in (answers, games):
      assert service.read_text() == local.read_text()
    service, local = map(summary, games)
    assert service.results == local.results
    # Frequencies of sampled answers.
    (sampled,) = outputs(
      "eval_play", "--exhaustive", "--temperature", 1,
      "--set", "play.num_answers=1",
      backends=["tinker"],
    )  # fmt: skip
    for result in summary(sampled).results.values():
      assert isinstance(result, rates.Stochastic) and result.num_answers == 1

  def test_grpo_learns_survives_a_kill_and_plays(self, server, tmp_path):
    config = with_service(GRPO, server)
    whole = ttt.train_grpo(config, tmp_path / "whole")
    steps = rows(whole)
    assert len(steps) == 12
    # Sampled and trained by the same weights.
    assert max(row["log_ratio"] for row in steps) < 1e-4
    first, last = (
      [r["reward"] for r in steps[s]] for s in (slice(3), slice(-3, None))
    )
    assert np.mean(last) > np.mean(first)
    # Killed after a checkpoint or interrupted between two, it goes on as if it had
    # not been.
    path = write(config, tmp_path / "grpo.yaml")
    for sent, first in ((signal.SIGKILL, 5), (signal.SIGINT, 7)):
      run = tmp_path / sent.name
      process = conftest.start("train_grpo_tunix", path, run)
      conftest.wait_for(
        process, lambda r=run: (r / "checkpoints" / "5").exists()
      )
      conftest.signal_at(process, run, 7, sent)
      _, err = process.communicate()
      if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "To resume: " in err.splitlines()[-1]
      ttt.resume(run)
      assert ttt.Run(run).manifest.sessions[-1].from_step >= first
      for name in ("reward", "win_rate", "num_tokens"):
        values = [[row[name] for row in rows(each)] for each in (run, whole)]
        assert values[0] == values[1]
    games = list(ttt.Run(whole).games())
    assert games

  def test_a_server_that_dies_is_told_and_comes_back(self, model, tmp_path):
    server = Server(model, tmp_path / "state-of-server")
    try:
      config = with_service(GRPO, server, timeout=5.0)
      config["training"] = {**GRPO["training"], "max_steps": 4}
      config["checkpoint"] = {"save_interval_steps": 2}
      path, run = write(config, tmp_path / "grpo.yaml"), tmp_path / "run"
      process = conftest.start("train_grpo_tunix", path, run)
      conftest.wait_for(process, lambda: (run / "checkpoints" / "2").exists())
      server.kill()
      started = time.monotonic()
      _, err = process.communicate(timeout=120)
      assert time.monotonic() - started < 60
      assert process.returncode == 2
      (message,) = [line for line in err.splitlines() if "error:" in line]
      assert "no sign of life" in message and server.url in message
      server.start()
      ttt.resume(run)
      assert ttt.Run(run).manifest.sessions[-1].from_step == 2
      assert len(rows(run)) == 4
    finally:
      server.kill()


def with_no_lora(config: config_lib.SFTConfig) -> config_lib.SFTConfig:
  return config_lib.load_any(
    {**config_lib.to_dict(config), "lora": None, "service": None}
  )


class TestBenchmark:
  pytestmark = needs_server

  def test_it_measures_both(self, run, server, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(conftest.ROOT / "benchmarks")
    config = with_service(GRPO, server)
    config["training"] = {**GRPO["training"], "max_steps": 4}
    code, _, err = run(
      conftest.ROOT / "benchmarks" / "service.py",
      "--config", write(config, tmp_path / "grpo.yaml"),
      "--base-url", server.url,
      "--runs", tmp_path / "runs",
      "--output", tmp_path / "service.json",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((tmp_path / "service.json").read_text())
    assert 0 < results["service"]["share_of_waiting"] < 1
    assert results["local"]["steps_per_minute"] > 0
