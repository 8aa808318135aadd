"""Whole runs, each one call: what training scripts and notebooks are made of."""

from collections.abc import Mapping
import pathlib
from typing import Any, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.evaluate import in_training
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.train import dpo
from tunix_ttt.train import grpo
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft

ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
# Where no config is given, what `load_config` makes one of.
Settings = pathlib.Path | str | Mapping[str, Any]


def train_sft(
  config: config_lib.SFTConfig | Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Fine-tunes a model on games or on a file of rows.

  Args:
    config: the settings, or a YAML file or dictionary of them.
    output: the run directory, which must not exist; None makes one under
      `artifacts/training_runs`.

  Returns:
    The run directory; the model is in its `checkpoint-final`.

  Raises:
    errors.UserError: if the input is wrong, before anything is written.
  """
  config = _config(config_lib.SFTConfig, config)
  return sft.train(config, _path(output))


def train_dpo(
  config: config_lib.DPOConfig | Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Trains a model on pairs of answers, of which one is preferred.

  Args:
    config: see `train_sft`; `data.path` names the pairs.
    output: see `train_sft`, also for what is returned and raised.
  """
  config = _config(config_lib.DPOConfig, config)
  return dpo.train(config, _path(output))


def train_grpo(
  config: config_lib.GRPOConfig | Settings,
  output: pathlib.Path | str | None = None,
  *,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Improves a model by playing whole games.

  Args:
    config: see `train_sft`.
    output: see `train_sft`, also for what is returned and raised.
    rewards: functions of games that are added to the config's rewards, by the
      name that they have in metrics (`reward/name`). A function is given B
      games as a `Trajectory` of NumPy arrays, and returns float [B, T], what
      each turn earned, or [B], what each game is worth. `(function, weight)`
      stands for one times a weight. Their sources are in the run's manifest.
  """
  config = _config(config_lib.GRPOConfig, config)
  return grpo.train(config, in_training.Evaluator, _path(output), rewards)


def resume(
  run: pathlib.Path | str,
  config: config_lib.SFTConfig | None = None,
  *,
  step: int | None = None,
  base: pathlib.Path | str | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    run: its directory.
    config: the settings it was started with; None takes them from its
      manifest. Those of logging, of devices, of how many checkpoints and games
      are kept, and of where data and model are now may differ.
    step: which of its checkpoints to go on from; None for the latest, or the
      beginning where there is none yet. Later checkpoints are set aside.
    base: directory of the model that the run started from, where it is no
      longer the recorded one; its digest is checked.
    rewards: the functions that a GRPO run was started with.

  Returns:
    The run directory.

  Raises:
    errors.UserError: if there is no such run or checkpoint, or the config, the
      rewards, the data, the base or the code's results are not the run's.
  """
  run = pathlib.Path(run)
  progress.hush()
  if config is None:
    manifest = run_directory.RunManifest.read(run)
    kind = config_lib.RECIPES[manifest.recipe]
    config = run_loop.config_of(kind, manifest, run)
  if base is not None:
    config = run_loop.with_model(config, base=str(base))
  if isinstance(config, config_lib.GRPOConfig):
    return grpo.resume(config, in_training.Evaluator, run, step, rewards)
  if rewards:
    raise errors.UserError(
      f"{run}: rewards are for GRPO, which this run is not"
    )
  if isinstance(config, config_lib.DPOConfig):
    return dpo.resume(config, run, step)
  return sft.resume(config, run, step)


def _path(output: pathlib.Path | str | None) -> pathlib.Path | None:
  return None if output is None else pathlib.Path(output)


def _config(kind: type[ConfigT], config: ConfigT | Settings) -> ConfigT:
  """Returns the config that a run was asked for with, checked."""
  progress.hush()
  if isinstance(config, pathlib.Path | str | Mapping):
    return config_lib.load(kind, config)
  if not isinstance(config, kind):
    raise errors.UserError(
      f"config: expected a {kind.__name__}, a YAML file or a dictionary of its"
      f" keys, found a {type(config).__name__}"
    )
  return config
