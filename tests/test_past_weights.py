"""Opponents that are earlier weights of the run, and how they are kept."""

import dataclasses
import shutil

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import test_grpo
from tests import test_self_play
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import self_play
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import run_directory
from tunix_ttt.train import game_rollout
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import past_weights
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop

pytestmark = pytest.mark.usefixtures("any_prefix")
Ending = trajectory_lib.Ending
OPPONENTS = {
  "random": [0.0, 0.0],
  "past_selves": [1.0, 1.0],
  "pool": "weights",
  "policy": "sampled",
  "add_every_n_steps": 1,
  "pool_size": 2,
}


def load(name="tictactoe", context="board", opponents=None, **changes):
  """Returns a config whose games are all against past weights."""
  turns = {"tictactoe": 5, "connect_four": 3}.get(name, 2)
  settings = {
    **test_self_play.SETTINGS,
    "game": {"name": name},
    "data": {"games": {"num_games": 40, "thoughts": "none"}},
    "episodes": {},
    "training": {"max_steps": 4, "batch_size": 12, "eval_every_n_steps": 4},
    "play": {"context": context, "max_turns": turns, "max_new_tokens": 16},
    "opponents": OPPONENTS | (opponents or {}),
    "exhaustive_eval": False,
    "logging": {"report": False},
    **changes,
  }
  if name.endswith("poker"):
    settings["data"] = {"games": {"num_games": 40, "expert": "random"}}
  if name == "connect_four":
    settings["data"] = {"games": {"num_games": 4, "expert": "random"}}
    settings["tokenizer"] = {"split_by_whitespace": True}
    settings["rewards"] = {"outcome": {"weight": 1.0}}
  return config_lib.load(config_lib.GRPOConfig, settings)


def load_model(config):
  base = reference_log_probs.base_model(config)
  return run_loop.adapt(base, config)[0]


def set_values(model, values):
  """Changes a model's trained parameters in place, as a trainer does."""
  state = nnx.state(specs.with_parameters(model.module, values))
  nnx.update(model.module, state)


def other_values(model, seed):
  """Returns all parameters, of which those that are trained are random."""
  values = specs.parameters(model.module)
  rng = np.random.default_rng(seed)
  for name in specs.parameters(model.module, model.trainable):
    noise = rng.normal(size=values[name].shape) * 0.3
    values[name] = values[name] + jnp.asarray(noise, values[name].dtype)
  return values


def begin(config, run):
  """Returns a rollout, its model and its pool, which has one past self."""
  model = load_model(config)
  past = past_weights.PastWeights(model, config, run)
  past.add_if_due(1)
  pool = opponent_pool.OpponentPool(config, run)
  rollout = game_rollout.GameRollout(model, config, pool, past=past)
  return rollout, model, past


def error(model, config, sequences):
  """Returns how far log-probabilities are from those that were recorded."""
  score = reference_log_probs.of_policy(model.module, config)
  found = score(sequences.tokens, sequences.mask, sequences.action_mask)
  sampled = sequences.action_mask
  difference = found - sequences.log_probs
  return np.abs(difference[sampled]).max()


def greedy_sampler(rollout, config, **changes):
  """Returns a sampler in which both seats take the most likely tokens."""
  play = dataclasses.replace(
    config.play, temperature=0.0, constrained="legal", **changes
  )
  mirror = catalog.of(config).mirror()
  return sampler.Sampler(
    rollout._policy, mirror, rollout.tables, play, is_self_play=True
  )


def assert_equal(this, that):
  jax.tree.map(np.testing.assert_array_equal, this, that)


@pytest.mark.parametrize(
  ("opponents", "expected"),
  [
    ({"random": [0.75, 0.75], "past_selves": [0.25, 0.25]}, {3, 7, 11}),
    ({"random": [9, 9], "past_selves": [1, 1]}, {9}),
    ({"random": [1, 0], "past_selves": [0, 1]}, {5, 7, 8, 9, 10, 11}),
    ({"random": [0, 0], "past_selves": [1, 1]}, {*range(12)}),
    ({"past_selves": [1, 1], "pool": "tables"}, set()),
    ({"custom": "random"}, set()),
  ],
)
def test_the_share_of_past_weights_is_one_of_the_steps(opponents, expected):
  training = {"max_steps": 12, "batch_size": 12}
  config = load(opponents=opponents, training=training)
  assert past_weights.steps(config) == expected


CASES = [
  ("tictactoe", "board"),
  *(
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
      ("kuhn_poker", "full"),
      ("tictactoe", "full"),
      ("tictactoe", "truncated"),
      ("connect_four", "board"),
      ("connect_four", "full"),
    )
  ),
]


@pytest.mark.parametrize(("name", "context"), CASES)
def test_each_seat_is_played_by_its_own_weights(name, context, tmp_path):
  config = load(name, context)
  rollout, model, _ = begin(config, tmp_path)
  game, first = catalog.of(config), specs.parameters(model.module)
  second = other_values(model, 1)
  params = [
    nnx.state(specs.with_parameters(model.module, values))
    for values in (first, second)
  ]
  keys, states, _ = rollout.start(np.repeat(np.arange(4), 3), None)
  agents = jnp.array(np.repeat([0, 1, 0, 1], 3), jnp.int32)
  play = greedy_sampler(rollout, config)
  # The same games, once as those of each weights: both are greedy.
  games = {}
  for number in (0, 1):
    seats = agents if number == 0 else 1 - agents
    past = self_play.PastSelf(params[1 - number], seats)
    games[number] = play(params[number], keys, states, past=past)
    rows = jax.device_get(rollout._sequences(games[number], rollout.tables))
    errors_of = []
    for values in (first, second):
      set_values(model, values)
      errors_of.append(error(model, config, rows))
    assert errors_of[number] < 1e-4 and errors_of[1 - number] > 0.1
  env = game.mirror()
  step, seat_of = jax.jit(env.step), jax.jit(env.seat)
  seen_by, outcome = jax.jit(env.seen_by), jax.jit(env.outcome)
  games = jax.device_get(games)
  for row in range(12):
    state = test_self_play.at(states, row)
    turns = [0, 0]
    counts = [int(games[n].turn_mask[row].sum()) for n in (0, 1)]
    while turns[number := int(seat_of(state) != agents[row])] < counts[number]:
      played = games[number]
      recorded = test_self_play.at(played.states, row, turns[number])
      assert_equal(state, recorded)
      state = step(state, int(played.moves[row, turns[number]]))
      turns[number] += 1
    if name == "connect_four":
      # Its few turns end no game, and each seat is cut after its own.
      assert max(turns) == 3 and min(turns) > 1
      continue
    assert turns == counts
    for number, played in games.items():
      state = seen_by(state, agents[row] if number == 0 else 1 - agents[row])
      assert_equal(state, test_self_play.at(played.state, row))
      assert int(outcome(state)) == played.ending[row] != Ending.ONGOING
  assert play.num_traces == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "context"), CASES[:4])
def test_a_game_against_the_present_weights_is_one_seat_of_self_play(
  name, context, tmp_path
):
  config = load(name, context)
  rollout, model, _ = begin(config, tmp_path)
  keys, states, _ = rollout.start(np.repeat(np.arange(4), 3), None)
  agents = jnp.array(np.repeat([0, 1, 0, 1], 3), jnp.int32)
  params = nnx.state(model.module)
  turns = config.play.max_turns
  past = self_play.PastSelf(params, agents)
  games = greedy_sampler(rollout, config)(params, keys, states, past=past)
  both = greedy_sampler(rollout, config, max_turns=2 * turns)
  whole = both(params, keys, states)
  split = self_play.by_seat(catalog.of(config).mirror(), whole, 3)
  # Groups of three games, of seat 0 and of seat 1 in turn.
  rows = np.array([n // 3 * 6 + n // 3 % 2 * 3 + n % 3 for n in range(12)])
  expected = jax.tree.map(lambda leaf: leaf[rows], split)
  assert not expected.turn_mask[:, turns:].any()
  for name in ("ending", "state"):
    assert_equal(getattr(games, name), getattr(expected, name))
  for name in ("states", "turn_mask", "moves", "actions", "action_mask"):
    cut = jax.tree.map(lambda leaf: leaf[:, :turns], getattr(expected, name))
    assert_equal(getattr(games, name), cut)
  # Caches of other sizes round otherwise.
  log_probs = expected.log_probs[:, :turns]
  np.testing.assert_allclose(games.log_probs, log_probs, atol=1e-5)


@pytest.mark.slow
def test_a_step_against_greedy_past_weights(tmp_path):
  config = load(opponents={"policy": "greedy"})
  rollout, model, past = begin(config, tmp_path)
  set_values(model, other_values(model, 1))
  games, sequences = rollout.play(0)
  assert error(model, config, sequences) < 1e-4
  assert rollout._sample_past.num_traces == 1
  game = catalog.of(config)
  env = game.mirror()
  answer = sampler.Sampler(
    rollout._policy,
    env,
    rollout.tables,
    dataclasses.replace(
      sampler.greedy_single_moves(config.play), constrained="legal"
    ),
  )
  params = past.draw(0, model.module)
  keys = jax.random.split(jax.random.key(0), 12)

  def reply(states):
    """Returns the states after the greedy moves of the past weights."""
    moves = answer(params, keys, states).moves[:, 0]
    return jax.vmap(env.step)(states, moves)

  _, states, _ = rollout.start(np.repeat(np.arange(4), 3), None)
  is_o = np.repeat([0, 1, 0, 1], 3) == 1
  opened = jax.device_get(reply(states))
  np.testing.assert_array_equal(games.states.board[is_o, 0], opened.board[is_o])
  count = 0
  for turn in range(4):
    at = jax.tree.map(
      lambda leaf, t=turn: jnp.asarray(leaf[:, t]), games.states
    )
    after = jax.vmap(env.step)(at, jnp.maximum(games.moves[:, turn], 0))
    replied = jax.device_get(reply(after))
    goes_on = games.turn_mask[:, turn + 1]
    found = games.states.board[goes_on, turn + 1]
    np.testing.assert_array_equal(found, replied.board[goes_on])
    count += goes_on.sum()
  assert count > 20 and game.seats


def test_a_past_self_that_answers_badly_has_lost(tmp_path):
  config = load(rollout={"constrained": False, "temperature": 1.0})
  rollout, _, _ = begin(config, tmp_path)
  games, _ = rollout.play(0)
  is_x = np.repeat([0, 1, 0, 1], 3) == 0
  faults = {Ending.PARSE_ERROR, Ending.LENGTH}
  assert {*games.ending[is_x].tolist()} <= faults
  assert games.turn_mask[is_x].sum(axis=1).tolist() == [1] * 6
  # X is the past self, and has the first turn.
  assert games.ending[~is_x].tolist() == [Ending.WIN] * 6
  assert not games.turn_mask[~is_x].any()


@pytest.mark.slow
def test_a_game_does_not_depend_on_those_beside_it(tmp_path):
  # In Leduc poker a seat may end a round of bets and begin the next one.
  config = load("leduc_poker")
  rollout, model, past = begin(config, tmp_path)
  set_values(model, other_values(model, 1))
  groups = np.repeat(np.arange(8), 3)
  keys, states, _ = rollout.start(groups, None)
  agents = jnp.asarray(groups % 2, jnp.int32)
  other = self_play.PastSelf(past.draw(0, model.module), agents)
  played = []
  for rows_at_once in (5, 24):
    sample = sampler.Sampler(
      rollout._policy,
      catalog.of(config).mirror(),
      rollout.tables,
      config.play,
      config.rollout,
      rows_at_once=rows_at_once,
      is_self_play=True,
    )
    params = nnx.state(model.module)
    played.append(jax.device_get(sample(params, keys, states, past=other)))
  few, many = played
  assert_equal(few.state, many.state)
  np.testing.assert_array_equal(few.ending, many.ending)
  np.testing.assert_array_equal(few.moves, many.moves)
  assert (few.ending == Ending.LENGTH).any()


def test_random_players_replace_weights_that_there_are_not_yet(tmp_path):
  opponents = {
    "random": [0.25, 0.25],
    "optimal": [0.5, 0.5],
    "past_selves": [0.25, 0.25],
  }
  config = load(opponents=opponents)
  pool = opponent_pool.OpponentPool(config, tmp_path)
  assert past_weights.steps(config) == {3}
  assert pool.opponent(2).args[0].tolist() == [0.25, 0.5]
  assert pool.opponent(3).args[0].tolist() == [1, 0]
  model = load_model(config)
  past = past_weights.PastWeights(model, config, tmp_path)
  assert past.draw(3, model.module) is None
  past.add_if_due(1)
  assert past.draw(2, model.module) is None
  assert past.draw(3, model.module) is not None
  assert not pool.is_due(1)


@pytest.mark.parametrize(
  "lora", [None, pytest.param({"rank": 2}, marks=pytest.mark.slow)]
)
def test_what_is_kept_and_drawn(lora, tmp_path):
  config = load(
    opponents={"add_every_n_steps": 2},
    training={"max_steps": 40, "batch_size": 12},
    **({"lora": lora} if lora else {}),
  )
  model = load_model(config)
  trained = specs.parameters(model.module, model.trainable)
  assert (len(trained) < len(specs.parameters(model.module))) == bool(lora)
  past = past_weights.PastWeights(model, config, tmp_path)
  frozen = specs.parameters(model.module)
  after, opponents = {}, tmp_path / run_directory.OPPONENTS
  for step in range(1, 13):
    set_values(model, other_values(model, step))
    after[step] = jax.device_get(specs.parameters(model.module))
    past.add_if_due(step)
    if step == 5:
      # As if a run had been saved here.
      (tmp_path / run_directory.CHECKPOINTS / "5").mkdir(parents=True)
    assert len(past._weights) == min(step // 2, 2)
    if step == 1:
      assert not opponents.exists()
      continue
    of_checkpoint = {2, 4} if step > 5 else set()
    last = {n for n in range(2, step + 1, 2) if n > step - 4 - step % 2}
    names = {int(path.stem) for path in opponents.iterdir()}
    assert names == last | of_checkpoint
  assert not list(opponents.glob(".*"))
  saved = checkpoints.describe(opponents / "12.model")
  assert (saved.lora is not None) == bool(lora)
  checkpoints.read_params(opponents / "12.model", trained)
  loaded = checkpoints.load(opponents / "12.model").module
  assert_equal(specs.parameters(loaded), after[12])

  def met(pool, steps):
    """Returns which steps' weights are the opponents, after a check of all."""
    found = set()
    for step in steps:
      state = pool.draw(step, model.module)
      values = {
        ".".join(map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(state)
      }
      same = [
        n
        for n, each in after.items()
        if all((each[name] == values[name]).all() for name in trained)
      ]
      found |= {*same}
      for name in frozen.keys() - trained.keys():
        np.testing.assert_array_equal(values[name], frozen[name])
    return found

  assert met(past, range(20)) == {10, 12}
  again = past_weights.PastWeights(model, config, tmp_path)
  again.restore(5)
  assert met(again, range(20)) == {2, 4}
  again.restore(12)
  for step in range(20):
    this, that = (pool.draw(step, model.module) for pool in (past, again))
    assert_equal(this, that)
  (opponents / "10.model" / checkpoints.MODEL_JSON).write_text("{}")
  with pytest.raises(
    errors.UserError, match="10.model/model.json: has changed"
  ):
    again.restore(12)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "context", "changes"),
  [
    ("tictactoe", "board", {}),
    ("kuhn_poker", "full", {}),
    ("kuhn_poker", "board", {"mesh": {"layout": "split"}}),
    ("kuhn_poker", "board", {"mesh": {"fsdp": 2}}),
    (
      "kuhn_poker",
      "board",
      {"rollout": {"constrained": "legal", "max_staleness": 1}},
    ),
  ],
)
def test_a_run_against_past_weights_is_resumed_exactly(
  name, context, changes, tmp_path
):
  config = load(
    name,
    context,
    opponents={
      "random": [0.5, 0.0],
      "past_selves": [0.5, 1.0],
      "exploiter": [0.5, 0.5] if name == "tictactoe" else [0.0, 0.0],
      "policy": "greedy",
    },
    training={"max_steps": 6, "batch_size": 12, "eval_every_n_steps": 6},
    checkpoint={"save_interval_steps": 3},
    **(changes or {"lora": {"rank": 2}}),
  )
  run = test_grpo.train(config, tmp_path / "run")
  found, weights = test_grpo.rows(run), test_grpo.final(run)
  opponents = run / run_directory.OPPONENTS
  kept = ["2.model", "3.model", "5.model", "6.model"]
  assert sorted(p.name for p in opponents.glob("*.model")) == kept
  games = (run / run_directory.ROLLOUTS).read_text()
  shutil.copytree(run, tmp_path / "damaged")
  recipes.resume(run, config, step=3)
  assert test_grpo.rows(run) == found and test_grpo.final(run) == weights
  assert (run / run_directory.ROLLOUTS).read_text() == games
  assert sorted(p.name for p in opponents.glob("*.model")) == kept
  (superseded,) = run.glob("superseded-*")
  assert {"5.model", "6.model"} <= {p.name for p in superseded.iterdir()}
  run = tmp_path / "damaged"
  shutil.rmtree(run / run_directory.OPPONENTS / "5.model")
  with pytest.raises(
    errors.UserError, match="5.model/digests.json.*resume from step 3"
  ):
    recipes.resume(run, config, step=6)
  assert not [*run.glob("superseded-*")]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"episodes": {"source": "positions"}},
      "opponents.pool: weights: positions are single moves, which past weights",
    ),
    (
      {"episodes": {"agent": "both"}},
      "opponents: with episodes.agent: both the model is its own opponent",
    ),
  ],
)
def test_wrong_settings(changes, message):
  with pytest.raises(errors.UserError, match=message):
    load(**changes)


def test_a_puzzle_has_no_second_seat():
  settings = {
    **test_self_play.SETTINGS,
    "game": {"name": "frozen_lake"},
    "episodes": {},
    "opponents": OPPONENTS,
  }
  config = config_lib.load(config_lib.GRPOConfig, settings)
  message = "opponents.pool: weights: frozen_lake is not a game of two seats"
  with pytest.raises(errors.UserError, match=message):
    grpo_plan.plan(config)
