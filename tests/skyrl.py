"""A Tinker-compatible server, SkyRL's JAX one, on this machine's CPU.

    python tests/skyrl.py                          # installs it, in artifacts/skyrl
    python tests/skyrl.py --tiny DIR               # writes a tiny Qwen3 directory
    python tests/skyrl.py --model DIR --port 8000  # serves a Qwen3 directory

It has an environment of its own, of Python 3.12, since its packages are not this
library's.
"""

import argparse
import importlib.machinery
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types
from typing import Any

HOME = pathlib.Path(__file__).parents[1] / "artifacts" / "skyrl"
PYTHON = HOME / "bin" / "python"
# Size of the tiny model's vocabulary.
VOCAB_SIZE = 512
# The versions that work together; 0.4.0 takes no other client than 0.25's.
_SERVER = "skyrl==0.4.0"
_PACKAGES = (
  "jax[cpu]>=0.8,<1.0", "flax>=0.12.10", "optax>=0.2.5",
  "transformers>=5.6.1,<=5.8.0", "tinker==0.25.0", "aiohttp", "fastapi", "uvicorn",
  "sqlmodel", "sqlalchemy[asyncio]", "aiosqlite", "psutil", "rich", "safetensors",
  "tokenizers", "cloudpathlib>=0.23", "typer", "pillow",
)  # fmt: skip
_SETTINGS = {
  "max_lora_adapters": 24,
  "max_lora_rank": 8,
  "sample_max_num_sequences": 64,
  "train_micro_batch_size": 64,
}


def install() -> None:
  """Makes the environment."""
  python = shutil.which("python3.12") or sys.executable
  subprocess.run([python, "-m", "venv", HOME], check=True)
  pip = [PYTHON, "-m", "pip", "install", "--quiet"]
  # What it lists beside its own code are PyTorch and much that this needs not.
  subprocess.run([*pip, "--no-deps", _SERVER], check=True)
  subprocess.run([*pip, *_PACKAGES], check=True)


def write_tiny(directory: pathlib.Path) -> None:
  """Writes a Qwen3 directory with random weights and a tokenizer of its own."""
  # Imported here: the server's environment has none of them.
  from tests import hugging_face
  from tunix_ttt.models import checkpoints
  from tunix_ttt.models.families import specs
  from tunix_ttt.models.hub import hub_export
  from tunix_ttt.text import hub_tokenizers

  spec = specs.ModelSpec(
    family="qwen3",
    vocab_size=VOCAB_SIZE,
    num_layers=2,
    embed_dim=64,
    hidden_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
  )
  with tempfile.TemporaryDirectory() as made:
    path = pathlib.Path(made)
    hugging_face.write_tokenizer(path, "qwen2.5", VOCAB_SIZE)
    tokenizer = hub_tokenizers.HuggingFaceTokenizer.load(path, VOCAB_SIZE)
  model = checkpoints.Model(
    module=specs.initialize(spec, 0),
    spec=spec,
    tokenizer=tokenizer,
    revision="",
  )
  export = hub_export.prepare(model, merge=False, max_shard_size=10**9)
  hub_export.write(export, directory)


def start(
  model: pathlib.Path, state: pathlib.Path, port: int
) -> subprocess.Popen[bytes]:
  """Starts a server that keeps its state in a directory."""
  (state / "checkpoints").mkdir(parents=True, exist_ok=True)
  environment = {
    name: value for name, value in os.environ.items() if name != "PYTHONPATH"
  } | {
    "HF_HUB_OFFLINE": "1",
    "JAX_COMPILATION_CACHE_DIR": str(HOME / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PLATFORMS": "cpu",
    "TRANSFORMERS_OFFLINE": "1",
    "XLA_FLAGS": "",
  }
  with (state / "server.log").open("ab") as log:
    return subprocess.Popen(
      [
        PYTHON, __file__, "--serve",
        "--base-model", model.absolute(),
        "--backend", "jax",
        "--backend-config", json.dumps(_SETTINGS),
        "--database-url", f"sqlite:///{(state / 'tinker.db').absolute()}",
        "--checkpoints-base", (state / "checkpoints").absolute(),
        "--host", "127.0.0.1",
        "--port", str(port),
      ],
      env=environment,
      stdout=log,
      stderr=log,
      # Its engine is a process of its own, which ends with the group.
      start_new_session=True,
    )  # fmt: skip


def _without_torch() -> None:
  """Puts empty modules in place of two that the server imports and does not use."""
  # These look for PyTorch themselves.
  for name in ("transformers", "flax", "optax"):
    __import__(name)

  def make(name: str) -> Any:
    module: Any = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__version__ = "0.0.0"
    sys.modules[name] = module
    return module

  torch = make("torch")
  torch.Tensor, torch.dtype = type("Tensor", (), {}), type("dtype", (), {})

  class LoraConfig:
    def __init__(self, **settings: Any):
      self._settings = settings

    def save_pretrained(self, directory: str) -> None:
      content = {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
      path = pathlib.Path(directory) / "adapter_config.json"
      path.write_text(json.dumps(content | self._settings))

  make("peft").LoraConfig = LoraConfig


def _serve(flags: list[str]) -> None:
  """Runs the server, in its own environment."""
  _without_torch()
  # A file beside the server's own package.
  sys.path = [p for p in sys.path if p != str(pathlib.Path(__file__).parent)]
  if flags[:1] == ["--engine"]:
    from skyrl.tinker import engine  # pyright: ignore[reportMissingImports]

    sys.argv[1:] = flags[1:]
    engine.main()
    return
  from skyrl.tinker import api  # pyright: ignore[reportMissingImports]
  from skyrl.tinker import config  # pyright: ignore[reportMissingImports]
  import uvicorn  # pyright: ignore[reportMissingImports]

  # It would start its engine by `uv run`.
  api._build_uv_run_cmd_engine = lambda parent, settings: [
    sys.executable, __file__, "--serve", "--engine",
    *config.config_to_argv(settings),
  ]  # fmt: skip
  arguments = argparse.ArgumentParser()
  config.add_model(arguments, config.EngineConfig)
  arguments.add_argument("--host")
  arguments.add_argument("--port", type=int)
  parsed = vars(arguments.parse_args(flags))
  names = config.EngineConfig.model_fields
  api.app.state.engine_config = config.EngineConfig.model_validate(
    {name: value for name, value in parsed.items() if name in names}
  )
  uvicorn.run(api.app, host=parsed["host"], port=parsed["port"])


def main() -> None:
  """Installs or serves."""
  if sys.argv[1:2] == ["--serve"]:
    _serve(sys.argv[2:])
    return
  arguments = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  arguments.add_argument("--tiny", type=pathlib.Path)
  arguments.add_argument("--model", type=pathlib.Path)
  arguments.add_argument("--port", type=int, default=8000)
  flags = arguments.parse_args()
  if flags.tiny is not None:
    # `tests` is beside this file's directory.
    sys.path.insert(0, str(HOME.parents[1]))
    write_tiny(flags.tiny)
    return
  if not PYTHON.exists():
    install()
  if flags.model is not None:
    sys.exit(start(flags.model, HOME / "state", flags.port).wait())


if __name__ == "__main__":
  main()
