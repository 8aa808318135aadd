"""Tests where compiled programs are kept."""

import os
import subprocess
import sys

import pytest

# A program compiled in less than the least time is kept, too.
SCRIPT = """
import jax
from tunix_ttt.runs import program_cache
program_cache.use()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.config.jax_compilation_cache_dir, jax.jit(lambda x: 2 * x)(3))
"""


def compiled(**settings):
  """Compiles a program in a new process; returns the directory it is kept in."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=kept | {"JAX_PLATFORMS": "cpu"} | settings,
    capture_output=True,
    text=True,
    check=True,
  )
  assert not done.stderr
  path, result = done.stdout.split()
  assert result == "6"
  return path


def test_programs_are_kept_and_halves_of_them_are_not(tmp_path):
  path = tmp_path / "tunix_ttt"
  place = compiled(XDG_CACHE_HOME=str(tmp_path))
  (directory,) = path.iterdir()
  assert place == str(directory)
  (program,) = directory.glob("jit__lambda*-cache")
  half = directory / "jit_killed-cache"
  half.write_bytes(program.read_bytes()[:100])
  before = program.stat().st_mtime_ns
  compiled(XDG_CACHE_HOME=str(tmp_path))
  assert not half.exists()
  assert program.stat().st_mtime_ns == before


@pytest.mark.parametrize(
  ("name", "value", "expected"),
  [
    ("JAX_COMPILATION_CACHE_DIR", "mine", "mine"),
    ("JAX_ENABLE_COMPILATION_CACHE", "false", "None"),
    # A file, in which there can be no directory.
    ("XDG_CACHE_HOME", __file__, "None"),
  ],
)
def test_other_places(name, value, expected, tmp_path):
  if expected == "mine":
    value = expected = str(tmp_path / expected)
  assert compiled(**{"XDG_CACHE_HOME": str(tmp_path), name: value}) == expected
  assert not (tmp_path / "tunix_ttt").exists()
