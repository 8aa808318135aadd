"""Answer files and the report made of two of them."""

import json

import pytest

from tunix_ttt import errors
from tunix_ttt.evaluate import evalsets as answers_lib
from tunix_ttt.report import delta_report


def answer(key, score, section="s", response="r", **fields):
  return answers_lib.Answer(
    id=key,
    section=section,
    match="exact",
    prompt="p",
    expected_answer="r",
    response=response,
    verdict="right" if score else "wrong",
    score=score,
    chance=None,
    model="base",
    seed=0,
    **fields,
  )


def write(path, answers):
  answers_lib.write(answers, path)
  return path


def test_answers_round_trip(tmp_path):
  answers = [answer("a", 1), answer("b", 0, response="é\n\u2028|`<x>")]
  path = write(tmp_path / "a.jsonl", answers)
  assert list(answers_lib.read(path).values()) == answers
  with pytest.raises(errors.UserError, match="already exists"):
    write(path, answers)


@pytest.mark.parametrize(
  "text, found",
  [
    ("", "this answer file has no rows"),
    ("{}", ":1: id: Field required; is this a file that eval_generate.py"),
    (json.dumps(answer("a", 1).model_dump()) + "\n" + json.dumps(answer("a", 0).model_dump()), ":2: the item 'a' is answered twice"),
    (json.dumps(answer("a", 1).model_dump() | {"score": 2}), ":1: score: Input should be less than or equal to 1"),
  ],
)  # fmt: skip
def test_bad_answer_files(tmp_path, text, found):
  path = tmp_path / "a.jsonl"
  path.write_text(text)
  with pytest.raises(errors.UserError) as error:
    answers_lib.read(path)
  assert found in str(error.value)


def test_report(tmp_path):
  before = write(
    tmp_path / "before.jsonl",
    [answer("a", 0), answer("b", 0), answer("c", 1), answer("d", 1, "t")],
  )
  after = write(
    tmp_path / "after.jsonl",
    [answer("d", 0, "t"), answer("c", 1), answer("b", 1), answer("a", 1)],
  )
  pairs = delta_report.read(before, after)
  delta_report.write(pairs, tmp_path / "r.md")
  overall = delta_report.compare(pairs)
  assert (overall.gained, overall.lost) == (2, 1)
  text = (tmp_path / "r.md").read_text()
  assert "**0.500 → 0.750** of 4 items right (+0.250" in text
  lines = text.splitlines()
  (everything,) = [line for line in lines if line.startswith("| **all** |")]
  assert "| 4 | 0.500 ± 0.577 | 0.750 ± 0.500 | +0.250 |" in everything
  assert everything.endswith("| 1 | 2 | 1 |")
  (section,) = [line for line in lines if line.startswith("| s |")]
  assert "| 3 | 0.333 ± 0.577 | 1.000 ± 0.000 | +0.667 |" in section
  assert "## Wrong → right: 2" in text and "## Right → wrong: 1" in text
  for row in ("| a | s | 0 | 1 |", "| d | t | 1 | 0 |"):
    assert row in lines


def test_the_report_is_not_written_over(tmp_path):
  path = write(tmp_path / "a.jsonl", [answer("a", 1)])
  (tmp_path / "r.md").write_text("mine")
  with pytest.raises(errors.UserError, match="already exists"):
    delta_report.write(delta_report.read(path, path), tmp_path / "r.md")
  assert (tmp_path / "r.md").read_text() == "mine"


def test_items_must_be_the_same(tmp_path):
  one = write(tmp_path / "one.jsonl", [answer("a", 1)])
  two = write(tmp_path / "two.jsonl", [answer("a", 1), answer("b", 1)])
  for pair in ((one, two), (two, one)):
    with pytest.raises(errors.UserError) as error:
      delta_report.read(*pair)
    assert f"{one}: has no answer to b, which {two} answers" in str(error.value)
  changed = answer("a", 1).model_copy(update={"expected_answer": "q"})
  three = write(tmp_path / "three.jsonl", [changed])
  with pytest.raises(errors.UserError, match="'a' has another expected_answer"):
    delta_report.read(one, three)
  assert not (tmp_path / "r.md").exists()


def test_what_a_model_says_stays_text(tmp_path):
  hostile = "</pre><script>alert(1)</script>\n\n# hi | `x` [a](javascript:b)"
  before = write(tmp_path / "b.jsonl", [answer("*a|", 0, "<s>|", hostile)])
  after = write(tmp_path / "a.jsonl", [answer("*a|", 1, "<s>|", hostile)])
  delta_report.write(delta_report.read(before, after), tmp_path / "r.md")
  text = (tmp_path / "r.md").read_text()
  assert "<script>" not in text and "<s>" not in text
  assert "\n# hi" not in text
  table = [line for line in text.splitlines() if line.startswith("| &#42;a")]
  assert table == ["| &#42;a&#124; | &#60;s&#62;&#124; | 0 | 1 |"]
