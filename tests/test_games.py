"""Tests that generated games are legal, optimal and described truthfully."""

import itertools

import numpy as np
import pytest

from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import expert_games as games_lib
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat


@pytest.fixture(scope="module", params=[0.0, 0.8])
def games(request):
  return games_lib.expert_games(3, 200, request.param)


def test_the_expert_plays_optimal_moves_on_its_turn(games):
  boards, actions = games.boards[games.played], games.actions[games.played]
  agents = np.repeat(games.agent, games.played.sum(axis=1))
  assert (rules.side_to_move()[boards] == agents).all()
  assert (solver.solve().optimal[boards] >> actions & 1).all()


def test_games_follow_the_rules(games):
  for n in range(len(games.agent)):
    played = np.flatnonzero(games.played[n])
    for t, following in itertools.pairwise(played):
      board, action = int(games.boards[n, t]), int(games.actions[n, t])
      reply = int(games.last_moves[n, following])
      after = int(rules.successors()[board, action])
      assert rules.successors()[after, reply] == games.boards[n, following]


def test_the_last_move_is_the_opponents(games):
  boards, last = games.boards[games.played], games.last_moves[games.played]
  agents = np.repeat(games.agent, games.played.sum(axis=1))
  alone = rules.num_marks()[boards] == 0
  assert (last[alone] == -1).all()
  marks = rules.cells()[boards[~alone], last[~alone]]
  assert (marks == rules.X + rules.O - agents[~alone]).all()


def test_an_expert_never_loses_from_the_empty_board():
  games = games_lib.expert_games(0, 400)
  assert not np.isin(
    games.outcome, [env_lib.Outcome.LOSS, env_lib.Outcome.ILLEGAL]
  ).any()
  assert (games.agent == rules.X).sum() == 200


def test_random_starts_reach_every_kind_of_position():
  games = games_lib.expert_games(0, 6000, 1.0)
  starts = games.boards[:, 0][games.played[:, 0]]
  assert set(rules.num_marks()[starts]) == set(range(9))
  assert len(np.unique(rules.canonical()[starts])) > 600


def test_the_same_seed_gives_the_same_games():
  first, again, other = (games_lib.expert_games(s, 50, 0.5) for s in (1, 1, 2))
  assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
  assert not np.array_equal(first.boards, other.boards)


@pytest.mark.parametrize("thoughts", [True, False])
@pytest.mark.parametrize("context", ["board", "full"])
def test_conversations(games, context, thoughts):
  style = "template" if thoughts else "none"
  text_format = text_formats.GridFormat(thoughts=thoughts)
  conversations = [
    row["messages"]
    for n in range(len(games.agent))
    for row in game_turns.of_game(
      games_lib.turns(games, n, style), text_format, context
    )
  ]
  turns = int(games.played.sum())
  with_turns = int(games.played.any(axis=1).sum())
  assert len(conversations) == (turns if context == "board" else with_turns)
  answers = []
  for messages in conversations:
    chat.check_messages(messages)
    assert messages[0]["content"] == text_formats.system_prompt(
      thoughts=thoughts
    )
    for message in messages[2::2]:
      answer = text_formats.parse_answer(message["content"], thoughts=thoughts)
      assert answer is not None
      answers.append(answer.cell)
  assert answers == games.actions[games.played].tolist()


def test_positions_where_any_move_will_do_are_thinned_out():
  games = games_lib.expert_games(0, 2000, 0.8)
  kept = games_lib.keep_decisions(games, 0.25, 0)
  optimal = solver.solve().optimal[games.boards]
  indifferent = games.played & (optimal == rules.legal_masks()[games.boards])
  decisive = games.played & ~indifferent
  assert np.array_equal(kept.played & ~indifferent, decisive)
  share = kept.played[indifferent].mean()
  assert indifferent.sum() > 500 and abs(share - 0.25) < 0.05


def test_a_worse_player_makes_mistakes_and_its_won_games_can_be_kept():
  games = games_lib.expert_games(0, 600, mistakes=0.5)
  boards, actions = games.boards[games.played], games.actions[games.played]
  legal = rules.legal_masks()[boards].astype(int) >> actions & 1
  assert legal.all()
  optimal = (solver.solve().optimal[boards].astype(int) >> actions & 1).mean()
  assert 0.6 < optimal < 0.9
  assert (games.outcome == env_lib.Outcome.LOSS).any()
  won = games_lib.keep_won(games)
  assert 0 < len(won.agent) < 600
  assert (won.outcome == env_lib.Outcome.WIN).all()
