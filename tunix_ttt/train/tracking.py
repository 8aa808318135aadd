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


class OwnMetrics:
  """A backend of Tunix's that hears one trainer's metrics, until it is closed.

  Tunix gives its backends to `jax.monitoring`, which tells them of everything
  that JAX and Orbax measure too, and goes on after they are closed.
  """

  def __init__(self, backend: metrics_logger.LoggingBackend, prefix: str):
    """Wraps `backend`; only events that start with `prefix/` reach it."""
    self._backend = backend
    self._prefix = prefix
    self._open = True

  def log_scalar(
    self, event: str, value: float | np.ndarray, **kwargs: str | int
  ) -> None:
    """Listens to `jax.monitoring`."""
    if self._open and event.startswith(f"{self._prefix}/"):
      self._backend.log_scalar(event, value, **kwargs)

  def close(self) -> None:
    """Closes the backend."""
    if self._open:
      self._open = False
      self._backend.close()


def check(config: config_lib.LoggingConfig) -> None:
  """Raises a UserError if W&B is asked for and not installed."""
  if config.wandb and importlib.util.find_spec("wandb") is None:
    raise errors.UserError(
      "logging.wandb: Weights & Biases is not installed; run: pip install"
      " 'tunix_ttt[tracking]'"
    )


def options(
  config: config_lib.LoggingConfig, run: pathlib.Path, prefix: str
) -> metrics_logger.MetricsLoggerOptions:
  """Returns Tunix's options for a run.

  Args:
    config: says whether W&B is wanted; TensorBoard always is.
    run: the run directory.
    prefix: Prefix of the trainer's metrics, `metrics_prefix` in Tunix.
  """
  directory = str(run / run_directory.TENSORBOARD)
  factories: list[metrics_logger.BackendFactory] = [
    lambda: OwnMetrics(
      metrics_logger.TensorboardBackend(log_dir=directory), prefix
    )
  ]
  if config.wandb:
    factories.append(lambda: OwnMetrics(_wandb(config, run), prefix))
  # Without a list of backends Tunix adds W&B wherever it can be imported.
  return metrics_logger.MetricsLoggerOptions(
    log_dir=directory, backend_kwargs={"custom_backend": factories}
  )


def wandb_url(run: pathlib.Path) -> str | None:
  """Returns the address of a run's page on W&B, None offline and without one.

  Args:
    run: the run directory, whose backends have been made.
  """
  wandb: Any = sys.modules.get("wandb")
  tracked = wandb and wandb.run
  # A notebook may have a W&B run of its own.
  if not tracked or tracked.id != run.name:
    return None
  return tracked.url or None


def _wandb(
  config: config_lib.LoggingConfig, run: pathlib.Path
) -> metrics_logger.LoggingBackend:
  import wandb  # pyright: ignore[reportMissingImports]

  try:
    # A run that is resumed goes on under its name.
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
      f"logging.wandb: {error} To go on without it:"
      f" --output {run} --resume latest --set logging.wandb=false"
    ) from None
