"""The exception for mistakes in a user's input."""

from collections.abc import Iterator
import re
import reprlib
from typing import Any

# Longer lines are cut in the middle.
_MAX_LINE = 1000
_MAX_LINES = 40
# Characters that move a terminal's cursor, and halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 8
_REPR.maxlevel = 3


class UserError(Exception):
  """A mistake in a config, data file, path or flag.

  The message names the file and line, key or row, states the fault and tells
  the user what to do. Scripts print it and exit with code 2. Long lines are cut
  and control characters are escaped.
  """

  def __init__(self, message: str):
    """Takes a message of one or more lines."""
    lines = message.split("\n")
    if (more := len(lines) - _MAX_LINES) > 0:
      lines[_MAX_LINES:] = [f"and {more:,} lines more"]
    super().__init__("\n".join(map(_clean, lines)))


def _clean(line: str) -> str:
  if len(line) > _MAX_LINE:
    half = _MAX_LINE // 2
    line = f"{line[:half]} … {line[-half:]}"
  return _CONTROL.sub(lambda c: ascii(c[0])[1:-1], line)


def quote(value: Any) -> str:
  """Returns the `repr` of a value, cut if it is long."""
  return _REPR.repr(value)


def causes(error: BaseException) -> Iterator[BaseException]:
  """Yields an exception and the chain of exceptions that led to it."""
  cause: BaseException | None = error
  while cause is not None:
    yield cause
    cause = cause.__cause__ or cause.__context__
