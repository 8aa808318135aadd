"""Several runs in a row, each from the model of the one before.

pipeline_manifest.json   the stages, what they made, and how well it plays
pairs.jsonl              preference pairs
sft/  dpo/  grpo/        run directories
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import recipes
from tunix_ttt.algorithms import rewards
from tunix_ttt.data import generate
from tunix_ttt.data import rejection
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import base_model
from tunix_ttt.train import dry_run

MANIFEST = "pipeline_manifest.json"
PAIRS = "pairs.jsonl"
_WHAT = "pipeline manifest"


class StageRecord(run_manifest.Record):
  """The record of a finished stage.

  Attributes:
    path: Path of the file or run in the pipeline's directory.
    digest: SHA-256 of the file, or of the run's manifest.
    exact_play: how well a run's model plays, by side, over every line of play.
  """

  path: str
  digest: str
  exact_play: dict[str, Any] | None = None


class PipelineManifest(run_manifest.Record):
  """The manifest of a pipeline: its stages and their results so far.

  Attributes:
    config: the settings.
    stages: by name, in order.
  """

  config: dict[str, Any]
  stages: dict[str, StageRecord] = pydantic.Field(default_factory=dict)


def stages(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> dict[run_manifest.Recipe, config_lib.SFTConfig]:
  """Returns the config of each run, in order.

  Args:
    config: the settings.
    output: the pipeline's directory.

  Raises:
    errors.UserError: if a stage's config is wrong.
  """
  found: dict[run_manifest.Recipe, config_lib.SFTConfig] = {}
  for name, recipe in recipes.RECIPES.items():
    stage: config_lib.StageConfig | None = getattr(config, name)
    if stage is None:
      continue
    settings = [f"seed={config.seed}", *stage.set]
    if found:
      before = output / [*found][-1] / run_directory.FINAL_CHECKPOINT
      settings.append(f"model.name={before}")
    if name == "dpo":
      settings.append(f"data.path={output / PAIRS}")
    path = pathlib.Path(stage.config)
    found[name] = loaded = config_lib.load(recipe.config, path, settings)
    if isinstance(loaded, config_lib.GRPOConfig):
      rewards.custom_rewards(None, loaded.rewards)
  return found


def run(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> PipelineManifest:
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
  manifest = PipelineManifest(config=config_lib.to_dict(config))
  if path.exists():
    manifest = _read(path, manifest.config)
  else:
    files.check_output(output)
    dry_run.check_chain([*configs.values()])
    _write(manifest, path)
  for name, record in _run_stages(config, configs, output):
    print(f"{name}: {output / record.path}", flush=True)
    known = manifest.stages.get(name)
    if known is None or known.digest != record.digest:
      if name in configs:
        played = recipes.play_finished(output / record.path, configs[name])
        exact = {m: dataclasses.asdict(r) for m, r in played.results.items()}
        record = record.model_copy(update={"exact_play": exact})
        recipes.report(output / record.path, configs[name])
      done = {**manifest.stages, name: record}
      manifest = manifest.model_copy(update={"stages": done})
      _write(manifest, path)
  return manifest


def _run_stages(
  config: config_lib.PipelineConfig,
  configs: dict[run_manifest.Recipe, config_lib.SFTConfig],
  output: pathlib.Path,
) -> Iterator[tuple[str, StageRecord]]:
  """Yields what each stage made, when it is done."""
  for name, settings in configs.items():
    if name == "dpo":
      pairs = output / PAIRS
      if not pairs.exists():
        kind = _pairs(config.pairs, settings)
        generate.write(pairs, "dpo", kind, config.pairs.count, config.seed)
      yield "pairs", _record(pairs, pairs, output)
    made = output / name
    if made.exists():
      recipes.resume(made, settings)
    else:
      recipes.start(name, settings, made)
    yield name, _record(made, made / run_directory.MANIFEST, output)


def _pairs(
  config: config_lib.PairsConfig, dpo_config: config_lib.SFTConfig
) -> generate.Kind:
  rejected: dict[str, float] = {**config.rejected}
  if config.source == "solver":
    return generate.Pairs(rejected=rejected)
  sampled = dataclasses.replace(dpo_config.play, temperature=config.temperature)
  playing = dataclasses.replace(dpo_config, play=sampled)
  name = dpo_config.model.name
  return rejection.Mistakes(
    name=name,
    model=base_model.load(name, playing),
    config=playing,
    rejected=rejected,
  )


def _record(
  made: pathlib.Path, described: pathlib.Path, output: pathlib.Path
) -> StageRecord:
  return StageRecord(
    path=str(made.relative_to(output)),
    digest=files.digest(described, "file of this pipeline"),
  )


def _read(path: pathlib.Path, config: dict[str, Any]) -> PipelineManifest:
  found = run_manifest.read_record(PipelineManifest, path, _WHAT)
  if found.config != config:
    raise errors.UserError(
      f"{path}: the directory is of a pipeline with another config; choose"
      " another --output"
    )
  return found


def _write(manifest: PipelineManifest, path: pathlib.Path) -> None:
  files.write_text(path, manifest.model_dump_json(indent=2) + "\n")
