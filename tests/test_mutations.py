"""The bugs of `mutate.py` can still be put in, and their tests exist."""

import re

import pytest

from tests import conftest
from tests import mutate


@pytest.mark.parametrize("bug", mutate.MUTATIONS, ids=lambda bug: bug.name)
def test_a_bug_has_a_place_and_a_test(bug):
  text = (conftest.ROOT / bug.path).read_text()
  assert text.count(bug.old) == 1
  file, name = bug.test.split("::")
  assert f"def {name}(" in (conftest.ROOT / file).read_text()


def test_bugs_have_names_of_their_own():
  names = [bug.name for bug in mutate.MUTATIONS]
  assert len(set(names)) == len(names) >= 20


def test_the_tests_of_the_guide_exist():
  guide = (conftest.ROOT / "CONTRIBUTING.md").read_text()
  found = re.findall(r"`(tests/\w+\.py)::(\w+)`", guide)
  assert len(found) > 20
  for file, name in found:
    assert f"def {name}(" in (conftest.ROOT / file).read_text(), name
