"""Run directories as objects."""

import shutil
from typing import Any

import pytest

from tests import test_sft
import tunix_ttt as ttt
from tunix_ttt.models.families import specs


def test_what_a_run_has(sft_run):
  run = ttt.Run(str(sft_run))
  assert run.path == sft_run and repr(run) == f"<Run {sft_run}: sft, finished>"
  assert run.config == test_sft.CONFIG
  assert run.manifest == ttt.RunManifest.read(sft_run)
  assert run.metrics() == ttt.read_metrics(sft_run)
  steps = [row["step"] for row in run.metrics("train")]
  assert steps == [*range(1, test_sft.CONFIG.training.max_steps + 1)]
  assert {row["split"] for row in run.metrics("eval")} == {"eval"}
  expected = ttt.load_model(sft_run)
  assert run.model().revision == expected.revision
  assert specs.parameters(run.model().module).keys()


def test_a_directory_without_a_run(tmp_path):
  with pytest.raises(
    ttt.UserError, match=r"run_manifest.json: no such run manifest"
  ):
    ttt.Run(tmp_path)


@pytest.mark.slow
def test_games_and_the_page_are_made_on_demand(sft_run, tmp_path):
  run = ttt.Run(shutil.copytree(sft_run, tmp_path / "run"))
  games: list[Any] = [*run.games()]
  lines = [game.agent for game in games]
  assert {*lines} == {"X", "O"}
  page = run.report()
  assert page == run.path / "report.html"
  assert (run.path / "report.html").exists()
