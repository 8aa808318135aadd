"""Reads and writes files of answers to observations."""

from collections.abc import Mapping
import os
import pathlib
import threading
from typing import Any

import pydantic

from tunix_ttt import errors
from tunix_ttt import files

_WHAT = "file of answers"
# Start of the lines that `Cache` writes.
_START = b'{"key": '


class Reply(pydantic.BaseModel):
  """An answer to an observation.

  Attributes:
    key: Digest of the request; empty for answers from elsewhere.
    model: Name of the model.
    observation: Text of the observation.
    response: Text of the answer.
    truncated: Whether the answer reached the limit of tokens.
  """

  model_config = pydantic.ConfigDict(frozen=True, strict=True)

  key: str = ""
  model: str = ""
  observation: str
  response: str
  truncated: bool = False


def read(path: pathlib.Path) -> dict[str, Reply]:
  """Reads answers by observation from a JSONL file.

  Raises:
    errors.UserError: If a line is no answer, or two answers to an observation
      differ.
  """
  replies: dict[str, Reply] = {}
  for number, row in files.read_jsonl(path, _WHAT):
    reply = _parse(path, number, row)
    other = replies.setdefault(reply.observation, reply)
    if (other.response, other.truncated) != (reply.response, reply.truncated):
      raise errors.UserError(
        f"{path}:{number}: this answer differs from another one to the same"
        " observation; keep the answers of one model"
      )
  return replies


def _parse(path: pathlib.Path, number: int, row: Mapping[str, Any]) -> Reply:
  try:
    return Reply.model_validate(row)
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    raise errors.UserError(
      f"{path}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}; an"
      " answer is an object with an observation and a response"
    ) from None


class Cache:
  """Answers by the digest of the request, in a JSONL file that only grows.

  Attributes:
    path: Path of the file, which is created with the first answer.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the answers, except a last line that a crash left unfinished.

    Raises:
      errors.UserError: If another line is no answer.
    """
    self.path, self._lock, self._file = path, threading.Lock(), None
    self._replies: dict[str, Reply] = {}
    self._is_whole = True
    if not os.path.lexists(path):
      return
    lines = [*files.scan_jsonl(path, _WHAT)]
    last = path.read_bytes().rpartition(b"\n")[2]
    self._is_whole = not last
    is_ours = last[: len(_START)] == _START[: len(last)]
    if last and is_ours and lines[-1].row is None:
      del lines[-1]
    for line in lines:
      if line.row is None:
        raise errors.UserError(f"{path}:{line.number}: {line.fault}")
      reply = _parse(path, line.number, line.row)
      self._replies[reply.key] = reply

  def get(self, key: str) -> Reply | None:
    """Returns the answer to a request, if any."""
    return self._replies.get(key)

  def open(self) -> None:
    """Opens the file; raises a UserError if it cannot be written."""
    if self._file is not None:
      return
    if not self._is_whole:
      rows = [_line(reply) for reply in self._replies.values()]
      files.write_bytes(self.path, b"".join(rows))
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
      self._file = os.open(self.path, flags, 0o666)
    except OSError as error:
      raise self._unwritable(error.strerror) from None

  def add(self, reply: Reply) -> None:
    """Appends an answer to the open file: a whole line, by one write."""
    line = _line(reply)
    with self._lock:
      assert self._file is not None
      try:
        size = os.write(self._file, line)
      except OSError as error:
        raise self._unwritable(error.strerror) from None
      if size < len(line):
        raise self._unwritable("No space left on device")
      self._replies[reply.key] = reply

  def close(self) -> None:
    """Closes the file."""
    with self._lock:
      if self._file is not None:
        os.close(self._file)
        self._file = None

  def _unwritable(self, reason: str | None) -> errors.UserError:
    return errors.UserError(f"{self.path}: cannot write this: {reason}")


def _line(reply: Reply) -> bytes:
  return f"{files.to_json(reply.model_dump())}\n".encode()
