"""Writes the results of benchmarks, with their machine, and times a reference."""

import json
import os
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp

from tunix_ttt import files

# Rows and columns of the matrices of `product_seconds`.
EDGE = 1024


def product_seconds() -> list[float]:
  """Returns the seconds of fifty products of two matrices of EDGE x EDGE."""
  matrix = jnp.ones((EDGE, EDGE))
  multiply = jax.jit(jnp.matmul)
  multiply(matrix, matrix).block_until_ready()
  seconds = []
  for _ in range(50):
    started = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    seconds.append(time.perf_counter() - started)
  return seconds


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
