"""Checks that a resumed run has its original config, data and model."""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# Settings that do not affect results, and paths of files whose digests are
# checked.
_FREE_ON_RESUME = (
  "data.path",
  "model.base",
  "model.chat_template",
  "model.name",
  "model.revision",
  "logging.",
  "checkpoint.max_to_keep",
  "rollouts_per_log",
  "mesh.",
  "distributed",
)
ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
# Records of a run's custom rewards, by name.
Rewards = Mapping[str, run_manifest.RewardRecord]


def config_of(
  manifest: run_manifest.RunManifest, run: pathlib.Path
) -> config_lib.SFTConfig:
  """Returns a run's original settings, of the class of its recipe.

  Raises:
    errors.UserError: if the manifest's config is invalid.
  """
  path = run / run_directory.MANIFEST
  if manifest.recipe != "sft" and manifest.recipe not in manifest.config:
    raise errors.UserError(
      f"{path}: recipe: {manifest.recipe!r} has no section in the config"
    )
  try:
    kind = config_lib.RECIPES[manifest.recipe]
    return config_lib.from_dict(kind, manifest.config)
  except ValueError as error:
    raise errors.UserError(f"{path}: config: {error}") from None


def relocate(
  config: ConfigT, manifest: run_manifest.RunManifest, run: pathlib.Path
) -> ConfigT:
  """Updates the paths in a run's settings to the present locations.

  Paths are resolved against the working directory, the run's original working
  directory, and the latter moved along with the run.

  Args:
    config: Settings of the run.
    manifest: Manifest of the run.
    run: Run directory.

  Raises:
    errors.UserError: if the model that the run started from is missing.
  """

  def find(path: str | None) -> str | None:
    start = manifest.working_directory
    if path is None or start is None or os.path.exists(path):
      return path
    original = os.path.join(start, path)
    old_run = os.path.join(start, manifest.artifacts_path)
    from_run = os.path.relpath(original, old_run)
    moved = os.path.normpath(os.path.join(run, from_run))
    return next((p for p in (original, moved) if os.path.exists(p)), path)

  data = dataclasses.replace(config.data, path=find(config.data.path))
  config = dataclasses.replace(config, data=data)
  model, record = config.model, manifest.model
  config = with_model(config, chat_template=find(model.chat_template))
  if model.name in specs.TINY_MODELS:
    return config
  if model.base is not None:
    base = pathlib.Path(model.base)
    # `check_same_model` checks the loaded model again.
    if adapters.is_adapter(base) or (
      checkpoints.is_model(base) and checkpoints.digest(base) == record.revision
    ):
      return with_model(config, name=model.base, revision=None, base=None)
  name = model.name if record.commit is not None else find(model.name)
  directory = pathlib.Path(name or "")
  is_missing = record.commit is None and not directory.is_dir()
  # `model.base` may also be the base of an adapter that the run started from.
  if is_missing or (model.base is not None and not _is_adapter(directory)):
    raise errors.UserError(
      f"{run}: the model that this run started from is not at"
      f" {model.base or model.name}; give the model with the digest"
      f" {record.revision}: --base DIR"
    )
  return with_model(config, name=name)


def _is_adapter(directory: pathlib.Path) -> bool:
  if adapters.is_adapter(directory):
    return True
  is_ours = directory.is_dir() and not hub_loading.is_model(directory)
  return is_ours and checkpoints.describe(directory).lora is not None


def with_model(config: ConfigT, **changes: Any) -> ConfigT:
  """Returns a config with changed model settings."""
  model = dataclasses.replace(config.model, **changes)
  return dataclasses.replace(config, model=model)


def check_same_config(
  config: config_lib.SFTConfig,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run started with another config."""
  path = run / run_directory.MANIFEST
  if type(config) is not config_lib.RECIPES[manifest.recipe]:
    raise errors.UserError(
      f"{path}: this is a {manifest.recipe} run; use its own script"
    )
  original = config_of(manifest, run)
  changed = [
    key
    for key in config_lib.differences(config, original)
    if not key.startswith(_FREE_ON_RESUME)
  ]
  if changed:
    raise errors.UserError(
      f"{run}: resume with the original config; these keys differ from {path}:"
      f" {', '.join(changed)}"
    )


def check_same_rewards(
  rewards: Rewards, manifest: run_manifest.RunManifest, run: pathlib.Path
) -> None:
  """Raises a UserError if a run started with other custom rewards."""
  original = manifest.rewards
  if rewards.keys() != original.keys():
    raise errors.UserError(
      f"{run}: the rewards from Python are {', '.join(rewards) or 'none'}, but"
      f" the run has {', '.join(original) or 'none'}; resume with the run's own:"
      " tunix_ttt.resume(run, rewards=...)"
    )
  changed = [name for name in rewards if rewards[name] != original[name]]
  if changed:
    raise errors.UserError(
      f"{run}: the source or weight of these rewards has changed since the run"
      f" started: {', '.join(changed)}"
    )


def check_same_functions(
  config: config_lib.SFTConfig,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a function that the config names has changed."""
  digests = custom.digests(config_lib.flatten(config_lib.to_dict(config)))
  changed = [k for k in digests if digests[k] != manifest.functions.get(k)]
  if changed:
    raise errors.UserError(
      f"{run}: the source of these functions has changed since the run started:"
      f" {', '.join(changed)}"
    )


def check_same_data(
  record: run_manifest.DatasetRecord | None,
  original: run_manifest.DatasetRecord | None,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run started with other data."""
  digest = record and record.digest
  expected = original and original.digest
  if digest != expected:
    source = record and (record.path or record.key)
    raise errors.UserError(
      f"{run}: the data has changed since the run started: {source} has the"
      f" digest {digest}, the manifest has {expected}"
    )


def check_same_model(
  record: run_manifest.ModelRecord,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run started from another model."""
  # A model may have moved, or have been loaded from the hub.
  original = manifest.model
  update = {"name": record.name, "commit": record.commit}
  if record != original.model_copy(update=update):
    raise errors.UserError(
      f"{run}: the model has changed since the run started: {record}, in the"
      f" manifest {original}; give the model with the digest"
      f" {original.revision}: --base DIR"
    )
