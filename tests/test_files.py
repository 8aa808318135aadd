"""Files appear whole or not at all, and nothing is written over."""

import pytest

from tunix_ttt import errors
from tunix_ttt import files


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
