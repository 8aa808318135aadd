"""Several runs in a row, each from the model of the one before.

pipeline_manifest.json   the stages, what they made, and how well it plays
pairs.jsonl              preference pairs
sft/  dpo/  grpo/        run directories
"""

from collections.abc import Iterator
import hashlib
import json
import pathlib
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import runs
from tunix_ttt.data import generate
from tunix_ttt.evaluate import in_training
from tunix_ttt.evaluate import matches
from tunix_ttt.models import checkpoints
from tunix_ttt.train import dpo
from tunix_ttt.train import grpo
from tunix_ttt.train import sft

MANIFEST = "pipeline_manifest.json"
PAIRS = "pairs.jsonl"
_KINDS: dict[str, type[config_lib.SFTConfig]] = {
  "sft": config_lib.SFTConfig,
  "dpo": config_lib.DPOConfig,
  "grpo": config_lib.GRPOConfig,
}


def stages(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> dict[str, config_lib.SFTConfig]:
  """Returns the config of each run, in order.

  Args:
    config: the settings.
    output: the pipeline's directory.

  Raises:
    errors.UserError: if a stage's config is wrong.
  """
  found: dict[str, config_lib.SFTConfig] = {}
  for name, kind in _KINDS.items():
    stage: config_lib.StageConfig | None = getattr(config, name)
    if stage is None:
      continue
    settings = [f"seed={config.seed}", *stage.set]
    if found:
      before = output / [*found][-1] / runs.FINAL_CHECKPOINT
      settings.append(f"model.name={before}")
    if name == "dpo":
      settings.append(f"data.path={output / PAIRS}")
    path = pathlib.Path(stage.config)
    found[name] = config_lib.load(kind, path, settings)
  return found


def run(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> dict[str, Any]:
  """Runs the stages that are not finished, and returns the manifest.

  Args:
    config: the settings.
    output: a directory to make, or that of the same pipeline to go on with.

  Raises:
    errors.UserError: if anything in the config or its files is wrong, or the
      directory is another pipeline's.
  """
  configs = stages(config, output)
  path = output / MANIFEST
  manifest: dict[str, Any] = {
    "config": config_lib.to_dict(config),
    "stages": {},
  }
  if path.exists():
    manifest = _read(path, manifest["config"])
  else:
    files.check_absent(output)
    files.write_text(path, _to_text(manifest))
  for name, record in _run_stages(config, configs, output):
    print(f"{name}: {output / record['path']}", flush=True)
    if manifest["stages"].get(name, {}).get("digest") != record["digest"]:
      if name in configs:
        record["exact_play"] = _play(output / record["path"], configs[name])
      manifest["stages"][name] = record
      files.write_text(path, _to_text(manifest))
  return manifest


def _run_stages(
  config: config_lib.PipelineConfig,
  configs: dict[str, config_lib.SFTConfig],
  output: pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields what each stage made, when it is done."""
  if "dpo" in configs:
    pairs = output / PAIRS
    if not pairs.exists():
      kind = generate.Pairs(rejected=config.pairs.rejected)
      generate.write(pairs, "dpo", kind, config.pairs.count, config.seed)
    yield "pairs", _record(pairs, pairs, output)
  for name, settings in configs.items():
    made = _train(settings, output / name)
    yield name, _record(made, made / runs.MANIFEST, output)


def _train(config: config_lib.SFTConfig, path: pathlib.Path) -> pathlib.Path:
  begun = path.exists()
  if isinstance(config, config_lib.GRPOConfig):
    judge = in_training.Evaluator
    if begun:
      return grpo.resume(config, judge, path)
    return grpo.train(config, judge, path)
  if isinstance(config, config_lib.DPOConfig):
    return dpo.resume(config, path) if begun else dpo.train(config, path)
  return sft.resume(config, path) if begun else sft.train(config, path)


def _play(run: pathlib.Path, config: config_lib.SFTConfig) -> dict[str, Any]:
  """Returns what the stage's model is worth, exactly."""
  model = checkpoints.load(run)
  found = [*matches.play_all_lines(model, config)]
  print(matches.table(found), flush=True)
  return matches.summary(found, run.name, config)["results"]


def _record(
  made: pathlib.Path, described: pathlib.Path, output: pathlib.Path
) -> dict[str, Any]:
  digest = hashlib.sha256(described.read_bytes()).hexdigest()
  return {"path": str(made.relative_to(output)), "digest": digest}


def _read(path: pathlib.Path, config: dict[str, Any]) -> dict[str, Any]:
  try:
    found = json.loads(files.read_text(path, "pipeline manifest"))
    same = found["config"] == config and isinstance(found["stages"], dict)
  except (ValueError, KeyError, TypeError):
    raise errors.UserError(f"{path}: not a pipeline's manifest") from None
  if not same:
    raise errors.UserError(
      f"{path}: the directory is of a pipeline with another config; choose"
      " another --output"
    )
  return found


def _to_text(manifest: dict[str, Any]) -> str:
  return json.dumps(manifest, indent=2) + "\n"
