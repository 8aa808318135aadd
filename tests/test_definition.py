"""Tests games by name, and what the engine asks of any game."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests import test_grpo
from tests import test_sampler
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt import streams
from tunix_ttt import testing
from tunix_ttt.evaluate import partner as partner_lib
from tunix_ttt.evaluate import rates
from tunix_ttt.games import catalog
from tunix_ttt.games import players as players_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import tables
from tunix_ttt.text import tokenizers

model = test_sampler.model
OPTIONS: dict[str, Any] = {"frozen_lake": {"max_moves": 5}}


@pytest.fixture
def kuhn():
  return catalog.load("kuhn_poker")


def test_every_folder_defines_a_game():
  names = catalog.names()
  assert {"connect_four", "kuhn_poker", "leduc_poker", "tictactoe"} <= {*names}
  for name in set(names) - {"connect_four", "leduc_poker"}:
    game = catalog.load(name, **OPTIONS.get(name, {}))
    assert game.name == name and len(game.seats) == game.game.num_seats
    testing.check_game(game.game, game.text, num_games=5)


@pytest.mark.parametrize(
  "name, options, message",
  [
    ("nope", {}, "game.name: nope: none of connect_four, .*no game of this"),
    ("../x", {}, "game.name: "),
    ("kuhn_poker", {"x": 1}, "unexpected keyword argument 'x'; it has none"),
    ("frozen_lake", {"x": 1}, "'x'; its options are max_moves"),
    ("json:dumps", {"obj": 1}, "expected a games.definition.Definition, found"),
    ("json:nothing", {}, "the module json has no function nothing"),
  ],
)
def test_wrong_names_and_options(name, options, message):
  pytest.importorskip("pgx")
  with pytest.raises(errors.UserError, match=message):
    catalog.load(name, **options)


def test_a_game_is_made_once():
  assert catalog.load("kuhn_poker") is catalog.load("kuhn_poker")
  lakes = [catalog.load("frozen_lake", max_moves=n) for n in (3, 4)]
  assert lakes[0] is not lakes[1]


def test_seats_have_the_names_of_the_game(kuhn):
  assert kuhn.seat_number("Second player", "key") == 1
  with pytest.raises(errors.UserError, match="key: 'x' is no seat of kuhn"):
    kuhn.seat_number("x", "key")


@pytest.mark.parametrize(
  "name, message",
  [
    ("optimal", "play.opponent: needs an exact solver: KuhnPoker hides"),
    ("epsilon-optimal:x", "expected a probability, as in epsilon-optimal:0.3"),
    ("mcts:x", "expected a number of simulations, as in mcts:16"),
    ("nobody", "there is no opponent 'nobody'; use random, optimal"),
  ],
)
def test_opponents_that_a_game_does_not_have(kuhn, name, message):
  with pytest.raises(errors.UserError, match=message):
    kuhn.player(name, "play.opponent")


def test_a_mixture_plays_as_often_as_each_share_says(kuhn):
  count, position = 4000, kuhn.game.init(None)
  for card in (0, 2):
    position = kuhn.game.step(position, jnp.int32(card))
  tables_ = np.full((2, kuhn.num_positions), -1, np.int8)
  tables_[0] = 1
  mix = kuhn.mixture([kuhn.player("random", "key")])

  def play(key):
    keys = players_lib.Keys(*jax.random.split(key))
    shares = jnp.array([2.0, 1.0, 1.0])
    return mix(shares, jnp.asarray(tables_), keys, position)

  moves = jax.vmap(play)(jax.random.split(jax.random.key(0), count))
  # The second table has no legal move, and a random one replaces it.
  rate = 0.5 * 0.5 + 0.25 + 0.25 * 0.5
  number = int((moves == 1).sum())
  assert stats.binomtest(number, count, rate).pvalue > 1e-3


def test_tables_of_moves_have_each_position_with_a_seat_to_act(kuhn):
  numbers, states = kuhn.turns()
  assert len(numbers) == 24 and kuhn.num_positions == 58
  seats = np.asarray(jax.vmap(kuhn.game.to_act)(states.game))
  np.testing.assert_array_equal(seats, states.seat)
  index = jax.vmap(kuhn.graph.index)(states.game)
  np.testing.assert_array_equal(index, numbers)


def test_random_positions_are_all_of_a_seat(kuhn):
  keys = streams.keys(0, streams.Stream.GROUP_STARTS, last=jnp.arange(600))
  found = jax.vmap(lambda key: kuhn.random_position((key, key), 1))(keys)
  assert (jax.vmap(kuhn.game.to_act)(found) == 1).all()
  assert len(np.unique(jax.vmap(kuhn.graph.index)(found))) == 12


def test_regret_of_a_solved_game():
  lake = catalog.load("frozen_lake", max_moves=5)
  env = lake.environment()
  keys = jax.random.split(jax.random.key(1), 7)
  states = jax.vmap(env.init, (0, None))(keys, 0)
  moves = np.array([0, 1, 2, 3, -1, 0, 1])
  found = lake.regret(states, moves)
  values = np.asarray(
    lake.solution.action_values[
      int(lake.solution.index(jax.tree.map(lambda leaf: leaf[0], states.game)))
    ]
  )
  expected = np.where(moves < 0, 1, values.max() - values[moves])
  np.testing.assert_allclose(found, expected, atol=1e-6)
  np.testing.assert_array_equal(lake.is_ahead(states), [values.max() > 0] * 7)


def test_points_are_shares_of_the_returns(kuhn):
  result = rates.Exact(
    lines=1,
    lines_lost=0,
    worst="win",
    random={},
    returns={"random": 1.0, "worst": -2.0},
  )
  assert rates.points(kuhn, result, "random") == [0.75]


def test_symbols_are_tokens_of_a_trained_tokenizer(kuhn):
  texts = [f"user\n{kuhn.text.rules}\n\nYour card: king.\nPass or bet?"]
  trained = tokenizers.train_tokenizer(texts * 9, 512, kuhn.symbols(512))
  rules = f"user\n{kuhn.text.rules}\n\n"
  assert len(trained.encode(rules)) == 1
  assert tables.build(kuhn, trained).observations.max_begin < 14


@pytest.fixture(scope="module")
def config():
  return config_lib.load(
    config_lib.GRPOConfig,
    {
      **config_lib.to_dict(test_grpo.CONFIG),
      "game": {"name": "kuhn_poker"},
      "data": {
        "games": {"num_games": 40, "expert": "random", "thoughts": "none"}
      },
      "opponents": {
        "random": [0.5, 0.5],
        "past_selves": [0.5, 0.5],
        "add_every_n_steps": 1,
        "pool_size": 2,
      },
      "episodes": {"starts": 0.5},
      "rewards": {"outcome": {"weight": 0.0}, "return_weight": 1.0},
      "exhaustive_eval": True,
    },
  )


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
  return recipes.train_grpo(config, tmp_path_factory.mktemp("kuhn") / "run")


@pytest.mark.slow
def test_a_run_of_poker_has_its_words_and_its_numbers(run, config):
  rows = test_grpo.rows(run)
  last = rows[-1]
  for seat in ("first player", "second player"):
    assert 0 <= last[f"{seat}/random/win_rate"] <= 1
    assert -2 <= last[f"{seat}/return/random"] <= 2
    assert 0 <= last[f"{seat}/lines_lost"] <= last[f"{seat}/lines"]
  assert "optimal_move_rate" not in rows[1]
  assert -2 <= rows[1]["mean_return"] <= 2
  assert rows[1]["reward/return"] == pytest.approx(rows[1]["mean_return"])
  game = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
  assert game["game"] == "kuhn_poker" and "card: " in game["final"]
  saved = checkpoints.describe(run)
  assert saved.game == "kuhn_poker"
  assert len(list((run / "opponents").glob("*.bin"))) == 4


@pytest.mark.slow
def test_a_resumed_run_of_poker_is_the_same(run, config, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(run, copy)
  recipes.resume(copy, step=2)
  assert test_grpo.rows(copy) == test_grpo.rows(run)
  assert test_grpo.final(copy) == test_grpo.final(run)


@pytest.mark.slow
def test_a_person_plays_poker(run, config):
  trained = checkpoints.load(run)
  partner = partner_lib.Partner(trained, config, seed=1)
  told: list[str] = []
  value = partner_lib.play(
    partner, "second player", lambda _: "bet", told.append
  )
  assert value in (-2.0, -1.0, 1.0, 2.0)
  text = "\n".join(told)
  assert "Moves: pass, bet; u takes" in text
  assert "The model: " in text and "Your card: " in text
  played = partner_lib.self_play(
    partner_lib.Partner(trained, config, seed=1, num_games=5), 5
  )
  assert sum(played.endings.values()) == 5 and played.num_optimal is None
  full = dataclasses.replace(config.play, context="full")
  with pytest.raises(errors.UserError, match="is played move by move"):
    partner_lib.Partner(trained, dataclasses.replace(config, play=full))


@pytest.mark.slow
def test_a_model_of_another_game_is_refused(run, config):
  changed = dataclasses.replace(
    config,
    game=config_lib.GameConfig(name="leduc_poker"),
    model=config_lib.ModelConfig(name=str(run / "checkpoint-final")),
  )
  with pytest.raises(
    errors.UserError, match="trained on kuhn_poker, but game.name is leduc"
  ):
    recipes.train_grpo(changed, run.parent / "other")


@pytest.mark.parametrize(
  "section, changes, message",
  [
    ("rewards", {"regret_weight": 1.0}, "rewards.regret_weight: needs an"),
    ("rewards", {"optimal_move_weight": 1.0}, "rewards.optimal_move_weight: "),
    (
      "rewards",
      {"move_quality": config_lib.MoveQualityConfig(weight=1.0)},
      "kuhn_poker has no kinds of moves",
    ),
    ("opponents", {"optimal": (1.0, 1.0)}, "opponents.optimal: needs an"),
    ("episodes", {"agent": "x"}, "episodes.agent: 'x' is no seat of kuhn"),
    ("play", {"max_turns": 1}, "play.max_turns: 1 cuts games of kuhn_poker"),
    ("play", {"context": "full"}, "play.context: full: kuhn_poker is judged"),
  ],
)
def test_settings_that_a_game_does_not_have(
  config, section, changes, message, tmp_path
):
  changed = test_grpo.changed(config, section, **changes)
  with pytest.raises(errors.UserError, match=message):
    recipes.train_grpo(changed, tmp_path / "run")
  assert not (tmp_path / "run").exists()
