"""Checks that a run is resumed with what it was started with."""

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

# Settings that change what is written, or where it is computed, and no more; and
# places of things whose digests are checked.
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
# Custom rewards of a run, by name.
Rewards = Mapping[str, run_manifest.RewardRecord]


def config_of(
  manifest: run_manifest.RunManifest, run: pathlib.Path
) -> config_lib.SFTConfig:
  """Returns the config that a run was started with.

  Raises:
    errors.UserError: if it is not a config of the run's recipe.
  """
  path = run / run_directory.MANIFEST
  if manifest.recipe != "sft" and manifest.recipe not in manifest.config:
    raise errors.UserError(
      f"{path}: recipe: {manifest.recipe!r} does not fit the config, which has no"
      " such section"
    )
  try:
    kind = config_lib.RECIPES[manifest.recipe]
    return config_lib.from_dict(kind, manifest.config)
  except ValueError as error:
    raise errors.UserError(f"{path}: config: {error}") from None


def relocate(
  config: ConfigT, manifest: run_manifest.RunManifest, run: pathlib.Path
) -> ConfigT:
  """Returns a run's settings with the files that they name where they are now.

  A path is looked for from here, from where the run was started, and from
  where that would be now that the run may have been moved.

  Args:
    config: the settings.
    manifest: the run's.
    run: its directory.

  Raises:
    errors.UserError: if the model that it started from is nowhere.
  """

  def find(path: str | None) -> str | None:
    start = manifest.working_directory
    if path is None or start is None or os.path.exists(path):
      return path
    there = os.path.join(start, path)
    way = os.path.relpath(there, os.path.join(start, manifest.artifacts_path))
    beside = os.path.normpath(os.path.join(run, way))
    return next((p for p in (there, beside) if os.path.exists(p)), path)

  data = dataclasses.replace(config.data, path=find(config.data.path))
  config = dataclasses.replace(config, data=data)
  model, record = config.model, manifest.model
  config = with_model(config, chat_template=find(model.chat_template))
  if model.name in specs.TINY_MODELS:
    return config
  if model.base is not None:
    base = pathlib.Path(model.base)
    # What is loaded is checked again, in `check_same_model`.
    if adapters.is_adapter(base) or (
      checkpoints.is_model(base) and checkpoints.digest(base) == record.revision
    ):
      return with_model(config, name=model.base, revision=None, base=None)
  name = model.name if record.commit is not None else find(model.name)
  there = pathlib.Path(name or "")
  is_missing = record.commit is None and not there.is_dir()
  # Else it is for the adapter that the run started from.
  if is_missing or (model.base is not None and not _is_adapter(there)):
    raise errors.UserError(
      f"{run}: the model that this run started from is not at"
      f" {model.base or model.name}; say where the model with the digest"
      f" {record.revision} is: --base DIR"
    )
  return with_model(config, name=name)


def _is_adapter(directory: pathlib.Path) -> bool:
  if adapters.is_adapter(directory):
    return True
  is_ours = directory.is_dir() and not hub_loading.is_model(directory)
  return is_ours and checkpoints.describe(directory).lora is not None


def with_model(config: ConfigT, **changes: Any) -> ConfigT:
  """Returns settings with changes to those of the model."""
  model = dataclasses.replace(config.model, **changes)
  return dataclasses.replace(config, model=model)


def check_same_config(
  config: config_lib.SFTConfig,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run was started with another config."""
  path = run / run_directory.MANIFEST
  if type(config) is not config_lib.RECIPES[manifest.recipe]:
    raise errors.UserError(
      f"{path}: this is a run of {manifest.recipe}, which another script trains"
    )
  theirs = config_of(manifest, run)
  changed = [
    key
    for key in config_lib.differences(config, theirs)
    if not key.startswith(_FREE_ON_RESUME)
  ]
  if changed:
    raise errors.UserError(
      f"{run}: a run is resumed with the config it was started with; these"
      f" keys differ from {path}: {', '.join(changed)}"
    )


def check_same_rewards(
  rewards: Rewards, manifest: run_manifest.RunManifest, run: pathlib.Path
) -> None:
  """Raises a UserError if a run was started with other rewards."""
  theirs = manifest.rewards
  if rewards == theirs:
    return
  if rewards.keys() != theirs.keys():
    raise errors.UserError(
      f"{run}: the rewards that were given in Python are"
      f" {', '.join(rewards) or 'none'}, those of this run"
      f" {', '.join(theirs) or 'none'}; go on with the same, by"
      " tunix_ttt.resume(run, rewards=...)"
    )
  changed = [name for name in rewards if rewards[name] != theirs[name]]
  raise errors.UserError(
    f"{run}: the source or the weight of these rewards has changed since this"
    f" run was started: {', '.join(changed)}"
  )


def check_same_functions(
  config: config_lib.SFTConfig,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a function that the config names has changed."""
  ours = custom.digests(config_lib.flatten(config_lib.to_dict(config)))
  changed = [k for k in ours if ours[k] != manifest.functions.get(k)]
  if changed:
    raise errors.UserError(
      f"{run}: the source of these functions has changed since this run was"
      f" started: {', '.join(changed)}"
    )


def check_same_data(
  ours: run_manifest.DatasetRecord | None,
  theirs: run_manifest.DatasetRecord | None,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run was started with other data."""
  found = None if ours is None else ours.digest
  expected = None if theirs is None else theirs.digest
  if found != expected:
    source = ours and (ours.path or ours.key)
    raise errors.UserError(
      f"{run}: the data has changed since this run was started: {source} has"
      f" the digest {found}, the manifest has {expected}"
    )


def check_same_model(
  record: run_manifest.ModelRecord,
  manifest: run_manifest.RunManifest,
  run: pathlib.Path,
) -> None:
  """Raises a UserError if a run was started with another model."""
  # What it is called, and whether it is from the hub, is no matter.
  theirs = manifest.model
  same = theirs.model_copy(
    update={"name": record.name, "commit": record.commit}
  )
  if record != same:
    raise errors.UserError(
      f"{run}: the model has changed since this run was started: now"
      f" {record}, in the manifest {theirs}; say where the model with the digest"
      f" {theirs.revision} is: --base DIR"
    )
