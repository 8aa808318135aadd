"""Writes the results of benchmarks, with the machine that they are of."""

import json
import os
import pathlib
import platform
from typing import Any

import jax

from tunix_ttt import files


def write(path: pathlib.Path | None, results: dict[str, Any]) -> None:
  """Writes results as JSON; without a path, does nothing."""
  if path is None:
    return
  machine = {
    "platform": platform.platform(),
    "cores": os.cpu_count(),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  files.write_text(path, json.dumps({**machine, **results}, indent=2) + "\n")
