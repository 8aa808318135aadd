"""Tests whether a process keeps the memory that it frees."""

import os
import platform
import subprocess
import sys

import pytest

# Pages that are touched for the first time, from the second of ten allocations on.
SCRIPT = """
import ctypes
import resource
from tunix_ttt.runs import freed_memory

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

# Without huge pages, of which there would be few.
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
freed_memory.keep()
bytes(10**8)
before = faults()
for _ in range(10):
  bytearray(b"x") * 10**8
print(faults() - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="other C libraries have no settings"
)
@pytest.mark.parametrize("variable", [None, "MALLOC_TOP_PAD_"])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(variable):
  kept = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
  kept.pop("GLIBC_TUNABLES", None)
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=kept | ({variable: "131072"} if variable else {}),
    capture_output=True,
    text=True,
    check=True,
  )
  pages = 10**9 / os.sysconf("SC_PAGE_SIZE")
  if variable:
    assert int(done.stdout) > pages / 2
  else:
    assert int(done.stdout) < 1.5 * pages / 10
