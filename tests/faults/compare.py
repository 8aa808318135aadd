"""A run's state, bit for bit, without what depends on time and machine."""

import hashlib
import json
import pathlib
import re
from typing import Any

import tensorstore

from tunix_ttt.runs import run_directory
from tunix_ttt.train import recorder

_VOLATILE = {
  "created_at",
  "finished_at",
  "sessions",
  "git_sha",
  "git_dirty",
  # A free port.
  "coordinator",
  # Digests of files that have times in them.
  "digest",
  "files",
}
_TIMES = {
  *recorder.TIMES,
  "seconds_sampling",
  "seconds_training",
  "seconds_checks",
  "memory_bytes",
}
_LEFT_OUT = re.compile(
  r"superseded-.*|\.lock|tensorboard|plots|.*_training_logs_.*|.*\.html"
)
_LOGS = re.compile(
  r"\..*|tensorboard|.*_training_logs_.*|.*\.orbax-checkpoint-tmp"
)


def _sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def _drop(value: Any, names: set[str]) -> Any:
  if isinstance(value, dict):
    # A metric of a manifest is `train/seconds_sampling`.
    kept = {k: v for k, v in value.items() if k.split("/")[-1] not in names}
    return {k: _drop(v, names) for k, v in kept.items()}
  return [_drop(v, names) for v in value] if isinstance(value, list) else value


def _arrays(directory: pathlib.Path) -> str:
  """Returns the digest of the chunks of all arrays below a directory."""
  digest = hashlib.sha256()
  for store in sorted(directory.rglob("manifest.ocdbt")):
    if store.parent.name.startswith("ocdbt.process_"):
      continue
    base = f"file://{store.parent.absolute()}/"
    kv = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in sorted(kv.list().result()):
      digest.update(key + b"\0" + kv[key] + b"\0")
  return digest.hexdigest()


def _jsonl(path: pathlib.Path) -> list[Any]:
  lines = path.read_text().splitlines()
  return [_drop(json.loads(line), _TIMES) for line in lines]


def state(directory: pathlib.Path) -> dict[str, Any]:
  """Returns what a run or a pipeline has made, by path.

  Checkpoints are digests of their arrays, rows of metrics are without times.
  Every other file counts by its bytes; logs, pages and the lock do not.
  """
  found: dict[str, Any] = {}
  for path in sorted(directory.iterdir()):
    if _LEFT_OUT.fullmatch(path.name):
      continue
    try:
      found |= _parts(path)
    except (OSError, ValueError) as error:
      found[path.name] = f"cannot be read: {error}"
  return found


def _parts(path: pathlib.Path) -> dict[str, Any]:
  name = path.name
  if path.parent.name == run_directory.CHECKPOINTS:
    return {name: _arrays(path)}
  if name in (run_directory.FINAL_CHECKPOINT, run_directory.BEST_CHECKPOINT):
    described = json.loads((path / "model.json").read_text())
    return {name: [_arrays(path), described]}
  if path.is_dir():
    return {f"{name}/{k}": v for k, v in state(path).items()}
  if name.endswith(".jsonl"):
    return {name: _jsonl(path)}
  if name.endswith(".json"):
    value = _drop(json.loads(path.read_text()), _VOLATILE | _TIMES)
    if name == run_directory.GAMES_SUMMARY:
      # The path of the model, as the command had it.
      del value["model"]
    return {f"{name}:{key}": part for key, part in value.items()}
  return {name: _sha256(path.read_bytes())}


def bytes_of(path: pathlib.Path) -> dict[str, str]:
  """Returns the digests of all files at or below a path."""
  files = [path] if path.is_file() else path.rglob("*")
  return {
    str(file.relative_to(path.parent)): _sha256(file.read_bytes())
    for file in files
    if file.is_file()
  }


def is_log(path: str) -> bool:
  """Returns whether a file in a run is a log, a lock or a temporary."""
  parts = pathlib.PurePath(path).parts
  return any(_LOGS.fullmatch(part) for part in parts)


def difference(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
  """Returns the names whose values differ, or that one of two lacks."""
  names = sorted(first.keys() | second.keys())
  lacking = object()
  return [
    name
    for name in names
    if first.get(name, lacking) != second.get(name, lacking)
  ]
