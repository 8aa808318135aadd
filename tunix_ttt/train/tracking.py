"""Logs metrics to TensorBoard and W&B."""

import importlib.util
import pathlib
import sys
from typing import Any

import numpy as np
from tunix.sft import metrics_logger

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory


class FilteredBackend:
  """A logging backend that receives only one trainer's metrics, until closed.

  Tunix registers backends with `jax.monitoring`, which also sends them metrics
  of JAX and Orbax, even after they are closed.
  """

  def __init__(self, backend: metrics_logger.LoggingBackend, prefix: str):
    """Wraps `backend`, which receives events that start with `prefix/`."""
    self._backend, self._prefix = backend, prefix
    self._is_open = True

  def log_scalar(
    self, event: str, value: float | np.ndarray, **kwargs: str | int
  ) -> None:
    """Forwards an event to the backend."""
    if self._is_open and event.startswith(f"{self._prefix}/"):
      self._backend.log_scalar(event, value, **kwargs)

  def close(self) -> None:
    """Closes the backend."""
    if self._is_open:
      self._is_open = False
      self._backend.close()


def check(config: config_lib.LoggingConfig) -> None:
  """Raises a UserError if the config enables W&B, which is not installed."""
  if config.wandb and importlib.util.find_spec("wandb") is None:
    raise errors.UserError(
      "logging.wandb: Weights & Biases is not installed; run: pip install"
      " 'tunix_ttt[tracking]'"
    )


def options(
  config: config_lib.LoggingConfig, run: pathlib.Path, prefix: str
) -> metrics_logger.MetricsLoggerOptions:
  """Returns Tunix's options for TensorBoard and, if enabled, W&B.

  Args:
    config: Settings of logging.
    run: Run directory.
    prefix: Prefix of the trainer's metrics, `metrics_prefix` in Tunix.
  """
  directory = str(run / run_directory.TENSORBOARD)
  factories: list[metrics_logger.BackendFactory] = [
    lambda: FilteredBackend(
      metrics_logger.TensorboardBackend(log_dir=directory), prefix
    )
  ]
  if config.wandb:
    factories.append(lambda: FilteredBackend(_wandb(config, run), prefix))
  # Without explicit backends, Tunix adds W&B if it is installed.
  return metrics_logger.MetricsLoggerOptions(
    log_dir=directory, backend_kwargs={"custom_backend": factories}
  )


def wandb_url(run: pathlib.Path) -> str | None:
  """Returns the URL of a run on W&B; None offline or without W&B."""
  wandb: Any = sys.modules.get("wandb")
  wandb_run = wandb and wandb.run
  # A notebook may have another W&B run.
  if not wandb_run or wandb_run.id != run.name:
    return None
  return wandb_run.url or None


def _wandb(
  config: config_lib.LoggingConfig, run: pathlib.Path
) -> metrics_logger.LoggingBackend:
  import wandb  # pyright: ignore[reportMissingImports]

  try:
    # A resumed run continues its W&B run.
    return metrics_logger.WandbBackend(
      project=config.wandb_project,
      name=run.name,
      id=run.name,
      resume="allow",
      dir=str(run),
      settings=wandb.Settings(silent=progress.quiet),
    )
  except wandb.Error as error:
    raise errors.UserError(
      f"logging.wandb: {error} To resume without W&B:"
      f" --output {run} --resume latest --set logging.wandb=false"
    ) from None
