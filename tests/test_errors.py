"""Messages for users are short and safe to print; too large work is refused."""

import json

import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt.evaluate import game_files


def test_long_lines_are_cut_in_the_middle_and_many_are_counted():
  long, *_ = str(errors.UserError(f"a{'x' * 10**6}z; shorten it")).splitlines()
  assert len(long) < 1100
  assert long.startswith("axx") and long.endswith("z; shorten it")
  lines = str(errors.UserError("\n".join(map(str, range(100))))).splitlines()
  assert lines == [*map(str, range(40)), "and 60 lines more"]
  assert str(errors.UserError("a\nb")) == "a\nb"


def test_control_characters_are_escaped():
  message = str(errors.UserError("a\x1b[2J\rb\u2028\ud800é\tc"))
  assert message == r"a\x1b[2J\rb\u2028\ud800é\tc"


def test_quoted_values_are_bounded():
  bomb: list = ["x"]
  for _ in range(40):
    bomb = [bomb] * 10
  assert len(errors.quote(bomb)) < 10_000
  assert len(errors.quote("x" * 10**6)) < 200
  assert errors.quote("a") == "'a'" and errors.quote(3) == "3"


def test_faults_of_a_config_are_short(tmp_path):
  path = tmp_path / "c.yaml"
  path.write_text(f"training: {{max_steps: {'x' * 10**6}}}\n")
  with pytest.raises(errors.UserError) as caught:
    config_lib.load(config_lib.SFTConfig, path)
  message = str(caught.value)
  assert len(message) < 400 and "must be a valid integer, found 'xxx" in message


def test_dates_are_text(tmp_path):
  path = tmp_path / "c.yaml"
  path.write_text("data: {path: 2020-01-01}\n")
  config = config_lib.load(
    config_lib.SFTConfig, path, ["data.split=2020-13-45"]
  )
  assert config.data.path == "2020-01-01" and config.data.split == "2020-13-45"


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ('{"a": 1e999}', "1e999 is beyond the numbers of 64 bits"),
    ('{"a": -Infinity}', "-Infinity is not JSON"),
    ('{"a": ["\\uD83D"]}', r"\\ud83d is half of a surrogate pair"),
    ('{"\\udE00": 1}', r"\\ude00 is half of a surrogate pair"),
  ],
)
def test_json_that_nothing_else_reads(tmp_path, text, found):
  path = tmp_path / "a.json"
  path.write_text(text)
  with pytest.raises(errors.UserError, match=found):
    files.read_json(path, "file")
  (line,) = files.scan_jsonl(path, "file")
  assert line.row is None and line.fault.startswith("not valid JSON: ")


def test_whole_pairs_of_surrogates_are_text(tmp_path):
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"a": "\N{GRINNING FACE} \\ud800", "b": 1e308}))
  assert files.read_json(path, "file") == {
    "a": "\U0001f600 \\ud800",
    "b": 1e308,
  }


def test_work_that_no_device_holds(monkeypatch):
  monkeypatch.setattr(requirements, "device_memory", lambda: 2**30)
  requirements.check_fits(2**31, "play", "x")
  with pytest.raises(errors.UserError) as caught:
    requirements.check_fits(5 * 2**30, "play", "play.batch_size")
  assert str(caught.value) == (
    "play needs about 5.0 GiB of memory on each device, which has 1.0 GiB; lower"
    " play.batch_size"
  )
  with pytest.raises(errors.UserError, match="GiB"):
    requirements.check_fits(10**5000, "play", "x")


def test_evaluations_that_lack_a_rate_are_not_shown():
  rates = ("win", "draw", "loss", "illegal", "parse_error", "truncated")
  row = {f"X/random/{name}_rate": 0.5 for name in rates}
  whole = {**row, "X/optimal_move_rate": 1.0, "X/thought_true_rate": 0.75}
  sides = game_files.sides_of_metrics(whole)
  assert [*sides] == ["X"]
  assert sides["X"].thought_true_rate == 0.75
  assert game_files.sides_of_metrics(row)["X"].optimal_move_rate is None
  exact = {**row, "X/lines_lost": 3.0}
  assert game_files.sides_of_metrics(exact)["X"].lost_text == "3"
  exact["X/lines"] = 91.0
  assert game_files.sides_of_metrics(exact)["X"].lost_text == "3 of 91"
  del whole["X/random/win_rate"]
  assert not game_files.sides_of_metrics(whole)
