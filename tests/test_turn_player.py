"""Tests of play by turns, in which equal observations are answered once."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests import players
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import decisions
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import turn_player
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import run_directory

CONFIG = config_lib.load(
  config_lib.SFTConfig, {"play": {"max_new_tokens": 24, "batch_size": 48}}
)


@pytest.fixture(scope="module")
def model(sft_run):
  return checkpoints.load(sft_run / run_directory.FINAL_CHECKPOINT)


@pytest.mark.parametrize(
  "play",
  [
    {},
    *(
      pytest.param(play, marks=pytest.mark.slow)
      for play in ({"max_turns": 2}, {"max_new_tokens": 17})
    ),
  ],
)
def test_lines_equal_those_of_whole_games(model, play):
  settings = dataclasses.replace(CONFIG.play, **play)
  config = dataclasses.replace(CONFIG, play=settings)
  whole = model_player.Player(model, config, players.GAME.environment())
  turns, _ = turn_player.of_model(model, config)
  size = config.play.batch_size
  for one, other in zip(
    matches.exact_matches(whole, players.GAME, size, decode=whole.decode),
    matches.exact_matches(turns, players.GAME, None, decode=turns.decode),
    strict=True,
  ):
    assert one.result == other.result
    played = other.games.turn_mask
    for name in ("turn_mask", "moves"):
      expected = getattr(one.games, name)
      np.testing.assert_array_equal(getattr(other.games, name), expected)
    for name in ("actions", "action_mask", "log_probs"):
      expected = getattr(one.games, name)[played]
      actual = getattr(other.games, name)[played]
      np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_array_equal(one.games.ending, other.games.ending)
    boards = one.games.states.board[played]
    np.testing.assert_array_equal(other.games.states.board[played], boards)
    np.testing.assert_array_equal(
      one.games.state.board, other.games.state.board
    )


def test_an_observation_is_answered_once(model, monkeypatch):
  player, answers = turn_player.of_model(model, CONFIG)
  inner, asked = answers.player, []

  def count(keys, states):
    boards, last = np.asarray(states.board), np.asarray(states.last_move)
    asked.extend({*zip(boards.tolist(), last.tolist(), strict=True)})
    return inner(keys, states)

  monkeypatch.setattr(answers, "player", count)
  (_, match) = matches.exact_matches(player, players.GAME, None)
  mask = match.games.turn_mask
  boards = match.games.states.board[mask].tolist()
  seen = {
    *zip(boards, match.games.states.last_move[mask].tolist(), strict=True)
  }
  asked = [each for each in asked if each in seen]
  assert len(asked) == len({*asked}) == len(seen)
  assert len(seen) < mask.sum() / 2


def test_single_turns_are_unfinished():
  tokens = np.zeros((3, 1), np.int32)

  def answer(states):
    moves = np.array([4, -1, 0], np.int32)
    faults = np.full(3, trajectory.Ending.PARSE_ERROR)
    return turn_player.Answers(
      moves, faults, tokens, tokens == 0, tokens.astype(np.float32)
    )

  player = turn_player.TurnPlayer(
    players.GAME, answer, str, num_turns=1, env=decisions.SingleTurn()
  )
  lines = players.GAME.lines
  assert lines is not None
  states = lines.opening_states(1, jnp.arange(3))
  games = player(None, states)
  ending = trajectory.Ending
  expected = [ending.UNFINISHED, ending.PARSE_ERROR, ending.UNFINISHED]
  assert games.ending.tolist() == expected
  assert games.moves[:, 0].tolist() == [4, -1, 0]


def test_distinct_rows():
  numbers, pairs = (
    np.array([2, 1, 2, 2]),
    np.array([[0, 1], [3, 4], [0, 1], [0, 2]]),
  )
  first, same = turn_player.distinct([numbers, pairs])
  assert sorted(first.tolist()) == [0, 1, 3]
  assert first[same].tolist() == [0, 1, 0, 3]
