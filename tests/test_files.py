"""Files appear whole or not at all, and nothing is written over."""

import errno
import os
import subprocess
import sys

import pytest

from tests import conftest
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import integrity


def names(path):
  return sorted(p.name for p in path.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
  path = tmp_path / "sub" / "a.txt"
  files.write_text(path, "one")
  files.write_text(path, "twø")
  assert path.read_text(encoding="utf-8") == "twø"
  assert names(path.parent) == ["a.txt"]


def test_a_directory_appears_when_it_is_complete(tmp_path):
  path = tmp_path / "runs" / "a"
  with files.new_directory(path) as new:
    (new / "x").write_text("1")
    assert not path.exists()
  assert names(path) == ["x"]
  assert names(path.parent) == ["a"]


def test_a_directory_that_fails_leaves_nothing(tmp_path):
  def fail():
    with files.new_directory(tmp_path / "a") as new:
      (new / "x").write_text("1")
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    fail()
  assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_exists_stays(tmp_path, kind):
  path = tmp_path / "a"
  if kind == "file":
    path.write_text("mine")
  elif kind == "directory":
    path.mkdir()
  else:
    path.symlink_to(tmp_path / "nowhere")
  refused = pytest.raises(errors.UserError, match="already exists")
  with refused, files.new_directory(path):
    pass
  assert names(tmp_path) == ["a"]


def test_json_is_one_line_of_utf8():
  assert files.to_json({"a": "é\n"}) == '{"a": "é\\n"}'
  with pytest.raises(ValueError):
    files.to_json(float("nan"))


def test_what_fails_leaves_no_directories(tmp_path):
  for kind in (files.new_directory, files.new_file):
    with pytest.raises(ZeroDivisionError), kind(tmp_path / "a" / "b" / "c"):
      raise ZeroDivisionError
    assert names(tmp_path) == []
  (tmp_path / "a").mkdir()
  with pytest.raises(ZeroDivisionError), kind(tmp_path / "a" / "b" / "c"):
    raise ZeroDivisionError
  assert names(tmp_path) == ["a"]


# Ends in the middle of writing, as a killed process does.
KILLED = """
import os, pathlib, sys
from tunix_ttt import files
from tunix_ttt.runs import integrity
path = pathlib.Path(sys.argv[1])
with files.new_file(path / "a.txt"), files.new_directory(path / "b") as new:
  (new / "c").write_text("half")
  os._exit(9)
"""


def test_temporaries_of_dead_processes_are_removed(tmp_path):
  subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=conftest.ROOT)
  left = names(tmp_path)
  assert [name[:3] for name in left] == [".a.", ".b."]
  # One of a process that lives, and one of another machine.
  own = left[0].split("-")[0]
  others = [f"{own}-{os.getppid()}-0a1b", ".a.txt.123456-1-0a1b"]
  for name in others:
    (tmp_path / name).write_text("")
  files.write_text(tmp_path / "a.txt", "whole")
  assert names(tmp_path) == sorted([*others, left[1], "a.txt"])
  with files.new_directory(tmp_path / "b"):
    pass
  assert names(tmp_path) == sorted([*others, "a.txt", "b"])


@pytest.mark.parametrize(
  ("output", "reason"),
  [
    ("file/a", "Not a directory"),
    ("file/a/b", "Not a directory"),
    ("loop/a", "Too many levels of symbolic links"),
    ("new/" + "a" * 250, "File name too long"),
    ("a" * 300, "File name too long"),
    ("/proc/a", "No such file or directory"),
  ],
)
def test_an_output_that_cannot_be_made(output, reason, tmp_path):
  (tmp_path / "file").write_text("mine")
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  before = names(tmp_path)
  path = tmp_path / output
  for write in (
    files.check_output,
    lambda path: files.write_text(path, "a"),
    lambda path: files.new_directory(path).__enter__(),
  ):
    with pytest.raises(errors.UserError) as found:
      write(path)
    assert str(found.value) == f"{path}: cannot write this: {reason}"
  assert names(tmp_path) == before


def test_an_output_that_can_be_made(tmp_path):
  files.check_output(tmp_path / "a" / "b")
  assert names(tmp_path) == []


@pytest.mark.parametrize(
  ("error", "fault"),
  [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (OSError(errno.EACCES, "Permission denied", "a"), "a: Permission denied"),
    (ValueError("x [OS error 28: No space left on device] y"), "No space left on device"),
    (OSError(errno.EPIPE, "Broken pipe"), None),
    (FileNotFoundError(errno.ENOENT, "No such file", "a"), None),
    (errors.UserError("a: No space left on device"), None),
    (ZeroDivisionError(), None),
  ],
)  # fmt: skip
def test_faults_of_disks(error, fault):
  assert integrity.describe(error) == fault
