"""Self-play: both seats by one model, in one program."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import test_grpo
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt import streams
from tunix_ttt.algorithms import advantages as advantages_lib
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.algorithms import role_baseline
from tunix_ttt.games import catalog
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.rollout import self_play
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.train import game_rollout
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import reference_log_probs

pytestmark = pytest.mark.usefixtures("any_prefix")
Ending = trajectory_lib.Ending
GAMES = ("tictactoe", "kuhn_poker", "leduc_poker")
# Tests of one game share its games: most of their time is compilation.
each_game = pytest.mark.parametrize(
  "name", conftest.slow_but(["kuhn_poker"], GAMES)
)
# Answers of a model that has learned nothing.
SETTINGS = {
  "model": {"name": "tiny-qwen2.5", **conftest.SMALL_MODEL.shape()},
  "training": {"max_steps": 2, "batch_size": 12},
  "episodes": {"agent": "both"},
  "rollout": {"constrained": "legal"},
  "grpo": {"num_generations": 3},
}


def load(name, **changes):
  turns = {"tictactoe": 5, "kuhn_poker": 3, "leduc_poker": 8}[name]
  expert = "optimal" if name == "tictactoe" else "random"
  games = {"num_games": 60, "thoughts": "none", "expert": expert}
  settings = {
    **SETTINGS,
    "game": {"name": name},
    "data": {"games": games},
    "play": {"max_turns": turns, "max_new_tokens": 12},
    **changes,
  }
  return config_lib.load(config_lib.GRPOConfig, settings)


def play(config, positions=4):
  """Returns the config, a batch of games and the model that played them."""
  model = reference_log_probs.base_model(config)
  pool = opponent_pool.OpponentPool(config, conftest.ROOT / "none")
  rollout = game_rollout.GameRollout(model, config, pool)
  keys, states, _ = rollout.start(np.repeat(np.arange(positions), 3), None)
  games = rollout._sample(nnx.state(model.module), keys, states, None)
  return config, model, jax.device_get(games), rollout


@functools.cache
def played(name):
  return play(load(name), positions=16)


def rows_of(games, name, number):
  """Returns an array of the turns that were played in a game."""
  return np.asarray(getattr(games, name))[number][games.turn_mask[number]]


def at(states, *index):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), states)


@each_game
def test_a_game_is_a_replay_of_its_moves_by_the_seat_to_act(name):
  config, _, games, _ = played(name)
  game = catalog.of(config)
  env, rules_of = game.mirror(), game.game
  step, outcome = jax.jit(env.step), jax.jit(env.outcome)
  seats = game.seat_numbers(games.states)
  for number in range(12):
    count = int(games.turn_mask[number].sum())
    assert games.turn_mask[number, :count].all() and count
    state = at(games.states, number, 0)
    for turn in range(count):
      assert_equal(state, at(games.states, number, turn))
      if name != "tictactoe":
        assert int(rules_of.to_act(state.game)) == seats[number, turn]
      assert int(outcome(state)) == Ending.ONGOING
      state = step(state, int(games.moves[number, turn]))
    assert_equal(state, at(games.state, number))
    assert int(outcome(state)) == games.ending[number]
    assert int(env.seat(state)) == seats[number, count - 1]
    alternating = np.arange(count) % 2
    if name in ("tictactoe", "kuhn_poker"):
      np.testing.assert_array_equal(seats[number, :count], alternating)
  endings = set(games.ending.tolist())
  assert endings <= {Ending.WIN, Ending.DRAW, Ending.LOSS} and len(endings) > 1


def assert_equal(this, that):
  jax.tree.map(np.testing.assert_array_equal, this, that)


@each_game
def test_rules_and_chance_are_the_games_own(name):
  """A loop in Python plays the moves by the rules alone, without the view."""
  config, _, games, _ = played(name)
  game, rules_of = catalog.of(config), catalog.of(config).game
  for number in range(12):
    moves = rows_of(games, "moves", number).tolist()
    if name == "tictactoe":
      position = game.position_after(moves)
      assert int(position.state.board) == games.state.board[number]
      returns = position.returns
    else:
      state = at(games.states, number, 0).game
      key = jax.random.wrap_key_data(jnp.asarray(games.state.key[number]))
      plies, turn = int(games.states.plies[number, 0]), 0
      while int(rules_of.to_act(state)) != game_lib.OVER:
        if int(rules_of.to_act(state)) == game_lib.CHANCE:
          stream = streams.Stream.CHANCE_OUTCOMES
          drawn = streams.fold_in(key, stream, plies)
          move = players.draw(drawn, rules_of.chance(state))
        else:
          move, turn = jnp.int32(moves[turn]), turn + 1
        state, plies = rules_of.step(state, move), plies + 1
      assert_equal(state, at(games.state, number).game)
      returns = np.asarray(rules_of.returns(state))
    last = game.seat_numbers(games.states)[number, len(moves) - 1]
    signs = {1: Ending.WIN, 0: Ending.DRAW, -1: Ending.LOSS}
    assert games.ending[number] == signs[int(np.sign(returns[last]))]


@each_game
def test_each_seat_has_its_turns_and_its_ending(name):
  config, _, games, _ = played(name)
  game = catalog.of(config)
  split = jax.device_get(self_play.by_seat(game.mirror(), games, 3))
  seats = game.seat_numbers(games.states)
  assert len(split.ending) == 2 * len(games.ending)
  opposite = {Ending.WIN: Ending.LOSS, Ending.LOSS: Ending.WIN}
  for number in range(12):
    group, member = divmod(number, 3)
    last = seats[number, games.turn_mask[number].sum() - 1]
    for seat in range(2):
      row = group * 6 + seat * 3 + member
      mask = games.turn_mask[number] & (seats[number] == seat)
      kept = split.turn_mask[row]
      assert kept[: mask.sum()].all() and not kept[mask.sum() :].any()
      for field in ("moves", "actions", "action_mask", "log_probs"):
        of_seat = np.asarray(getattr(split, field))[row]
        expected = np.asarray(getattr(games, field))[number][mask]
        np.testing.assert_array_equal(of_seat[kept], expected)
        assert (of_seat[~kept] == (-1 if field == "moves" else 0)).all()
      kept_states = at(at(split.states, row), kept)
      assert_equal(kept_states, at(at(games.states, number), mask))
      ending = Ending(int(games.ending[number]))
      if seat != last:
        ending = opposite.get(ending, ending)
      assert split.ending[row] == ending
      assert game.seat_numbers(at(split.state, row)) == seat


def ended(name, ending, last_move):
  """Returns three games of two turns that ended otherwise than by the rules."""
  game = catalog.load(name)
  env = game.mirror()
  state = game.begin(env, jax.random.key(0), 0)
  states = [state, env.step(state, 0)]
  played = {"turn_mask": [True, True, False], "moves": [0, last_move, -1]}
  tokens = jnp.zeros((3, 3, 4))
  one = trajectory_lib.Trajectory(
    ending=jnp.full(3, ending, jnp.int8),
    state=jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), states[1]),
    states=jax.tree.map(
      lambda *leaves: jnp.stack([jnp.stack(leaves)] * 3),
      *states,
      states[0],
    ),
    retried=jnp.zeros((3, 3), bool),
    turn_mask=jnp.array([played["turn_mask"]] * 3),
    moves=jnp.array([played["moves"]] * 3),
    actions=tokens.astype(jnp.int32),
    action_mask=tokens.astype(bool),
    log_probs=tokens,
  )
  return game, jax.device_get(self_play.by_seat(env, one, 3))


@pytest.mark.parametrize(
  "name", conftest.slow_but(["tictactoe"], ["tictactoe", "kuhn_poker"])
)
@pytest.mark.parametrize(
  ("ending", "last_move", "both"),
  [
    (Ending.PARSE_ERROR, -1, (Ending.WIN, Ending.PARSE_ERROR)),
    (Ending.ILLEGAL, 0, (Ending.WIN, Ending.ILLEGAL)),
    (Ending.LENGTH, -1, (Ending.WIN, Ending.LENGTH)),
    # Nobody's fault: the turns ran out.
    (Ending.LENGTH, 1, (Ending.LENGTH, Ending.LENGTH)),
  ],
)
def test_a_bad_answer_loses_for_its_seat_and_wins_for_the_other(
  name, ending, last_move, both
):
  game, games = ended(name, ending, last_move)
  assert games.ending.tolist() == [both[0]] * 3 + [both[1]] * 3
  config = config_lib.RewardsConfig(return_weight=1.0, regret_weight=0.0)
  rewards = rewards_lib.components(game, games, config, 4)
  worth = {Ending.WIN: 1.0, Ending.LENGTH: -0.1}
  for seat in range(2):
    first, rest = (
      rewards["outcome"][3 * seat, 0],
      rewards["outcome"][3 * seat, 1:],
    )
    assert (
      first == pytest.approx(worth.get(both[seat], -1.0)) and not rest.any()
    )
    value = game.high if both[seat] == Ending.WIN else game.low
    assert rewards["return"][3 * seat].tolist() == [value, 0, 0]
    record = game.record_end(at(games.state, 3 * seat), both[seat])
    assert record.get("return", value) == value


def test_rewards_of_the_rules_are_of_opposite_sign():
  config, _, games, _ = played("kuhn_poker")
  game = catalog.of(config)
  split = jax.device_get(self_play.by_seat(game.mirror(), games, 3))
  values = game.returns(split.state, split.ending).reshape(-1, 2, 3)
  assert (values[:, 0] == -values[:, 1]).all() and (values != 0).all()


@pytest.mark.parametrize(
  "name", conftest.slow_but(["kuhn_poker"], ["kuhn_poker", "leduc_poker"])
)
def test_the_model_sees_what_the_seat_to_act_knows(name):
  config, model, games, rollout = played(name)
  game = catalog.of(config)
  split = self_play.by_seat(game.mirror(), games, 3)
  rows = jax.device_get(rollout._sequences(split, rollout.tables))
  split, num_turns = jax.device_get(split), split.turn_mask.shape[1]
  found = 0
  for row, turn in np.argwhere(split.turn_mask):
    state, seat = at(split.states, row, turn), int(row) // 3 % 2
    number = row * num_turns + turn
    tokens = rows.tokens[number][rows.mask[number] & ~rows.action_mask[number]]
    text = model.tokenizer.decode(tokens.tolist())
    assert game.draw(state.game, seat) in text
    if name == "kuhn_poker":
      # With any other card of the other seat, the observation is the same.
      third = (3 - state.game.cards.sum()).astype(jnp.int8)
      cards = state.game.cards.at[1 - seat].set(third)
      other = dataclasses.replace(state.game, cards=cards)
      assert game.draw(other, seat) == game.draw(state.game, seat)
      card = game.text.segments[0][int(state.game.cards[seat])]
      assert [each for each in game.text.segments[0] if each in text] == [card]
    found += 1
  assert found == games.turn_mask.sum()


@pytest.mark.parametrize(
  ("name", "context"),
  [
    ("kuhn_poker", "full"),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ("kuhn_poker", "truncated"),
        ("tictactoe", "full"),
        ("tictactoe", "truncated"),
      )
    ),
  ],
)
def test_each_seat_has_a_conversation_of_its_own(name, context):
  turns = {"context": context, "max_turns": 2, "max_new_tokens": 12}
  config = load(name, play=turns, exhaustive_eval=False)
  config, model, games, rollout = play(config)
  game = catalog.of(config)
  split = self_play.by_seat(game.mirror(), games, 3)
  rows = jax.device_get(rollout._sequences(split, rollout.tables))
  # The trainer computes the same from each seat's tokens alone.
  scores = reference_log_probs.of_policy(model.module, config)
  log_probs = np.asarray(scores(rows.tokens, rows.mask, rows.action_mask))
  sampled = rows.action_mask
  np.testing.assert_allclose(
    log_probs[sampled], rows.log_probs[sampled], atol=1e-4
  )
  split = jax.device_get(split)
  assert sampled.sum() == games.action_mask.sum() > 0
  most = split.turn_mask.sum(axis=1)
  assert most.max() == 2 and games.turn_mask.sum() == most.sum()
  per_game = len(rows.tokens) // 24
  for row in range(24):
    texts = [
      model.tokenizer.decode(rows.tokens[n][rows.mask[n]].tolist())
      for n in range(row * per_game, (row + 1) * per_game)
      if rows.mask[n].any()
    ]
    # Rules once, and in poker no card but the seat's.
    assert all(text.count(game.text.rules) == 1 for text in texts)
    if name == "kuhn_poker" and texts:
      card = int(split.state.game.cards[row][row // 3 % 2])
      lines = [each in texts[-1] for each in game.text.segments[0]]
      assert lines == [number == card for number in range(3)]
  alternating = game.seat_numbers(games.states)[:, :2] == [0, 1]
  assert alternating[games.turn_mask[:, :2]].all()


def test_games_without_a_turn_neither_count_nor_move_the_baseline():
  rewards = np.array([[1, 0], [0, 0], [0, 2], [5, 0], [0, 0], [5, 0]], float)
  played_turns = np.array(
    [[1, 0], [0, 0], [1, 1], [1, 0], [1, 0], [1, 0]], bool
  )
  config = config_lib.AlgorithmConfig(
    num_generations=3, advantage_estimator="drgrpo"
  )
  zeros = np.zeros((6, 2), int)
  values, is_trained = advantages_lib.advantages(
    rewards.astype(np.float32), played_turns, zeros, zeros, config
  )
  third = 10 / 3
  np.testing.assert_allclose(
    values[:, 0], [-0.5, 0, 0.5, 5 - third, -third, 5 - third], atol=1e-6
  )
  np.testing.assert_array_equal(is_trained, played_turns)


def test_the_role_baseline_is_a_running_mean_of_each_seats_games():
  config = config_lib.AlgorithmConfig(role_baseline_decay=0.75)
  names = ("first", "second")
  baseline = role_baseline.RoleBaseline(names, config, {})
  rewards = np.array([[0, 2], [4, 0], [-1, 0]], np.float32)
  turns = np.array([[1, 1], [1, 0], [1, 0]], bool)
  seats = np.array([[0, 0], [0, 0], [1, 0]])
  # The first games are compared with their own mean.
  values, is_trained = baseline.advantages(rewards, turns, seats)
  np.testing.assert_array_equal(values, [[-1, -1], [1, 0], [0, 0]])
  np.testing.assert_array_equal(is_trained, turns)
  assert baseline.metrics() == {
    "role_baseline/first": 3.0,
    "role_baseline/second": -1.0,
  }
  # The others with what was known before them; a seat without games keeps it.
  again = role_baseline.RoleBaseline(names, config, baseline.metrics())
  values, _ = again.advantages(rewards[:2] + 1, turns[:2], seats[:2])
  np.testing.assert_array_equal(values, [[1, 1], [3, 0]])
  assert again.means.tolist() == [0.75 * 3 + 0.25 * 5, -1.0]
  by_turn = dataclasses.replace(config, advantage_level="turn", discount=0.5)
  values, _ = role_baseline.RoleBaseline(names, by_turn, {}).advantages(
    rewards, turns, seats
  )
  # Returns 1, 2 and 4 of the first seat.
  np.testing.assert_allclose(
    values, [[1 - 7 / 3, 2 - 7 / 3], [4 - 7 / 3, 0], [0, 0]], atol=1e-6
  )


@pytest.mark.slow
def test_self_play_with_a_role_baseline_is_resumed_exactly(tmp_path):
  config = load(
    "kuhn_poker",
    training={"max_steps": 3, "batch_size": 12, "eval_every_n_steps": 3},
    grpo={"num_generations": 3, "role_baseline_decay": 0.9},
    checkpoint={"save_interval_steps": 2},
    rewards={"outcome": {"weight": 0.0}, "return_weight": 1.0},
    logging={"report": False},
  )
  run = test_grpo.train(config, tmp_path / "run")
  found, weights = test_grpo.rows(run), test_grpo.final(run)
  trained = [row for row in found if row["split"] == "train"]
  for row in trained:
    # The returns of a game add up to 0.
    assert row["mean_return"] == pytest.approx(0, abs=1e-6)
    assert row["log_ratio"] < 1e-4 and row["dropped_groups"] == 0
    assert 2 <= 2 * row["turns"] <= 3
  keys = ("role_baseline/first player", "role_baseline/second player")
  assert {row[keys[0]] for row in trained} != {trained[0][keys[0]]}
  recipes.resume(run, config, step=2)
  assert test_grpo.rows(run) == found and test_grpo.final(run) == weights


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"episodes": {"agent": "both", "source": "positions"}},
      "agent: both: positions are single moves of one seat; set source to games",
    ),
    (
      {"opponents": {"optimal": [0.5, 0.5]}},
      "opponents: with episodes.agent: both the model is its own opponent;",
    ),
  ],
)
def test_wrong_settings(changes, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(config_lib.GRPOConfig, {**SETTINGS, **changes})


def test_a_puzzle_has_no_second_seat():
  settings = {**SETTINGS, "game": {"name": "frozen_lake"}}
  config = config_lib.load(config_lib.GRPOConfig, settings)
  message = "episodes.agent: both: frozen_lake is not a game of two seats; set it to mixed"
  with pytest.raises(errors.UserError, match=message):
    grpo_plan.plan(config)
