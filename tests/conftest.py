"""Test set-up: two virtual CPU devices and compiled programs that are kept."""

from collections.abc import Callable, Collection, Iterable
import importlib.metadata
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def xla_flags(devices: int) -> str:
  """Returns the flags for so many virtual devices."""
  # Programs are small and run a few times: most of their time is compilation.
  flags = [
    f"--xla_force_host_platform_device_count={devices}",
    "--xla_backend_optimization_level=0",
    # A worker has one processor.
    "--xla_cpu_parallel_codegen_split_count=1",
  ]
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older way to compile takes half the time; later versions lack it.
    flags.append("--xla_cpu_use_fusion_emitters=false")
  return " ".join(flags)


# Before JAX is imported, here and in the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla_flags(2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
# Only this process writes compiled programs: one that a test kills could leave
# half of one.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"

import filelock
from flax import nnx
import hypothesis
import jax
from jax._src import lru_cache
import jax.numpy as jnp
import numpy as np
import pytest

from tests import players
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.data import datasets
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.text import answers
from tunix_ttt.text import tokenizers

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def put(cache: lru_cache.LRUCache, key: str, value: bytes) -> None:
  """Writes a compiled program at once, for other workers read them, too."""
  path = pathlib.Path(cache.path) / f"{key}{lru_cache._CACHE_SUFFIX}"
  temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}")
  temporary.write_bytes(value)
  temporary.replace(path)


pytest.MonkeyPatch().setattr(lru_cache.LRUCache, "put", put)

hypothesis.settings.register_profile("fast", max_examples=20, deadline=None)
hypothesis.settings.register_profile("slow", max_examples=200, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
  """Draws fewer examples where slow tests are left out."""
  is_fast = config.option.markexpr == "not slow"
  hypothesis.settings.load_profile("fast" if is_fast else "slow")


# One family of each kind, for tests that are slow for the others.
TWO_FAMILIES = ("qwen2.5", "gemma3")

# Small enough to compile in seconds; the code is that of any other run.
SMALL_MODEL = config_lib.ModelConfig(
  num_layers=1,
  embed_dim=32,
  hidden_dim=64,
  num_heads=2,
  num_kv_heads=1,
  head_dim=16,
)


def places(mask):
  """Returns the indices int32 [B, L - 1] of a mask's tokens but first ones, then 0."""
  mask = np.asarray(mask, bool)[:, 1:]
  index = np.argsort(~mask, axis=1, kind="stable")
  exists = np.take_along_axis(mask, index, axis=1)
  return jnp.asarray(np.where(exists, index + 1, 0), jnp.int32)


class TableModel(nnx.Module):
  """Called as Tunix's models are; logits after a token are a row of a table."""

  def __init__(self, table: Any):
    """Takes float32 [V, V]."""
    self.table = nnx.Param(table)

  def __call__(
    self,
    input_tokens: Any,
    positions: Any,
    cache: Any,
    attention_mask: Any,
    output_hidden_states: bool = False,
  ) -> Any:
    hidden = self.table[input_tokens]
    if output_hidden_states:
      self.sow(nnx.Intermediate, "all_hidden_states", hidden)
    return self.lm_head(hidden), cache

  def lm_head(self, hidden: Any) -> Any:
    return hidden


def small_spec(family: Any, vocab_size: int, **changes: Any) -> specs.ModelSpec:
  """Returns an architecture of `SMALL_MODEL`'s shape, of two layers."""
  shape: dict[str, Any] = {**SMALL_MODEL.shape(), "num_layers": 2, **changes}
  return specs.ModelSpec(family=family, vocab_size=vocab_size, **shape)


def start(
  script: str,
  config: pathlib.Path,
  run: pathlib.Path,
  *flags: str,
  devices: int = 2,
) -> subprocess.Popen:
  """Starts a script in a process of its own; by default, it writes no report."""
  path = ROOT / "training" / f"{script}.py"
  command = [sys.executable, path, "--config", config, "--output", run]
  command += ["--set", "logging.report=false", *flags]
  return subprocess.Popen(
    [*map(str, command)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": xla_flags(devices)},
    text=True,
  )


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
  """Returns when a condition holds, or the process has ended."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    if condition():
      break
    time.sleep(0.002)


def signal_at(
  process: subprocess.Popen,
  run: pathlib.Path,
  step: int,
  number: int,
) -> None:
  """Sends a signal to a run as soon as it has recorded a step."""

  def is_recorded() -> bool:
    path = run / run_directory.METRICS
    recorded = path.read_text() if path.exists() else ""
    return f'"step": {step}, "split": "train"' in recorded

  wait_for(process, is_recorded)
  process.send_signal(number)


def kill_at(process: subprocess.Popen, run: pathlib.Path, step: int) -> None:
  """Kills a run, outright, as soon as it has recorded a step."""
  signal_at(process, run, step, signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def read_tokens(
  table: answers.AnswerTable,
  tokens: Iterable[int],
  start: tuple[int, int] = (answers.START, 0),
) -> tuple[int, int]:
  """Returns the state and rank of an answer after tokens."""
  state, rank = map(jnp.int32, start)
  for token in tokens:
    state, rank = answers.advance(table, state, rank, jnp.int32(token))
  return int(state), int(rank)


def action_after(table: answers.AnswerTable, state: int, rank: int) -> int:
  """Returns the action of an ended answer, -1 for others."""
  return int(answers.action(table, jnp.int32(state), jnp.int32(rank)))


def listing() -> list[str]:
  """Lists all files below the working directory."""
  return sorted(str(p) for p in pathlib.Path().rglob("*"))


def told(err: str) -> list[str]:
  """Returns the lines of stderr, without what passes time while one waits."""
  return [line for line in err.strip().splitlines() if line[-1:] != "…"]


def refused(result: tuple[int, str, str], *found: str) -> None:
  """Asserts one clear message, exit code 2 and no traceback."""
  code, _, err = result
  assert code == 2
  (line,) = told(err)
  assert line.startswith("error: ")
  for text in found:
    assert text in line


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a script; its exit code, output and errors."""
  # What is said of what takes long depends on the machine.
  monkeypatch.setattr(progress, "PATIENCE", 1e6)
  # A script may set it; it is as before after the test.
  monkeypatch.setattr(progress, "quiet", False)

  def run_script(script, *flags):
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, flags)])
    try:
      runpy.run_path(str(script), run_name="__main__")
      code = 0
    except SystemExit as error:
      code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run_script


def slow_but(fast: Collection[str], cases: Iterable[str]) -> list[Any]:
  """Returns parameters of a test; those that are not `fast` are slow."""
  return [
    case if case in fast else pytest.param(case, marks=pytest.mark.slow)
    for case in cases
  ]


def each_case(
  cases: Iterable[str], fast: Collection[str]
) -> pytest.MarkDecorator:
  """Parametrizes `case`; those that are not `fast` are slow tests."""
  return pytest.mark.parametrize("case", slow_but(fast, cases))


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module():
  """Drops the programs of a test file: those of all take gigabytes."""
  yield
  jax.clear_caches()


def make_once(
  factory: pytest.TempPathFactory,
  name: str,
  make: Callable[[pathlib.Path], object],
) -> pathlib.Path:
  """Returns a directory that is made once for all workers; it is read-only."""
  root = factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent
  path, made = root / name, root / f"{name}.made"
  with filelock.FileLock(root / f"{name}.lock"):
    if not made.exists():
      make(path)
      made.touch()
  return path


@pytest.fixture(scope="session")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run of `test_sft.CONFIG`."""
  from tests import test_sft

  return make_once(
    tmp_path_factory, "sft", lambda p: recipes.train_sft(test_sft.CONFIG, p)
  )


@pytest.fixture(scope="session")
def sft_lora_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run of `test_sft.LORA`."""
  from tests import test_sft

  return make_once(
    tmp_path_factory, "lora", lambda p: recipes.train_sft(test_sft.LORA, p)
  )


@pytest.fixture(scope="session")
def grpo_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run of `test_grpo.WITH_KL`."""
  from tests import test_grpo

  return make_once(
    tmp_path_factory, "grpo", lambda p: test_grpo.train(test_grpo.WITH_KL, p)
  )


@pytest.fixture(scope="session")
def source() -> datasets.Source:
  """A few expert games as conversations."""
  games = config_lib.GamesConfig(num_games=60)
  return datasets.load(config_lib.DataConfig(games=games), seed=0)


@pytest.fixture
def any_prefix(monkeypatch):
  """Reads what all prompts begin with once, however short it is."""
  monkeypatch.setattr(tables_lib, "_MIN_PREFIX", 1)


@pytest.fixture
def packed_behind(any_prefix, monkeypatch):
  """Packs training rows in pairs; returns what was chosen, 2 or 1."""
  chosen = []

  def rows_behind(num_rows, _length, prefix):
    chosen.append(2 if prefix and num_rows % 2 == 0 else 1)
    return chosen[-1]

  monkeypatch.setattr(token_log_probs, "rows_behind", rows_behind)
  return chosen


@pytest.fixture(scope="session")
def tokenizer(source: datasets.Source) -> tokenizers.SentencePieceTokenizer:
  """A tokenizer trained on `source`."""
  return tokenizers.train_tokenizer(
    source.texts(100), 512, players.GAME.symbols(512)
  )
