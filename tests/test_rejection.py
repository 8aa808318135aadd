"""Rows of a model's games: verbatim, filtered and deterministic."""

from collections import Counter
import dataclasses
from typing import Any

import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import datasets
from tunix_ttt.data import rejection
from tunix_ttt.data import row_formats
from tunix_ttt.evaluate import evalsets
from tunix_ttt.evaluate import model_player
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.train import reference_log_probs

PLAY = config_lib.PlayConfig(
  max_new_tokens=10, batch_size=32, constrained=True, temperature=0.8
)


def config_of(**play):
  return config_lib.SFTConfig(
    model=conftest.SMALL_MODEL,
    data=config_lib.DataConfig(games=config_lib.GamesConfig(num_games=40)),
    play=dataclasses.replace(PLAY, **play),
  )


@pytest.fixture(scope="module")
def model():
  return reference_log_probs.base_model(config_of())


def sample(model, count=64, seed=0, play=None, **settings):
  kind = rejection.Rejection(
    name="base", model=model, config=config_of(**(play or {})), **settings
  )
  counts: Counter[str] = Counter()
  return list(kind.rows(count, seed, counts)), counts


@pytest.fixture(scope="module")
def all_games(model):
  return sample(model, keep="all")


def test_games_are_dropped_and_counted(model, all_games):
  rows, counts = sample(model)
  assert counts.total() == 64
  assert set(counts) == {
    "kept win",
    "dropped draw",
    "dropped loss",
    "dropped illegal",
    "dropped parse error",
    "dropped cut",
    "dropped unfinished",
  }
  assert counts["dropped illegal"] > 0
  kept, counted = all_games
  assert rows == [row for row in kept if row["outcome"] == "win"] != []
  assert counted["kept loss"] == counts["dropped loss"] > 0
  assert {row["agent"] for row in kept} == {"X", "O"}


def test_rows_are_boards_with_legal_moves(all_games):
  for row in all_games[0]:
    (sample_row,) = row_formats.parse_row(row)
    assert isinstance(sample_row, row_formats.Conversation)
    observation, answer = (m["content"] for m in sample_row.messages[1:])
    (board,) = board_text.find(observation)
    assert board.player is not None
    assert text_formats.MARK_NAMES[board.player] == row["agent"]
    parsed = text_formats.parse_answer(answer)
    assert parsed and rules.cells()[board.position, parsed.cell] == rules.EMPTY


def test_sides_and_seeds(model, all_games):
  rows, counts = sample(model, 40, seed=1, keep="all", sides="x")
  assert {row["agent"] for row in rows} == {"X"}
  # The last batch is not played to its end.
  assert counts.total() == 40
  assert rows[:5] != [row for row in all_games[0] if row["agent"] == "X"][:5]


def test_past_thoughts_are_replaced_or_not(model, monkeypatch):
  # Both play the same games: one program, which takes seconds to compile.
  make, players = model_player.Player, {}
  monkeypatch.setattr(
    model_player,
    "Player",
    lambda *args: players.setdefault("player", make(*args)),
  )
  context = {"context": "full", "max_turns": 3}
  turns, _ = sample(model, keep="all", play=context)
  games, _ = sample(model, keep="all", play=context, transform=False)
  assert all(set(row) > {"prompt", "completion"} for row in turns)
  answers = [
    turn["content"]
    for row in games
    for turn in row["messages"]
    if turn["role"] == "assistant"
  ]
  assert [row["completion"][0]["content"] for row in turns] == answers
  past = [
    turn["content"]
    for row in turns
    for turn in row["prompt"]
    if turn["role"] == "assistant"
  ]
  assert past and all("<think>[TRUNCATED]</think>" in text for text in past)


def test_token_boards(model):
  play = {"format": "token_board", "max_new_tokens": 40}
  rows, counts = sample(model, 32, keep="all", play=play)
  assert counts.total() == 32
  for row in rows:
    (board,) = board_text.find(row["prompt"])
    move = board_text.read_answer(row["completion"], board.kind)
    assert move.is_strict and move.action is not None
  with pytest.raises(errors.UserError, match="of token boards cannot"):
    sample(model, play={**play, "context": "full"})


def test_no_such_opponent(model):
  with pytest.raises(errors.UserError, match="there is no opponent 'me'"):
    sample(model, play={"opponent": "me"})


def kuhn_config(**play):
  games = config_lib.GamesConfig(num_games=40, expert="random")
  return dataclasses.replace(
    config_of(**play),
    game=config_lib.GameConfig(name="kuhn_poker"),
    data=config_lib.DataConfig(games=games),
  )


@pytest.fixture(scope="module")
def kuhn_model():
  return reference_log_probs.base_model(kuhn_config())


@pytest.mark.slow
def test_a_models_games_of_another_game(kuhn_model):
  counts: Counter[str] = Counter()
  kind = rejection.Rejection(
    name="base",
    model=kuhn_model,
    config=kuhn_config(batch_size=22),
    keep="all",
    sides="second player",
  )
  rows = list(kind.rows(35, 0, counts))
  assert counts.total() == 35
  kept = {ending: counts[f"kept {ending}"] for ending in ("win", "loss")}
  assert min(kept.values()) > 0 and counts["kept draw"] == 0
  text = catalog.load("kuhn_poker").text
  for row in rows:
    assert {*row} == {"messages", "game", "seat", "return", "ending"}
    assert (row["game"], row["seat"]) == ("kuhn_poker", "second player")
    assert (row["return"] > 0) is (row["ending"] == "win")
    system, user, answer = (turn["content"] for turn in row["messages"])
    assert system == text.rules and user.startswith("Your card: ")
    assert answer.strip() in {
      f"<move>{name}</move>" for names in text.actions for name in names
    }
  # The second player has one turn.
  assert len(rows) == sum(kept.values())
  kind = dataclasses.replace(kind, keep="won")
  won = list(kind.rows(35, 0, Counter()))
  assert won == [row for row in rows if row["ending"] == "win"]


def test_a_game_whose_positions_no_one_reads(kuhn_model):
  config = kuhn_config()
  made: dict[str, Any] = {"name": "base", "model": kuhn_model}
  with pytest.raises(errors.UserError, match="kuhn_poker are single"):
    rejection.Rejection(config=kuhn_config(context="full"), **made)
  for message, call in (
    ("pairs of mistakes", lambda: rejection.Mistakes(config=config, **made)),
    (
      "episodes.source: prompts",
      lambda: datasets.load_prompts(config.data, config.game),
    ),
    (
      ":1",
      lambda: evalsets.load("evalsets/tictactoe_v1.jsonl", config.game),
    ),
    (
      "data.held_out_by: position",
      lambda: datasets.tokenize(
        datasets.load(config.data, 0, config.game),
        kuhn_model.tokenizer,
        dataclasses.replace(config.data, held_out_by="position"),
        0,
      ),
    ),
  ):
    with pytest.raises(
      errors.UserError, match=f"{message}: kuhn_poker cannot read positions"
    ):
      call()


def mistakes(model, count=40, seed=0, play=None, **settings):
  kind = rejection.Mistakes(
    name="base", model=model, config=config_of(**(play or {})), **settings
  )
  counts: Counter[str] = Counter()
  return list(kind.rows(count, seed, counts)), counts


def test_pairs_are_of_a_models_mistakes(model):
  rows, counts = mistakes(model)
  assert len(rows) == 40
  assert {row["rejected_is"] for row in rows} == {"worse", "illegal"}
  for row in rows:
    assert row_formats.parse_preference(row)
    (board,) = board_text.find(row["prompt"][-1]["content"])
    assert board_text.to_text(board.position) == row["board"]
    chosen, rejected = (
      text_formats.parse_answer(row[name][0]["content"])
      for name in ("chosen", "rejected")
    )
    assert chosen and rejected
    optimal = solver.optimal_cells(board.position)
    assert chosen.cell in optimal
    optimal_thoughts = {
      text_formats.explain_move(board.position, cell) for cell in optimal
    }
    # Thoughts differ unless every optimal move has the same thought.
    assert chosen.thought != rejected.thought or optimal_thoughts == {
      chosen.thought
    }
    kind = row["rejected_is"]
    assert rejected.cell in board_positions.rejected_cells(board.position, kind)
  assert sum(n for k, n in counts.items() if k.startswith("turns")) >= 40
  assert counts["turns: worse"] + counts["turns: illegal"] >= 40
  assert mistakes(model)[0] == rows != mistakes(model, seed=1)[0]


def test_kinds_of_mistakes(model):
  rows, _ = mistakes(model, 10, rejected={"illegal": 1.0})
  assert {row["rejected_is"] for row in rows} == {"illegal"}
  # Nothing is read of a model that may say anything.
  rows, counts = mistakes(model, 10, play={"constrained": False})
  assert {row["rejected_is"] for row in rows} == {"format"}
  assert counts["turns: format"] >= 10


def test_what_mistakes_cannot_be_of(model):
  with pytest.raises(errors.UserError, match="pairs need single boards"):
    mistakes(model, play={"context": "full"})
  with pytest.raises(errors.UserError, match="mistakes cannot be weighted"):
    mistakes(model, rejected={"worse": 2.0, "illegal": 1.0})
