"""Kills and damages of tiny runs; see tests/faults."""

import os
import pathlib
import random
import re
import subprocess
import sys

import pytest

from tests import conftest
from tests.faults import __main__
from tests.faults import damage
from tests.faults import subjects

PAGE = conftest.ROOT / "docs/faults.md"


def attack(*flags: str) -> str:
  """Runs the command, which must not find anything; returns its table."""
  command = [sys.executable, "-m", "tests.faults", *flags]
  command += ["--cache", os.environ["JAX_COMPILATION_CACHE_DIR"]]
  result = subprocess.run(
    command, capture_output=True, text=True, cwd=conftest.ROOT
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


def survivors(table: str) -> dict[str, tuple[int, int]]:
  """Returns survived and attempted by campaign."""
  rows = re.findall(r"^(\w.*?)\s+(\d+)\s+(\d+)", table, re.MULTILINE)
  return {name: (int(first), int(second)) for name, first, second in rows}


def test_a_run_survives():
  table = attack("--kind", "kills", "--count", "2")
  assert survivors(table) == {"kills sft": (2, 2)}


@pytest.mark.slow
def test_a_damaged_model_is_told():
  table = attack(
    *("--kind", "damage", "--count", "4", "--action", "export", "--damage"),
    *damage.OF_FILES,
  )
  assert survivors(table) == {"damage sft finished": (4, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("subject", subjects.SUBJECTS)
def test_all_kinds_of_runs_survive(subject):
  table = attack("--kind", "kills", "--count", "6", "--subject", subject)
  assert survivors(table) == {f"kills {subject}": (6, 6)}


# Writes a file as runs do, then makes and removes a directory.
WRITER = """
import os, pathlib, shutil
from tests.faults import kill
act = {act}
kill.Hook(pathlib.Path("."), act)()
pathlib.Path(".a.json.0123abcd").write_text("x")
os.replace(".a.json.0123abcd", "a.json")
os.mkdir("steps")
os.mkdir("steps/12")
open("steps/12/b", "w").close()
shutil.rmtree("steps")
open("a.json").read()
"""


def write(directory: pathlib.Path, act: str) -> int:
  return subprocess.run(
    [sys.executable, "-c", WRITER.format(act=act)],
    cwd=directory,
    env=os.environ | {"PYTHONPATH": str(conftest.ROOT)},
  ).returncode


def test_writes_are_listed_and_killed_before(tmp_path):
  listing, one, two = (tmp_path / name for name in ("l", "one", "two"))
  one.mkdir()
  two.mkdir()
  path = f"kill.ListWrites(pathlib.Path({str(listing)!r}))"
  assert write(one, path) == 0
  assert listing.read_text().splitlines() == [
    "open .a.json.#",
    "os.rename a.json",
    "os.mkdir steps",
    "os.mkdir steps/#",
    "open steps/#/b",
    "os.remove steps/#/b",
    "os.rmdir steps/#",
    "os.rmdir steps",
  ]
  assert write(two, "kill.AtWrite('os.remove steps/#/b', 1)") == -9
  assert [*map(str, sorted(two.rglob("*")))] == [
    str(two / name) for name in ("a.json", "steps", "steps/12", "steps/12/b")
  ]


@pytest.mark.parametrize("kind", damage.OF_FILES)
def test_damages(kind, tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"0123456789" * 7)
  before = path.read_bytes()
  damage.OF_FILES[kind](path, random.Random(0))
  if kind == "remove":
    assert not path.exists()
  elif kind == "replace":
    assert path.is_dir()
  else:
    after = path.read_bytes()
    assert after != before
    bits = [a ^ b for a, b in zip(before, after, strict=False)]
    assert kind != "flip" or sum(map(int.bit_count, bits)) == 1
    assert kind in ("cut", "empty") or len(after) == len(before)
    assert kind not in ("cut", "empty") or before.startswith(after)


def test_the_page_names_flags_and_damages():
  page = PAGE.read_text()
  help_text = __main__.make_parser().format_help()
  flags = re.compile(r"--[a-z]+")
  assert set(flags.findall(help_text)) - {"--help"} <= set(flags.findall(page))
  assert [
    k for k in (*damage.OF_FILES, *damage.OF_DISKS) if f"`{k}`" not in page
  ] == []
