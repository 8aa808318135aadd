"""Runs SFT, DPO and GRPO in sequence, each from the previous stage's model.

pipeline_manifest.json   config, finished stages and their results
pairs.jsonl              preference pairs for DPO
sft/  dpo/  grpo/        run directories
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import dry_run
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import recipes
from tunix_ttt.data import generate
from tunix_ttt.data import rejection
from tunix_ttt.games import catalog
from tunix_ttt.games import row_kinds
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop

MANIFEST = "pipeline_manifest.json"
PAIRS = "pairs.jsonl"


class StageRecord(run_manifest.Record):
  """The record of a finished stage.

  Attributes:
    path: Path of the file or run, relative to the pipeline's directory.
    digest: SHA-256 of the file, or of the run's manifest.
    exact_play: Exact results of a run's model by its mark; None for pairs.
  """

  path: str
  digest: str
  exact_play: dict[str, Any] | None = None


class PipelineManifest(run_manifest.Record):
  """The manifest of a pipeline.

  Attributes:
    config: Config of the pipeline.
    stages: Records of the finished stages by name, in order.
  """

  config: dict[str, Any]
  stages: dict[str, StageRecord] = pydantic.Field(default_factory=dict)


def stages(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> dict[config_lib.Recipe, config_lib.SFTConfig]:
  """Returns the config of each run, in order.

  Raises:
    errors.UserError: If a stage's config is wrong.
  """
  configs: dict[config_lib.Recipe, config_lib.SFTConfig] = {}
  for name, kind in config_lib.RECIPES.items():
    stage: config_lib.StageConfig | None = getattr(config, name)
    if stage is None:
      continue
    settings = [f"seed={config.seed}", *stage.set]
    if configs:
      previous = output / [*configs][-1] / run_directory.FINAL_CHECKPOINT
      settings.append(f"model.name={previous}")
    if name == "dpo":
      settings.append(f"data.path={output / PAIRS}")
    path = pathlib.Path(stage.config)
    configs[name] = config_lib.load(kind, path, settings)
    run_loop.options(configs[name])
  return configs


def run(
  config: config_lib.PipelineConfig, output: pathlib.Path
) -> PipelineManifest:
  """Runs the unfinished stages of a pipeline and returns its manifest.

  The output is a directory to create, or a directory of the same pipeline.

  Raises:
    errors.UserError: If the config or a file it names is wrong, or the
      directory belongs to another pipeline.
  """
  configs = stages(config, output)
  manifest_path = output / MANIFEST
  manifest = PipelineManifest(config=config_lib.to_dict(config))
  if manifest_path.exists():
    previous = run_manifest.read_record(
      PipelineManifest, manifest_path, "pipeline manifest"
    )
    if previous.config != manifest.config:
      raise errors.UserError(
        f"{manifest_path}: the directory belongs to a pipeline with another"
        " config; choose another --output"
      )
    manifest = previous
  else:
    files.check_output(output)
    dry_run.check_chain([*configs.values()])
    _write(manifest, manifest_path)
  for name, path in _run_stages(config, configs, output):
    print(f"{name}: {path}", flush=True)
    finished = manifest.stages.get(name)
    if finished is None or finished.digest != _digest(path):
      exact = None
      if name in configs:
        played = recipes.play_finished(path, configs[name])
        exact = {m: dataclasses.asdict(r) for m, r in played.results.items()}
        recipes.report(path, configs[name])
      # The run's manifest lists the games now.
      record = StageRecord(
        path=str(path.relative_to(output)),
        digest=_digest(path),
        exact_play=exact,
      )
      records = {**manifest.stages, name: record}
      manifest = manifest.model_copy(update={"stages": records})
      _write(manifest, manifest_path)
  return manifest


def _run_stages(
  config: config_lib.PipelineConfig,
  configs: dict[config_lib.Recipe, config_lib.SFTConfig],
  output: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path]]:
  """Runs or resumes each stage and yields its name and file or directory."""
  for name, settings in configs.items():
    if name == "dpo":
      pairs = output / PAIRS
      if not pairs.exists():
        kind = _pairs(config.pairs, settings)
        generate.write(pairs, "dpo", kind, config.pairs.count, config.seed)
      yield "pairs", pairs
    directory = output / name
    if directory.exists():
      recipes.resume(directory, settings)
    else:
      recipes.start(name, settings, directory)
    yield name, directory


def _pairs(
  config: config_lib.PairsConfig, dpo_config: config_lib.SFTConfig
) -> row_kinds.Kind:
  rejected: dict[str, float] = {**config.rejected}
  if config.source == "solver":
    game = catalog.of(dpo_config)
    if "dpo" not in game.rows.kinds:
      raise errors.UserError(
        f"pairs.source: solver: {game.name} has no preference pairs by a solver"
      )
    make: Any = game.rows.kinds["dpo"]
    return make(rejected=rejected)
  play = dataclasses.replace(dpo_config.play, temperature=config.temperature)
  dpo_config = dataclasses.replace(dpo_config, play=play)
  name = dpo_config.model.name
  return rejection.Mistakes(
    name=name,
    model=reference_log_probs.load(name, dpo_config),
    config=dpo_config,
    rejected=rejected,
  )


def _digest(path: pathlib.Path) -> str:
  """Returns the digest of a file, or of a run's manifest."""
  if path.is_dir():
    path /= run_directory.MANIFEST
  return files.digest(path, "file of this pipeline")


def _write(manifest: PipelineManifest, path: pathlib.Path) -> None:
  files.write_text(path, manifest.model_dump_json(indent=2) + "\n")
