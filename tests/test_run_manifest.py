"""Run manifests name the commit of the code that made the run."""

import subprocess

import pytest

from tests import conftest
from tunix_ttt.runs import run_manifest


def git(*arguments):
  result = subprocess.run(
    ["git", *arguments], cwd=conftest.ROOT, capture_output=True, text=True
  )
  return result.stdout.strip()


def test_the_commit_of_a_checkout():
  if git("rev-parse", "--show-toplevel") != str(conftest.ROOT):
    pytest.skip("not a checkout")
  expected = (git("rev-parse", "HEAD"), bool(git("status", "--porcelain")))
  assert run_manifest.git_state() == expected
