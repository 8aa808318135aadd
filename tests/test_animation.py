"""The picture of a run in the README: what it shows, and when."""

import importlib
import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import conftest

sys.path.append(str(conftest.ROOT / "docs"))
animation: Any = importlib.import_module("animation")


def game(agent, ending, board, *turns):
  return {
    "agent": agent,
    "ending": ending,
    "board": board,
    "turns": [
      {"board": before, "move": move, "response": f"<think>a < b</think>{move}"}
      for before, move in turns
    ],
  }


EVALUATIONS = [
  animation.Evaluation(0, {"X": 2, "O": 4}),
  animation.Evaluation(5, {"X": 0, "O": 1}),
]
GAMES = [
  game("X", "win", "XXXOO....", (".........", "A1"), ("X..O.....", "A2")),
  game("O", "loss", "XXXOO....", ("X........", "B1"), ("XX.O.....", "B2")),
]
# On the final board of each game.
NUM_MARKS = 5


def test_every_mark_and_word_is_drawn_at_its_time():
  text = animation.draw(EVALUATIONS, GAMES)
  picture = ElementTree.fromstring(text)
  space = {"svg": "http://www.w3.org/2000/svg"}
  marks = picture.findall(".//svg:path[@class='mark X']", space)
  marks += picture.findall(".//svg:path[@class='mark O']", space)
  assert len(marks) == len(GAMES) * NUM_MARKS
  words = [each.text for each in picture.findall(".//svg:text", space)]
  assert words.count("“a < b” B2") == 1
  assert "as O: 4" in words and "as O: 1" in words
  # Without animation the last step is visible, and no other.
  resting = [
    each.text
    for group in picture.findall("svg:g", space)
    if "rest" not in group.attrib["class"]
    for each in group.findall("svg:text", space)
  ]
  assert "step 5: a game as O" in resting and "as O: 1" in resting
  assert "step 0: a game as X" not in resting and "as O: 4" not in resting
  # Each class has its rule.
  names = set(re.findall(r'<g class="(\w+)', text))
  assert names == set(re.findall(r"@keyframes (\w+)", text))


def test_a_run_without_games_is_refused(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 0, "X/lines_lost": 1, "O/lines_lost": 2}\n'
  )
  (tmp_path / "rollouts.jsonl").write_text("")
  with pytest.raises(LookupError, match="no game of step 1"):
    animation.read(tmp_path)
