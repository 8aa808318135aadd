"""Results of sampled policies against enumerations and sampled games."""

import functools
from typing import Any

import numpy as np
import pytest

from tests import test_move_probabilities
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import evaluator
from tunix_ttt.evaluate import exact_play
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import policy_judge
from tunix_ttt.evaluate import rates
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory

# Fixtures of a model that has begun to learn poker.
model = test_move_probabilities.model
begin = test_move_probabilities.begin
shows = test_move_probabilities.shows
tables = test_move_probabilities.tables
play = test_move_probabilities.play

Ending = trajectory.Ending
close = functools.partial(pytest.approx, rel=1e-9, abs=1e-12)


def short_poker():
  """The game of the model, for configs."""
  return test_move_probabilities.definition_of(
    test_move_probabilities.ShortText(), high=2
  )


class EveryGame:
  """Results of a policy in a seat of tic-tac-toe over all of its games."""

  def __init__(self, seat, odds):
    """Takes a dict of probabilities by board and last move, [11] each.

    They are of the nine cells, unreadable and truncated answers.
    """
    self.seat, self.odds = seat, odds
    self.random, self.optimal = np.zeros((2, len(Ending)))
    self.legal = rules.mask_to_bool(rules.legal_masks())
    self.winners = rules.winners()
    self.worst = self.walk(rules.EMPTY_BOARD, -1, 0, 1.0, 1.0)

  def end(self, ending, first, second):
    self.random[ending] += first
    self.optimal[ending] += second
    return {Ending.WIN: 1, Ending.DRAW: 0}.get(ending, -1)

  def walk(self, board, last, ply, first, second):
    """Adds to the rates; returns the worst expected return."""
    winner = self.winners[board]
    if winner in (rules.X, rules.O):
      is_mine = winner == rules.X + self.seat
      return self.end(Ending.WIN if is_mine else Ending.LOSS, first, second)
    if ply == 9:
      return self.end(Ending.DRAW, first, second)
    free = np.flatnonzero(self.legal[board]).tolist()
    mark = rules.X + ply % 2
    values = {}
    if ply % 2 == self.seat:
      odds = self.odds[board, last]
      total = 0.0
      for kind, chance in enumerate(odds):
        if kind < 9 and kind in free:
          after = board + mark * 3**kind
          each = first * chance, second * chance
          value = self.walk(after, kind, ply + 1, *each)
        else:
          ending = {9: Ending.PARSE_ERROR, 10: Ending.LENGTH}.get(
            kind, Ending.ILLEGAL
          )
          value = self.end(ending, first * chance, second * chance)
        total += chance * value
      return total
    best = solver.optimal_cells(board)
    for cell in free:
      values[cell] = self.walk(
        board + mark * 3**cell,
        cell,
        ply + 1,
        first / len(free),
        second / len(best) if cell in best else 0.0,
      )
    return min(values.values())


@pytest.mark.parametrize("seat", [0, 1])
def test_tictactoe_is_the_enumeration_of_all_games(seat):
  play = exact_play.ExactPlay(catalog.load("tictactoe", thoughts=False))
  listed, rng = play.decisions[seat], np.random.default_rng(seat)
  rows = rng.dirichlet(np.full(11, 0.3), len(listed))
  policy = decisions_lib.sampled(rows[:, :9], rows[:, 9], rows[:, 10])
  states: Any = listed.states
  keys = zip(states.board.tolist(), states.last_move.tolist(), strict=True)
  expected = EveryGame(seat, dict(zip(keys, rows.tolist(), strict=True)))
  verdict: Any = play.judge(seat, policy)
  for result, found_rates in (
    (verdict.random, expected.random),
    (verdict.optimal, expected.optimal),
  ):
    assert result.rates == close(
      {name: found_rates[e] for name, e in trajectory.RATES.items()}
    )
    mean = found_rates[Ending.WIN] - found_rates[Ending.LOSS :].sum()
    assert result.mean_return == close(mean)
    assert result.variances == {}
  assert verdict.worst.mean_return == close(expected.worst)
  worst = verdict.worst.rates
  assert sum(worst.values()) == close(1)
  mean = 2 * worst["win_rate"] + worst["draw_rate"] - 1
  assert mean == close(expected.worst)


def test_results_of_samples_are_unbiased_and_their_intervals_hold(play):
  rng, seat = np.random.default_rng(0), 0
  game = short_poker()
  odds = rng.dirichlet([2, 2, 0.3], 6)
  exact = play.judge(seat, decisions_lib.sampled(odds[:, :2], odds[:, 2]))
  counts, repeats = np.array([12, 12, 12, 4, 5, 6]), 800
  means, variances, covered = [], [], []
  for _ in range(repeats):
    shares = np.stack(
      [rng.multinomial(n, row) / n for n, row in zip(counts, odds, strict=True)]
    )
    policy = decisions_lib.sampled(shares[:, :2], shares[:, 2])
    verdict = play.judge(seat, policy, counts)
    expected = verdict.random
    means.append([*expected.rates.values(), expected.mean_return])
    variances.append([*expected.variances.values()])
    result = rates.of_policy(
      game, verdict, temperature=1, unresolved=0, num_answers=4
    )
    covered.append(
      [
        low <= value <= high
        for (low, high), value in zip(
          result.intervals["random"].values(),
          [*exact.random.rates.values(), exact.random.mean_return],
          strict=True,
        )
      ]
    )
  truth = np.array([*exact.random.rates.values(), exact.random.mean_return])
  error = np.std(means, axis=0) / np.sqrt(repeats)
  assert (np.abs(np.mean(means, axis=0) - truth) <= 4 * error + 1e-12).all()
  estimated, actual = np.mean(variances, axis=0), np.var(means, axis=0)
  assert (estimated >= actual).all()
  assert (estimated <= 4 * actual + 1e-12)[[0, 3, 7]].all()
  assert (np.mean(covered, axis=0) > 0.9).all()
  # Wins and parse errors vary, and unfinished games do not occur.
  assert np.var(means, axis=0)[[0, 5]].min() > 1e-5


def test_samples_that_agree_have_an_interval(play):
  moves = np.tile([1.0, 0.0], (6, 1))
  policy = decisions_lib.sampled(moves, np.zeros(6))
  verdict = play.judge(0, policy, np.full(6, 10))
  result = rates.of_policy(
    short_poker(), verdict, temperature=1, unresolved=0, num_answers=10
  )
  low, high = result.intervals["random"]["parse_error_rate"]
  # Wilson's interval of 0 of 10.
  assert (low, high) == (close(0), close(0.27753279986288915))


def settings(**play_settings):
  return config_lib.load(
    config_lib.GRPOConfig,
    {
      "game": {"name": "tests.test_policy_judge:short_poker"},
      "data": {"games": {"thoughts": "none"}},
      "play": {"temperature": 1.3, "max_new_tokens": 24, **play_settings},
    },
  )


@pytest.mark.slow
def test_a_model_is_judged_as_its_sampled_games(model, tmp_path, monkeypatch):
  # The little model spells some answers in other tokens.
  monkeypatch.setattr(policy_judge, "_MAX_UNRESOLVED", 0.02)
  config = settings(batch_size=50, num_games=1500)
  exact = list(matches.play_all_lines(model, config))
  sampled = list(matches.play_games(model, config))
  estimates = policy_judge.PolicyJudge(model, settings(num_answers=100))
  for match, games, (name, estimate) in zip(
    exact, sampled, estimates(), strict=True
  ):
    result: Any = match.result
    assert (match.seat, result.num_answers) == (name, 0)
    assert estimate.num_answers == 100 and 0 < result.unresolved < 0.02
    assert sum(result.random.values()) == close(1)
    other: Any = games.result
    for rate, value in result.random.items():
      error = np.sqrt(value * (1 - value) / 1500) + 1e-3
      assert abs(other.rates[rate] - value) < 4 * error
      low, high = estimate.intervals["random"][rate]
      assert low - 0.05 < value < high + 0.05
    low, high = other.return_interval
    assert low - 0.1 < result.returns["random"] < high + 0.1
  path = tmp_path / "games.jsonl"
  matches.write(path, exact, model, "name", config)
  summary = game_files.read_summary(game_files.summary_path(path))
  assert summary.results == {match.seat: match.result for match in exact}
  assert not game_files.is_exact(summary)
  for seat, side in game_files.sides_of_summary(summary).items():
    assert side.against["random"] == summary.results[seat].against("")["random"]
    assert side.thought_true_rate is None
  assert "at temperature 1.3, computed" in matches.table(exact)


def test_training_evaluates_the_sampled_policy(model, monkeypatch):
  # Sampled answers in training have a stream of their own.
  monkeypatch.setattr(policy_judge, "_MAX_UNRESOLVED", 0.02)
  evaluate = evaluator.Evaluator(model, settings())
  judge = policy_judge.PolicyJudge(model, settings())
  metrics = evaluate(judge.player.params)
  for name, result in judge():
    for rate, value in result.random.items():
      assert metrics[f"{name}/random/{rate}"] == value
    assert metrics[f"{name}/return/random"] == result.returns["random"]
    assert f"{name}/lines_lost" not in metrics
  assert 0 < metrics["score"] < 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers(model):
  config = settings(num_answers=3, constrained="legal")
  first, again = (policy_judge.PolicyJudge(model, config)() for _ in range(2))
  for (_, result), (_, same) in zip(first, again, strict=True):
    assert result == same
    # Every answer is a legal move.
    assert result.random["parse_error_rate"] == 0
    assert result.random["illegal_rate"] == 0
