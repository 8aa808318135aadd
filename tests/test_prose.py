"""Docstrings and names follow the rules that `tests/prose.py` counts."""

import pytest

from tests import prose


@pytest.mark.parametrize(
  "path",
  prose.sources(prose.ROOT),
  ids=lambda path: str(path.relative_to(prose.ROOT)),
)
def test_prose(path):
  assert list(prose.breaches(path)) == []


def test_breaches_are_found(tmp_path):
  path = tmp_path / "a.py"
  path.write_text(
    '"""What is here."""\ndef f(told):\n  """F.\n\n  Args:\n    told: of a."""\n'
  )
  rules = [rule for rule, _ in prose.breaches(path)]
  assert len(rules) == 4 and rules[-1] == "vague name"
