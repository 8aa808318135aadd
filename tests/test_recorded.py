"""Games and summaries, written and read back."""

import json
from typing import Any

import pytest

from tests import players
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games.tictactoe import board_records

GAME: dict[str, Any] = {
  "agent": "X",
  "ending": "loss",
  "board": "OX.XO.X.O",
  "turns": [
    {"board": ".........", "opponent_move": None, "response": "a", "move": "A2", "optimal": True},
    {"board": ".X..O....", "opponent_move": "B2", "response": "b", "move": "B1", "optimal": False},
    {"board": "OX.XO....", "opponent_move": "A1", "response": "c", "move": "C1", "optimal": False},
  ],
}  # fmt: skip


def test_a_game_is_its_moves_in_their_order():
  game = board_records.Game.model_validate(GAME)
  assert game.moves() == (1, 4, 3, 0, 6, 8)
  assert game.is_lost and all(turn.is_legal for turn in game.turns)


def test_an_illegal_answer_is_no_move():
  turns = [*GAME["turns"][:2], {**GAME["turns"][2], "move": "B2"}]
  change = {"ending": "illegal", "board": "OX.XO....", "turns": turns}
  game = board_records.Game.model_validate({**GAME, **change})
  assert game.moves() == (1, 4, 3, 0)
  assert [turn.is_legal for turn in game.turns] == [True, True, False]


def test_games_of_every_line_are_read_as_they_were_played(tmp_path):
  played = players.matches(players.FIRST_LEGAL)
  path = players.write(played, tmp_path / "games.jsonl")
  games = recorded_games.read_games(path)
  summary = game_files.read_summary(game_files.summary_path(path))
  for match, mark in zip(played, board_records.MARKS, strict=True):
    result = players.exact(summary, mark)
    assert result == match.result
    theirs = [game for game in games if game.agent == mark]
    assert len(theirs) == result.lines
    assert sum(game.is_lost for game in theirs) == result.lines_lost
    assert len({game.moves() for game in theirs}) == len(theirs)


@pytest.mark.parametrize(
  "change, found",
  [
    ({"board": "XXXXXXXXX"}, "no game reaches the board XXXXXXXXX"),
    ({"board": "X"}, "expected a board of nine of .XO"),
    ({"agent": "x"}, "agent: Input should be 'X' or 'O'"),
    ({"ending": "ongoing"}, "ending: expected one of draw"),
    ({"turns": []}, "turns: List should have at least 1 item"),
    ({"turns": [{**GAME["turns"][0], "move": "D1"}]}, "expected a cell"),
    ({"board": "........."}, "a mark of one board is not on the next"),
    ({"turns": GAME["turns"][:1]}, "more than two moves lie between"),
  ],
)
def test_what_is_no_game_is_told_by_its_line(tmp_path, change, found):
  path = tmp_path / "games.jsonl"
  path.write_text(json.dumps(GAME) + "\n" + json.dumps({**GAME, **change}))
  with pytest.raises(errors.UserError) as error:
    recorded_games.read_games(path)
  assert str(error.value).startswith(f"{path}:2: ") and found in str(
    error.value
  )


def test_openings_are_of_nine_cells_and_none(tmp_path):
  path = players.write(players.matches(players.PERFECT), tmp_path / "g.jsonl")
  path = game_files.summary_path(path)
  summary = json.loads(path.read_text())
  summary["openings"]["x"].pop()
  path.write_text(json.dumps(summary))
  with pytest.raises(errors.UserError, match=r"openings\.x: .* at least 10"):
    game_files.read_summary(path, players.GAME.board)
