"""Exact results against every line of play, histories and linear systems."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import players as scripted
from tests import test_solve
from tunix_ttt import errors
from tunix_ttt.evaluate import best_responses
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import exact_play
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games.frozen_lake import lake_game
from tunix_ttt.games.frozen_lake import lake_text
from tunix_ttt.games.kuhn_poker import kuhn_game
from tunix_ttt.games.kuhn_poker import kuhn_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import tictactoe_game
from tunix_ttt.games.tictactoe import tictactoe_text
from tunix_ttt.rollout import trajectory

Ending = trajectory.Ending
close = functools.partial(pytest.approx, rel=1e-12, abs=1e-12)


@pytest.fixture(scope="module")
def tictactoe():
  text = tictactoe_text.TicTacToeText(thoughts=False)
  return best_responses.BestResponses(
    definition.Definition(
      name="test", game=tictactoe_game.TicTacToe(), text=text, low=-1
    )
  )


def random_cells(seed, slips):
  """Returns a table of free cells, and of any cells or -1 now and then."""
  rng = np.random.default_rng(seed)
  legal = rules.legal_masks()
  which = rng.integers(0, np.maximum(rules.mask_sizes()[legal], 1))
  table = rules.nth_cell()[legal, which].astype(np.int32)
  is_slip = rng.random(len(table)) < slips
  return np.where(is_slip, rng.integers(-1, 9, len(table)), table)


def judge(play, seat, policy) -> Any:
  """Returns a verdict with fields that are None for some games."""
  return play.judge(seat, policy)


def answers(play, seat, table):
  """Returns the policy that plays the cells of a table."""
  boards = play.decisions[seat].states.board
  ongoing = np.full(len(boards), Ending.ONGOING)
  return decisions_lib.deterministic(table[boards], ongoing, 9)


TABLES = {
  "perfect": scripted.PERFECT,
  "first": scripted.FIRST_LEGAL,
  "random": random_cells(0, 0),
  "sometimes illegal": random_cells(1, 0.1),
  "often illegal": random_cells(2, 0.5),
}


@pytest.mark.parametrize("name", TABLES)
def test_results_are_those_of_every_line(tictactoe, name):
  for seat, match in enumerate(scripted.matches(TABLES[name])):
    expected: Any = match.result
    verdict = judge(tictactoe, seat, answers(tictactoe, seat, TABLES[name]))
    value = {"draw": 0, "win": 1}
    assert verdict.lines == expected.lines
    assert verdict.lines_lost == expected.lines_lost
    assert verdict.worst_ending.name.lower() == expected.worst
    assert verdict.worst.mean_return == value.get(expected.worst, -1)
    assert verdict.random.optimal_move_rate == close(expected.optimal_move_rate)
    assert verdict.random.num_decisions == close(
      match.games.turn_mask.sum(axis=1).mean()
    )
    for result, rates in (
      (verdict.random, expected.random),
      (verdict.optimal, expected.optimal),
    ):
      assert result.rates == close(rates)
      mean = rates["win_rate"] - rates["loss_rate"] - rates["illegal_rate"]
      assert result.mean_return == close(mean)


@pytest.mark.parametrize("name", TABLES)
def test_a_best_response_gains_what_the_policy_loses_at_worst(tictactoe, name):
  policies = [answers(tictactoe, seat, TABLES[name]) for seat in range(2)]
  for seat in range(2):
    moves, value = tictactoe.best_response(1 - seat, policies)
    worst = judge(tictactoe, seat, policies[seat]).worst
    assert worst is not None and value == -worst.mean_return
    to_act = np.asarray(tictactoe.graph.to_act)
    assert ((moves >= 0) == (to_act == 1 - seat)).all()


class Blind(kuhn_text.KuhnPokerText):
  """Shows neither cards nor moves."""

  def show(self, state, seat):
    del state, seat
    return jnp.full(5, -1)


def test_no_best_response_where_turns_look_the_same():
  game = definition.Definition(
    name="blind", game=kuhn_game.KuhnPoker(), text=Blind()
  )
  play = best_responses.BestResponses(game)
  # The first player may have a second turn.
  assert [play.tells_turns(seat) for seat in range(2)] == [False, True]
  always = decisions_lib.sampled(np.array([[1.0, 0.0]]), np.zeros(1))
  with pytest.raises(errors.UserError, match="blind shows seat 0 the same at"):
    play.best_response(0, [always, always])


def test_decisions_are_distinct_and_have_a_state_each(tictactoe):
  text = tictactoe_text.TicTacToeText(thoughts=False)
  game = tictactoe_game.TicTacToe()
  graph = tictactoe.solution.graph
  for seat, decisions in enumerate(tictactoe.decisions):
    assert len(np.unique(decisions.shows, axis=0)) == len(decisions) > 1000
    numbers, turns = decisions.numbers, np.asarray(graph.to_act) == seat
    np.testing.assert_array_equal(numbers >= 0, turns)
    assert set(numbers[turns]) == set(range(len(decisions)))
    states = jax.tree.map(lambda leaf, rows=turns: leaf[rows], graph.states)
    for batch, rows in (
      (states, decisions.shows[numbers[turns]]),
      (decisions.states, decisions.shows),
    ):
      shows = jax.vmap(text.show, (0, None))(batch, jax.numpy.int32(seat))
      np.testing.assert_array_equal(shows, rows)
    assert (jax.vmap(game.to_act)(decisions.states) == seat).all()


class Histories:
  """Results of a policy by recursion over histories."""

  def __init__(self, game, text, play, seat, policy, low):
    self.game, self.text, self.seat, self.low = game, text, seat, low
    self.shows = play.decisions[seat].shows.tolist()
    self.policy = policy
    self.rates, self.mean = np.zeros(len(Ending)), 0.0
    self.lines, self.lost = 0, 0
    self.worst = self.walk(game.init(jax.random.key(0)), 1.0)

  def end(self, ending, chance, value):
    self.rates[ending] += chance
    self.mean += chance * value
    self.lines += 1
    self.lost += ending not in (Ending.WIN, Ending.DRAW)
    return value

  def walk(self, state, chance):
    """Returns the worst return that opponents who see the state can force."""
    game, to_act = self.game, int(self.game.to_act(state))
    if to_act == game_lib.OVER:
      value = float(game.returns(state)[self.seat])
      signs = Ending.DRAW, Ending.WIN, Ending.LOSS
      return self.end(signs[int(np.sign(value))], chance, value)
    legal, ended = np.asarray(game.legal(state)), 0.0
    if to_act == game_lib.CHANCE:
      odds = np.asarray(game.chance(state), np.float64)
      odds /= odds.sum()
    elif to_act == self.seat:
      row = self.shows.index(self.text.show(state, np.int32(to_act)).tolist())
      odds, ends = self.policy.moves[row], self.policy.ends[row].copy()
      ends[Ending.ILLEGAL] += odds[~legal].sum()
      odds = np.where(legal, odds, 0)
      for ending in np.flatnonzero(ends):
        ended += ends[ending] * self.low
        self.end(Ending(ending), chance * ends[ending], self.low)
    else:
      odds = legal / legal.sum()
    values = [
      (odds[n], self.walk(game.step(state, np.int32(n)), chance * odds[n]))
      for n in np.flatnonzero(odds)
    ]
    if to_act in (game_lib.CHANCE, self.seat):
      return ended + sum(chance * value for chance, value in values)
    return min(value for _, value in values)


def random_policy(rng, count, num_actions, *, is_sampled):
  """Returns a policy with answers of every kind."""
  if is_sampled:
    rows = rng.dirichlet(np.full(num_actions + 1, 0.7), count)
    return decisions_lib.sampled(rows[:, 1:], rows[:, 0])
  endings = rng.choice(
    [Ending.ONGOING, Ending.PARSE_ERROR, Ending.LENGTH],
    count,
    p=[0.7, 0.2, 0.1],
  )
  actions = rng.integers(0, num_actions, count)
  return decisions_lib.deterministic(actions, endings, num_actions)


def check_histories(game, text, play, seat, policy, low):
  expected = Histories(game, text, play, seat, policy, low)
  verdict = judge(play, seat, policy)
  by_name = {n: expected.rates[e] for n, e in trajectory.RATES.items()}
  assert verdict.random.rates == close(by_name)
  assert sum(verdict.random.rates.values()) == close(1)
  assert verdict.random.mean_return == close(expected.mean)
  assert (verdict.lines, verdict.lines_lost) == (expected.lines, expected.lost)
  possible = [e for e in trajectory.RATES.values() if expected.rates[e]]
  assert verdict.worst_ending == possible[-1]
  return verdict, expected


@pytest.mark.parametrize("is_sampled", [False, True])
def test_hidden_cards_are_those_of_every_history(is_sampled):
  game, text = kuhn_game.KuhnPoker(), kuhn_text.KuhnPokerText()
  play, rng = (
    best_responses.BestResponses(
      definition.Definition(name="test", game=game, text=text, low=-2.5)
    ),
    np.random.default_rng(3),
  )
  assert [len(decisions) for decisions in play.decisions] == [6, 6]
  assert play.solution is None
  for _ in range(3):
    for seat in range(2):
      policy = random_policy(rng, 6, 2, is_sampled=is_sampled)
      verdict, _ = check_histories(game, text, play, seat, policy, -2.5)
      assert verdict.worst is verdict.optimal is None
      assert verdict.random.optimal_move_rate is None


class BareText:
  """A text of which only observations matter."""

  rules, seats, segments, actions = "", (), (), ()


class NumberText(BareText):
  """The number of a `test_solve.Node`, in two slots."""

  def __init__(self, alike=()):
    self.alike = alike

  def show(self, state, seat):
    number = state.number.astype(np.int32)
    for first, second in self.alike:
      number = jax.numpy.where(number == second, first, number)
    return jax.numpy.stack([number, seat])


#            0: seat 0
#   1: seat 1     2: chance (1/4, 3/4)
#  3: 0   4 over    4 over   5: seat 1
#  8  9                      6: 0   7 over
#                            8  9
TREE = test_solve.Table(
  (0, 1, 2),
  (1, 3, 4),
  (game_lib.CHANCE, 4, 5),
  (0, 8, 9),
  (game_lib.OVER, -3, 3),
  (1, 6, 7),
  (0, 8, 9),
  (game_lib.OVER, 2, -2),
  (game_lib.OVER, 0, 0),
  (game_lib.OVER, 5, -5),
  odds=(0.25, 0.75),
)


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("alike", [(), [(3, 6), (1, 5)]])
def test_worst_returns_are_those_of_every_history(seat, is_sampled, alike):
  text, rng = NumberText(alike), np.random.default_rng(7)
  play = best_responses.BestResponses(
    definition.Definition(name="test", game=TREE, text=text, low=-4)
  )
  assert len(play.decisions[seat]) == 3 - seat - bool(alike)
  worst = set()
  for _ in range(8):
    count = len(play.decisions[seat])
    policy = random_policy(rng, count, 2, is_sampled=is_sampled)
    verdict, expected = check_histories(TREE, text, play, seat, policy, -4)
    assert verdict.worst.mean_return == close(expected.worst)
    assert verdict.worst.mean_return < verdict.random.mean_return + 1e-12
    worst.add(verdict.worst.mean_return)
  assert len(worst) > 1


def test_opponents_of_choice_play_their_best_moves():
  play = best_responses.BestResponses(
    definition.Definition(name="test", game=TREE, text=NumberText(), low=-4)
  )
  ongoing = np.zeros(3, int)
  # Seat 0 goes to chance, then to state 9; seat 1 goes to state 6 only if it
  # expects state 8. Both of seat 1's moves are optimal for it nowhere.
  policy = decisions_lib.deterministic(np.array([1, 1, 1]), ongoing, 2)
  verdict = judge(play, 0, policy)
  assert verdict.optimal.mean_return == close(-3 / 4 + 3 / 4 * 2)
  assert verdict.worst.mean_return == close(-3 / 4 + 3 / 4 * 2)
  assert verdict.random.mean_return == close(-3 / 4 + 3 / 8 * (2 + 5))
  # The choices of states 0, 3 and 6 are optimal but for the last.
  assert verdict.random.num_decisions == close(1 + 3 / 8)


def test_a_seat_without_decisions():
  game = test_solve.Table(
    (0, 1, 2), (game_lib.OVER, 1, 2), (game_lib.OVER, 3, 0)
  )
  play = best_responses.BestResponses(
    definition.Definition(name="test", game=game, text=NumberText(), low=-1)
  )
  nothing = decisions_lib.deterministic(np.zeros(0, int), np.zeros(0, int), 2)
  verdict = judge(play, 1, nothing)
  assert verdict == exact_play.ExactVerdict(
    random=exact_play.Expected(
      rates={
        name: 0.5 * (name in ("win_rate", "draw_rate"))
        for name in trajectory.RATES
      },
      mean_return=1,
      num_decisions=0,
      optimal_move_rate=0,
    ),
    optimal=exact_play.Expected(
      rates={name: float(name == "draw_rate") for name in trajectory.RATES},
      mean_return=0,
      num_decisions=0,
      optimal_move_rate=0,
    ),
    worst=exact_play.Expected(
      rates={name: float(name == "draw_rate") for name in trajectory.RATES},
      mean_return=0,
      num_decisions=0,
      optimal_move_rate=0,
    ),
    worst_ending=Ending.DRAW,
    lines=2,
    lines_lost=0,
  )


def lake_chain(max_moves, actions, endings):
  """Returns rates and numbers of lines on the lake, a move at a time.

  `actions` and `endings` are by cell.
  """
  cells = "".join(lake_game.MAP)
  odds, lines = np.zeros(16), [0] * 16
  odds[0], lines[0] = 1, 1
  rates, ended = np.zeros(len(Ending)), np.zeros(len(Ending), object)
  moves = [(0, -1), (1, 0), (0, 1), (-1, 0)]
  for number in range(max_moves + 1):
    next_odds, next_lines = np.zeros(16), [0] * 16
    for cell in range(16):
      ending = endings[cell]
      if cells[cell] in "HG":
        ending = Ending.WIN if cells[cell] == "G" else Ending.LOSS
      elif number == max_moves:
        ending = Ending.LOSS
      if ending != Ending.ONGOING:
        rates[ending] += odds[cell]
        ended[ending] += lines[cell]
        continue
      for turn in (-1, 0, 1):
        row, column = moves[(actions[cell] + turn) % 4]
        row = min(max(cell // 4 + row, 0), 3)
        column = min(max(cell % 4 + column, 0), 3)
        next_odds[4 * row + column] += odds[cell] / 3
        next_lines[4 * row + column] += lines[cell]
    odds, lines = next_odds, next_lines
  return rates, ended


@pytest.mark.parametrize("max_moves, low", [(7, 0), (100, -1)])
def test_a_walk_on_ice_is_a_markov_chain(max_moves, low):
  game = lake_game.FrozenLake(max_moves=max_moves)
  text = lake_text.FrozenLakeText(max_moves=max_moves)
  play = best_responses.BestResponses(
    definition.Definition(name="test", game=game, text=text, low=low)
  )
  actions = np.array([0, 3, 3, 3, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0])
  endings = np.zeros(16, int)
  endings[10] = Ending.PARSE_ERROR
  cells = play.decisions[0].states.cell
  verdict = judge(
    play, 0, decisions_lib.deterministic(actions[cells], endings[cells], 4)
  )
  rates, lines = lake_chain(max_moves, actions, endings)
  for result in (verdict.random, verdict.optimal):
    by_name = {n: rates[e] for n, e in trajectory.RATES.items()}
    assert result.rates == close(by_name)
    assert result.mean_return == close(rates[1] + low * rates[5])
  assert verdict.worst.mean_return == close(verdict.random.mean_return)
  assert verdict.lines == sum(lines)
  assert verdict.lines_lost == lines[Ending.PARSE_ERROR] + lines[Ending.LOSS]
  assert verdict.worst_ending == Ending.PARSE_ERROR
  assert (verdict.lines > 2**53) == (max_moves == 100)


def test_steps_may_lead_past_a_level():
  """A state that one step or two reach comes after all of them."""

  class Text(BareText):
    def show(self, state, seat):
      return state[0][None] + 0 * seat

  game = test_solve.Counter(41)
  play = best_responses.BestResponses(
    definition.Definition(name="test", game=game, text=Text(), low=0)
  )
  moves = np.tile([0.25, 0.75], (41, 1))
  verdict = judge(play, 0, decisions_lib.sampled(moves, np.zeros(41)))
  lines, steps, paid = {}, {}, {}
  for n in reversed(range(43)):
    is_over = n >= 41
    lines[n] = 1 if is_over else lines[n + 1] + lines[n + 2]
    steps[n] = 0 if is_over else 1 + steps[n + 1] / 4 + steps[n + 2] * 3 / 4
    paid[n] = n / 8 if is_over else paid[n + 1] / 4 + paid[n + 2] * 3 / 4
  assert (verdict.lines, verdict.lines_lost) == (lines[0], 0)
  assert verdict.random.num_decisions == close(steps[0])
  assert verdict.random.mean_return == close(paid[0])
  assert verdict.worst.mean_return == close(paid[0])


def test_states_in_cycles_are_refused():
  game = test_solve.Table((0, 1, 2), (1, 0, 2), (game_lib.OVER, 1, -1))
  with pytest.raises(errors.UserError, match="^Table: its states form cycles"):
    best_responses.BestResponses(
      definition.Definition(name="test", game=game, text=NumberText(), low=-1)
    )


def test_a_policy_of_another_game_is_refused(tictactoe):
  policy = decisions_lib.deterministic(np.zeros(5, int), np.zeros(5, int), 9)
  with pytest.raises(ValueError, match=r"shape \(.*, 9\), found \(5, 9\)"):
    tictactoe.judge(0, policy)
