"""Malformed inputs of every script: one message, and nothing left behind."""

import pytest

from tests.faults import inputs

CASES = inputs.cases()
# Some of every kind; the rest is left to `make test-all`.
_EVERY = 13


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(
      case, marks=() if n % _EVERY == 0 else pytest.mark.slow, id=case.name
    )
    for n, case in enumerate(CASES)
  ],
)
def test_a_malformed_input_is_refused(case, monkeypatch):
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  assert inputs.attempt(case) == ""


def test_cases_are_many_and_of_every_script():
  names = [case.name for case in CASES]
  assert len(set(names)) == len(names) > 700
  scripts = {path.stem for path in (inputs.ROOT / "training").glob("*.py")}
  # Those of a service share their flags and checks with the trainers.
  on_service = {"train_grpo_tinker", "train_sft_tinker"}
  assert {case.script for case in CASES} == scripts - on_service


@pytest.mark.parametrize("script", ["check_data", "evalset", "eval_report"])
def test_good_files_are_taken(script, tmp_path, monkeypatch):
  """Without damage the same commands succeed, so that it is what is refused."""
  monkeypatch.chdir(tmp_path)
  inputs.write_good(tmp_path)
  code, _, err = inputs.run_script(script, inputs.COMMANDS[script])
  assert code == 0, err


@pytest.mark.parametrize(
  ("code", "err", "is_same", "found"),
  [
    (2, "reading …\nerror: a\n", True, ""),
    (0, "", True, "exit code 0"),
    (1, "error: a\n", True, "exit code 1"),
    (2, "error: a\nTraceback\n", True, "not one message"),
    (2, "error: a\nerror: b\n", True, "not one message"),
    (2, "usage: x\nerror: a\n", True, "not a message"),
    (2, "error: \n", True, "not a message"),
    (2, f"error: {'a' * 2000}\n", True, "a message of"),
    (2, "error: \x1b[2J\n", True, "control characters"),
    (2, "error: a\n", False, "left behind"),
  ],
)
def test_what_survives(code, err, is_same, found):
  fault = inputs._judge(code, err, is_same)
  assert found in fault and bool(fault) == bool(found)
