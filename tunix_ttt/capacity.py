"""Refuses work that no device of this machine has the memory for."""

import os

from tunix_ttt import errors

# Estimates are of shapes alone, and may be so many times too high.
_LEEWAY = 2


def of_device() -> int:
  """Returns the bytes of memory that a device has."""
  # Imported lazily: starts a backend.
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  # Without memory of its own, as a CPU, it has the machine's.
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def check_fits(needed: int, what: str, advice: str) -> None:
  """Raises a UserError if something needs far more memory than a device has.

  Args:
    needed: Estimated bytes on each device.
    what: The thing that needs them, for the message.
    advice: The settings to lower.
  """
  available = of_device()
  if needed > _LEEWAY * available:
    raise errors.UserError(
      f"{what} needs about {_size(needed)} of memory on each device, which has"
      f" {_size(available)}; lower {advice}"
    )


def _size(count: int) -> str:
  return f"{min(count, 10**24) / 2**30:,.1f} GiB"
