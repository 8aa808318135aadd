"""Games of training and files to save, on the page of a run."""

import base64
import csv
import gzip
import itertools
import json
import pathlib
import random
import re

import pytest

from tests import nim_games
from tests import players
from tests import test_page
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.report import html_pages
from tunix_ttt.report import run_page
from tunix_ttt.runs import run_directory

# From a board on which games of training may start, to an illegal move.
ROW = {
  "step": 3,
  "agent": "X",
  "ending": "illegal",
  "board": "X.OX.OOX.",
  "turns": [
    {"board": "...X.OOX.", "opponent_move": None, "response": "I keep the draw.", "move": "A1", "optimal": False, "reward": -1.0},
    {"board": "X.OX.OOX.", "opponent_move": "A3", "response": "<b>I block A3.", "move": "A3", "optimal": False, "reward": -1.5},
  ],
}  # fmt: skip


def record(step: int, **fields) -> board_records.Game:
  return board_records.Game.model_validate({**ROW, "step": step, **fields})


def material(games) -> run_page.Material:
  board = catalog.load("tictactoe").board
  return run_page.Material(training=games, board=board)


def test_each_turn_is_on_the_page_with_its_reward(tmp_path):
  text = test_page.written(material([record(3)]), tmp_path)
  test_page.elements(text)
  assert "1 of 1 games that the run recorded" in text
  assert "<summary>Step 3: illegal</summary>" in text
  assert "<h3>As X: illegal, reward -2.5</h3>" in text
  (game,) = re.findall(r'<details class="step".*?</details>', text, re.DOTALL)
  # Two turns and the end, the board as a screen reader has it.
  labels = re.findall(r'aria-label="([^"]+)"', game)
  assert labels == ["...X.OOX.", "X.OX.OOX.", "X.OX.OOX."]
  assert "not optimal; A2 or A3 or B2 or C3 would be" in game
  assert "no legal move; A2 or B2 or C3 would be" in game
  assert game.count("✗ The thought is false.") == 2
  assert "reward -1</p>" in game and "reward -1.5</p>" in game
  assert "&lt;b&gt;I block A3." in game
  # Nothing else is known of the run.
  assert re.findall('<section id="(.*?)"', text) == ["training"]


def test_older_games_have_no_rewards_and_thoughts_are_judged(tmp_path):
  turn = {"board": "XX.OO....", "opponent_move": "B2", "move": "A3", "optimal": True}  # fmt: skip
  turns = [{**turn, "response": "I block A3."}]
  game = record(1, ending="win", board="XXXOO....", turns=turns)
  text = test_page.written(material([game]), tmp_path)
  assert (
    "<h3>As X: win</h3>" in text
    and "reward" not in text.split("<main")[1].split("<script")[0]
  )
  # The move is optimal, and its reason is false.
  (verdicts,) = re.findall(r"I block A3.</pre>(.*?)</div>", text, re.DOTALL)
  assert "optimal" in verdicts and "The thought is false." in verdicts


@pytest.mark.parametrize("per_step", [1, 7])
def test_a_long_run_shows_evenly_spaced_steps(tmp_path, per_step):
  games = [record(10 * n) for n in range(500) for _ in range(per_step)]
  text = test_page.written(material(games), tmp_path)
  steps = [*map(int, re.findall(r'data-step="(\d+)"', text))]
  num_games = text.count("<h3>As X")
  assert num_games == len(steps) * min(per_step, 4) == 60
  assert (steps[0], steps[-1]) == (0, 4990)
  gaps = {b - a for a, b in itertools.pairwise(steps)}
  assert max(gaps) - min(gaps) <= 10
  assert f"60 of {500 * per_step} games" in text
  assert len(text) < 500_000


def test_games_of_text_have_their_turns(tmp_path):
  rows = [
    {**row, "step": step, "turns": [{**t, "reward": 0.5} for t in row["turns"]]}
    for step, row in enumerate(nim_games.records(), start=1)
  ]
  path = tmp_path / "rollouts.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
  games = recorded_games.read_games(path)
  text = test_page.written(run_page.Material(training=games), tmp_path)
  test_page.elements(text)
  for game in games:
    ending = game.ending.replace("_", " ")
    assert f"<summary>Step {game.step}: {ending}</summary>" in text
    reward = 0.5 * len(game.turns)
    assert f"<h3>As {game.seat}: {ending}, reward {reward:.4g}</h3>" in text
  assert text.count('<p class="small faint">reward 0.5</p>') == sum(
    len(game.turns) for game in games
  )


def decoded(download: html_pages.Download) -> bytes:
  kind, _, data = download.address.partition(",")
  assert kind == "data:application/octet-stream;base64"
  plain = base64.b64decode(data)
  return gzip.decompress(plain) if download.name.endswith(".gz") else plain


def test_files_to_save_are_those_of_the_run(grpo_run):
  material = run_page.collect(grpo_run)
  by_name = {each.name.removesuffix(".gz"): each for each in material.downloads}
  assert len(material.training) and all(game.step for game in material.training)
  assert [*by_name] == ["metrics.csv", "rollouts.jsonl"]
  rollouts = (grpo_run / run_directory.ROLLOUTS).read_bytes()
  assert decoded(by_name["rollouts.jsonl"]) == rollouts
  lines = decoded(by_name["metrics.csv"]).decode().splitlines()
  for row, metrics in zip(csv.DictReader(lines), material.metrics, strict=True):
    values = {key: value for key, value in row.items() if value}
    assert values == {key: str(value) for key, value in metrics.items()}


def test_training_games_of_another_game_are_left_out(grpo_run, tmp_path):
  path = nim_games.write(tmp_path / "games.jsonl")
  material = run_page.collect(grpo_run, games_after=path)
  assert material.training == () and material.board is None
  boards = players.write(
    players.matches(players.PERFECT), tmp_path / "boards.jsonl"
  )
  material = run_page.collect(grpo_run, games_before=path, games_after=boards)
  assert material.training and [*material.play] == ["after"]
  text = test_page.written(material, tmp_path)
  assert 'id="models"' not in text and 'id="training"' in text


def test_large_files_are_compressed_and_very_large_ones_left_out(tmp_path):
  small, large = b"a" * 40_000, b"a" * 40_001
  source = pathlib.Path("run/a.txt")
  assert html_pages.download("a.txt", small, source).name == "a.txt"
  file = html_pages.download("a.txt", large, source)
  assert file.name == "a.txt.gz" and decoded(file) == large
  assert file == html_pages.download("a.txt", large, source)
  # Random bytes do not compress.
  noise = random.Random(0).randbytes(300_000)
  vast = html_pages.download("b.txt", noise, source)
  assert vast.address == ""
  text = test_page.written(run_page.Material(downloads=[file, vast]), tmp_path)
  assert f'<a download="a.txt.gz" href="{file.address}">a.txt.gz</a>' in text
  assert "b.txt is too large for this page; see <code>run/a.txt</code>" in text
