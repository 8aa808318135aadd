"""Recorded games of any game, read from files."""

import json
from typing import Any

import pytest

from tests import nim_games
from tests import players
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games

TURN: dict[str, Any] = {
  "observation": "Stones: 9",
  "response": "<move>2</move>",
  "move": "2",
  "legal": True,
  "optimal": False,
}
GAME: dict[str, Any] = {
  "game": "nim",
  "seat": "first",
  "ending": "win",
  "return": 1,
  "final": "Stones: 0",
  "turns": [TURN, {**TURN, "optimal": None}],
}


def written(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_games_and_their_policy_are_read_as_they_were_written(tmp_path):
  path = nim_games.write(tmp_path / "games.jsonl")
  assert recorded_games.board_of(path) is None
  games = recorded_games.read_games(path)
  rows = [
    game.model_dump(
      by_alias=True,
      exclude={"step": True, "turns": {"__all__": {"reward"}}},
      exclude_none=False,
    )
    for game in games
  ]
  assert rows == [*nim_games.records()]
  summary = game_files.read_summary(game_files.summary_path(path))
  assert summary.policy == nim_games.policy()
  sides = game_files.sides_of_summary(summary)
  assert [*sides] == ["first", "second"]
  assert sides["second"].returns["worst"] == -1


def test_rollouts_have_a_step_and_slips_are_counted(tmp_path):
  bad = {**TURN, "legal": False}
  row = {
    **GAME,
    "step": 3,
    "turns": [TURN, bad, TURN, {**TURN, "optimal": True}],
  }
  (game,) = recorded_games.read_games(written(tmp_path / "r.jsonl", row))
  assert (game.step, game.num_slips, game.reward) == (3, 2, 1.0)


def test_games_of_tictactoe_are_told_apart(tmp_path):
  played = players.matches(players.FIRST_LEGAL)
  path = players.write(played, tmp_path / "games.jsonl")
  assert recorded_games.board_of(path) is not None


@pytest.mark.parametrize(
  "change, message",
  [
    ({"return": None}, "return: Input should be a valid number"),
    ({"return": float("inf")}, "not valid JSON"),
    ({"ending": "ongoing"}, "ending: expected one of draw"),
    ({"seat": ""}, "seat: String should have at least 1 character"),
    ({"board": "."}, "board: Extra inputs are not permitted"),
    ({"step": -1}, "step: Input should be greater than or equal to 0"),
    ({"turns": [{**TURN, "move": None}]}, "turns.0: an unreadable answer"),
    ({"turns": [{**TURN, "legal": 1}]}, "turns.0.legal: Input should be a val"),
    (
      {"turns": [TURN, {**TURN, "legal": False, "optimal": True}]},
      "turns.1: an illegal answer cannot be optimal; is this a file that",
    ),
    ({"game": "chess"}, "a game of 'chess' among games of 'nim'; keep"),
  ],
)
def test_bad_files_of_games(tmp_path, change, message):
  path = written(tmp_path / "games.jsonl", GAME, {**GAME, **change})
  with pytest.raises(errors.UserError) as caught:
    recorded_games.read_games(path)
  assert str(caught.value).startswith(f"{path}:2: ")
  assert message in str(caught.value)


def test_a_bad_policy_is_no_summary(tmp_path):
  path = nim_games.write(tmp_path / "games.jsonl")
  path = game_files.summary_path(path)
  row = json.loads(path.read_text())
  row["policy"]["first"][0].pop()
  path.write_text(json.dumps(row))
  with pytest.raises(errors.UserError, match=r"policy\.first\.0\.2: Field"):
    game_files.read_summary(path)
