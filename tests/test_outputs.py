"""Scripts refuse an output that cannot be written, before they work."""

import json

import pytest

from tests import conftest
from tests.conftest import listing
from tests.conftest import refused
from tunix_ttt import files

ROW = {"prompt": "1 + 1?", "completion": "2"}
SCRIPTS = {
  "build_dataset": "--name n --version v --from rows.jsonl --root {}",
  "check_data": "rows.jsonl --json {}",
  "compare": "run_a run_b --output {}",
  "eval_generate": "--model base --config c.yaml --eval-set e.jsonl --output {}",
  "eval_play": "--model base --config c.yaml --output {}",
  "eval_report": "--run run_a --output {}",
  "evalset": "make-tictactoe --output {}",
  "judge": "--answers rows.jsonl --output {}",
  "export": "--model run_a --output {}",
  "generate_data": "--kind games --count 5 --output {}",
  "pipeline": "--config p.yaml --output {}",
  "train_sft_tunix": "--config c.yaml --output {}",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "c.yaml").write_text("seed: 0\n")
  (tmp_path / "p.yaml").write_text("sft: {config: c.yaml}\n")
  (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
  item = {"id": "a", "prompt": "b", "expected_answer": "c"}
  (tmp_path / "e.jsonl").write_text(json.dumps(item) + "\n")
  (tmp_path / "loop").symlink_to(tmp_path / "loop")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_output_that_cannot_be_made(script, run, monkeypatch):
  before = listing()
  path = conftest.ROOT / "training" / f"{script}.py"
  name = "a" * 300
  for output, reason in (
    ("rows.jsonl/a.html", "Not a directory"),
    ("loop/a.html", "Too many levels of symbolic links"),
    (f"new/{name}.html", "File name too long"),
  ):
    flags = SCRIPTS[script].format(output).split()
    refused(run(path, *flags), output, f"cannot write this: {reason}")
  assert listing() == before


def test_a_disk_that_is_full(run, monkeypatch):
  """Whatever was being written, it is one message."""

  def fail(path, text):
    del path, text
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(files, "write_text", fail)
  path = conftest.ROOT / "training" / "evalset.py"
  result = run(path, *SCRIPTS["evalset"].format("a").split())
  refused(result, "No space left on device")
