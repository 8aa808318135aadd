"""Tests that answers constrained to legal moves end no game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import test_game_tables
from tests import test_sampler
from tests import toy_games
from tunix_ttt import errors
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
model = test_sampler.model
GAMES = 33
MADE = {"tictactoe": {}, "nim": {}} | test_game_tables.MADE


class PrefixText(toy_games.NimText):
  """Text whose spellings begin as others do; the shortest takes three."""

  actions = (("111", "1 stone"), ("11", "11 stones"), ("1", "1 stones"))


def start(name, tokenizer):
  """Returns a game's environment, first states and tables."""
  if name == "connect_four":
    pytest.importorskip("pgx")
  if name == "nim":
    rules = toy_games.Nim()
    game = definition.Definition(name=name, game=rules, text=PrefixText(rules))
  else:
    game = catalog.load(name, **MADE[name])
  env = game.environment()
  keys = jax.random.split(jax.random.key(0), GAMES)
  seats = jnp.arange(GAMES) % len(game.seats)
  begin = jax.jit(jax.vmap(lambda key, seat: game.begin(env, key, seat)))
  return env, begin(keys, seats), tables_lib.build(game, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_no_game_ends_by_an_answer(name, model, tokenizer):
  env, states, tables = start(name, tokenizer)
  policy = model_policy.ModelPolicy(model[1], model[0])
  keys = jax.random.split(jax.random.key(1), GAMES)

  def play(constrained, max_new_tokens):
    config = test_sampler.play_config(
      constrained=constrained, max_new_tokens=max_new_tokens, max_turns=21
    )
    sampler = sampler_lib.Sampler(policy, env, tables, config)
    return jax.device_get(sampler(policy.params, keys, states))

  games = play("legal", tables.min_legal_answer)
  ends = [Ending.WIN, Ending.DRAW, Ending.LOSS]
  assert np.isin(games.ending, ends).all()
  assert games.turn_mask.sum() >= GAMES
  legal = jax.vmap(jax.vmap(env.legal))(games.states)
  moves = games.moves[games.turn_mask]
  assert legal[games.turn_mask][np.arange(len(moves)), moves].all()
  assert games.sampled_mass is not None
  mass = games.sampled_mass[games.action_mask]
  assert (mass > 0).all() and (mass < 1 + 1e-5).all()
  if name not in ("kuhn_poker", "frozen_lake"):
    # All moves of those are legal.
    assert (play(True, 24).ending == Ending.ILLEGAL).any()


def test_every_legal_move_is_played(model, tokenizer):
  env, states, tables = start("nim", tokenizer)
  policy = model_policy.ModelPolicy(model[1], model[0])
  config = test_sampler.play_config(
    constrained="legal", max_new_tokens=tables.min_legal_answer, max_turns=7
  )
  sampler = sampler_lib.Sampler(policy, env, tables, config)
  pairs = set()
  # A few games leave a move out by chance.
  for seed in range(8):
    keys = jax.random.split(jax.random.key(seed), GAMES)
    games = jax.device_get(sampler(policy.params, keys, states))
    stones = games.states.game.stones[games.turn_mask]
    moves = games.moves[games.turn_mask]
    pairs |= {*zip(stones.tolist(), moves.tolist(), strict=True)}
  assert {(n, m) for n in (1, 2, 3) for m in range(n)} <= pairs
  assert all(move < number for number, move in pairs)


def test_limits_that_leave_no_room_for_a_move(model, tokenizer):
  env, _, tables = start("nim", tokenizer)
  policy = model_policy.ModelPolicy(model[1], model[0])
  least = tables.min_legal_answer
  assert least > tables.min_answer

  def refuse(message, **limits):
    config = test_sampler.play_config(constrained="legal", **limits)
    with pytest.raises(errors.UserError, match=message):
      sampler_lib.Sampler(policy, env, tables, config)

  refuse(
    f"max_new_tokens: {least - 1} is too few; use at least {least}, the length"
    " of an answer with any move$",
    max_new_tokens=least - 1,
  )
  needed = tables.observations.max_begin + least
  refuse(
    f"max_game_tokens: {needed - 1} is too few; use at least {needed}, the"
    " length of a board and an answer with any move$",
    max_new_tokens=least,
    max_game_tokens=needed - 1,
  )
