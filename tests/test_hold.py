"""One process at a time works on a run directory."""

import subprocess
import sys

import pytest

from tests import conftest
from tunix_ttt import errors
from tunix_ttt.runs import run_directory

HOLD = """
import pathlib, sys, time
from tunix_ttt.runs import run_directory
with run_directory.hold(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(300)
"""


def refused():
  return pytest.raises(errors.UserError, match="another process is working")


def test_a_run_is_held_until_the_block_ends(tmp_path):
  for _ in range(2):
    with run_directory.hold(tmp_path), refused(), run_directory.hold(tmp_path):
      pass
  assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_holds_nothing(tmp_path):
  command = [sys.executable, "-c", HOLD, tmp_path]
  with subprocess.Popen(
    command, cwd=conftest.ROOT, stdout=subprocess.PIPE, text=True
  ) as holder:
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with refused(), run_directory.hold(tmp_path):
      pass
    holder.kill()
    holder.wait()
    with run_directory.hold(tmp_path):
      pass
