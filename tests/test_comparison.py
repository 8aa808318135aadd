"""Runs side by side."""

import json
import pathlib

import numpy as np
import pytest

from tests import conftest
from tests import players
from tests import test_page
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.report import comparison
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

SCRIPT = conftest.ROOT / "training" / "compare.py"


def make_run(path: pathlib.Path, config, losses, **final) -> pathlib.Path:
  """Writes what is compared of a run."""
  recipe = "grpo" if isinstance(config, config_lib.GRPOConfig) else "sft"
  path.mkdir(parents=True)
  run_manifest.RunManifest(
    run_id=path.name,
    created_at=run_directory.now(),
    recipe=recipe,
    status="finished",
    seed=config.seed,
    config=config_lib.to_dict(config),
    dataset=None,
    dataset_key="games",
    model=run_manifest.ModelRecord(
      name="m",
      revision="r",
      tokenizer="t",
      parameters=2,
      trainable_parameters=1,
    ),
    versions={},
    platform="p",
    devices=["cpu"],
    mesh={"fsdp": 1},
    git_sha=None,
    git_dirty=None,
    artifacts_path="a",
    final_metrics=final,
  ).write(path)
  rows = [
    {"step": n + 1, "split": "train", "loss": loss, "seconds": 2.0 * n}
    for n, loss in enumerate(losses)
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (path / run_directory.METRICS).write_text(text)
  return path


@pytest.fixture
def pair(tmp_path) -> list[pathlib.Path]:
  training = config_lib.TrainingConfig(learning_rate=0.5)
  one = make_run(
    tmp_path / "one",
    config_lib.SFTConfig(),
    [3.0, 2.0, 1.0],
    **{"eval/loss": 0.125},
  )
  two = make_run(
    tmp_path / "<two>",
    config_lib.GRPOConfig(seed=7, training=training),
    [0.5, 0.25],
  )
  players.write(players.matches(players.PERFECT), two / run_directory.GAMES)
  return [one, two]


def test_settings_that_differ_are_those_of_both(pair):
  found = comparison.differences(comparison.read(pair))
  assert found.pop("recipe") == ['"sft"', '"grpo"']
  assert found.pop("seed") == ["0", "7"]
  assert found.pop("training.learning_rate")[1] == "0.5"
  # What the recipes' defaults are, and nothing that one of them has alone.
  assert not any(key.startswith(("grpo.", "rewards.")) for key in found)
  same = comparison.read([pair[0], make_run(pair[0].parent / "3", config_lib.SFTConfig(), [1.0])])  # fmt: skip
  assert comparison.differences(same) == {}


def test_outcomes_are_those_that_were_written(pair):
  rows = comparison.outcomes(comparison.read(pair))
  lost = {mark: rows[f"as {mark}: lost lines"] for mark in "XO"}
  summary = game_files.read_summary(pair[1] / run_directory.GAMES_SUMMARY)
  for mark in board_records.MARKS:
    lines = players.exact(summary, mark).lines
    assert lost[mark] == ["-", f"0 of {lines}"]
  assert rows["as O against optimal: drawn, %"] == ["-", "100.00"]
  assert rows["evaluation loss of sft"] == ["0.1250", "-"]
  # The exact results of all seats come first.
  labels = [*rows]
  assert labels.index("as O: lost lines") < labels.index(
    "as X against random: won, %"
  )
  assert rows["steps"] == ["3", "2"]
  assert rows["seconds of training"] == ["4", "2"]


def test_rates_of_thoughts_are_those_that_were_written(pair):
  path = pair[1] / run_directory.GAMES_SUMMARY
  summary = json.loads(path.read_text())
  rates = {"thought_true_rate": 0.75, "thought_no_claim_rate": 0.125}
  summary["results"]["O"] |= rates
  path.write_text(json.dumps(summary))
  rows = comparison.outcomes(comparison.read(pair))
  true, silent = (
    "true thoughts, % of those with a claim",
    "thoughts without a claim, % of answers",
  )
  assert rows[f"as O: {true}"] == ["-", "75.00"]
  assert rows[f"as O: {silent}"] == ["-", "12.50"]
  assert f"as X: {true}" not in rows


def test_curves_have_a_line_for_each_run(pair):
  # Runs of different recipes minimize different losses.
  assert comparison.curves(comparison.read(pair)) == []
  other = make_run(pair[0].parent / "3", config_lib.SFTConfig(), [0.5, 0.25])
  (panel,) = comparison.curves(comparison.read([*pair, other]))
  assert panel.name == "loss_of_sft_training"
  assert panel.title == "Loss of sft"
  assert [*panel.lines] == ["one", "3"]
  np.testing.assert_array_equal(panel.lines["3"][1], [0.5, 0.25])


def test_curves_are_of_metrics_that_runs_share_results_first(pair):
  shared = {"X/lines_lost": 3.0, "entropy": 0.5, "score": 0.5}
  for run, more in zip(
    pair, ({"kl": 0.1}, {"token_accuracy": 0.1}), strict=True
  ):
    with (run / run_directory.METRICS).open("a") as file:
      for split in ("train", "eval"):
        row = {"step": 4, "split": split, **shared, **more}
        file.write(json.dumps(row) + "\n")
  panels = comparison.curves(comparison.read(pair))
  assert [panel.name for panel in panels] == [
    "lines_lost_as_X",
    "entropy_entropy",
  ]
  assert [panel.title for panel in panels] == ["Lost lines", "Token entropy"]


def test_the_page_names_the_runs_and_their_results(pair, tmp_path):
  output = tmp_path / "c.html"
  comparison.write(comparison.read(pair), output)
  text = output.read_text()
  assert "<h1>one and &lt;two&gt;, compared</h1>" in text
  assert "<dt>&lt;two&gt;</dt><dd>Never loses: it lost 0 of " in text
  assert text.index("lost lines</th>") < text.index("steps</th>")
  test_page.test_the_page_asks_for_nothing(text)
  test_page.test_the_page_allows_its_own_script_and_no_other(text)


def test_the_script_prints_and_writes(run, pair, tmp_path):
  output, plots = tmp_path / "c.html", tmp_path / "plots"
  pair.append(make_run(tmp_path / "3", config_lib.SFTConfig(), [1.0]))
  code, out, err = run(SCRIPT, *pair, "--output", output, "--plots", plots)
  assert code == 0, err
  assert "as X: lost lines" in out and "training.learning_rate" in out
  text = output.read_text()
  test_page.elements(text)
  assert "&lt;two&gt;" in text and "<two>" not in text
  assert (plots / "loss_of_sft_training.svg").exists()
  conftest.refused(run(SCRIPT, *pair, "--output", output), "already exists")


def test_wrong_input(run, pair, tmp_path):
  conftest.refused(run(SCRIPT, pair[0], tmp_path), "no such run manifest")
  conftest.refused(run(SCRIPT, pair[0], pair[0]), "given twice")
  conftest.refused(run(SCRIPT, *pair, "--output", tmp_path / "x.md"), ".html")
  (pair[0] / run_directory.METRICS).write_text('{"step": 1}\n{}\n')
  conftest.refused(run(SCRIPT, *pair), "metrics.jsonl:1", "a step and a split")
  code, _, err = run(SCRIPT, pair[1])
  assert code == 2 and "two runs or more" in err


def test_runs_of_one_name_are_told_apart(pair, tmp_path):
  other = make_run(tmp_path / "b" / "one", config_lib.SFTConfig(), [1.0])
  with pytest.raises(errors.UserError, match="given twice"):
    comparison.read([other, other])
  names = [run.name for run in comparison.read([pair[0], other])]
  assert len(set(names)) == 2
