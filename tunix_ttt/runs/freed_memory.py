"""Keeps freed memory for the next compiled program, instead of giving it back.

XLA for a CPU allocates the memory of a program at each call. By default glibc gives it
back afterwards, and to touch it anew took a third of a tiny model's training step.
"""

import ctypes
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep() -> None:
  """Makes this process keep freed memory, if it runs on glibc.

  What is freed at the end of its heap is kept up to 2 GiB, and what lies below memory
  in use as a whole. Call it before threads are started. Settings of the user, in
  `GLIBC_TUNABLES` or variables such as `MALLOC_ARENA_MAX`, stay.
  """
  if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
    return
  try:
    set_option = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    # Another C library.
    return
  for option, value in (
    # Arenas of other threads would still be given back.
    (_ARENA_MAX, 1),
    (_MMAP_MAX, 0),
    (_TRIM_THRESHOLD, _LARGEST),
  ):
    set_option(option, value)
