"""Tests the games of a step and the batches made of them."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt.games import catalog
from tunix_ttt.games import players
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.train import game_batches
from tunix_ttt.train import game_rollout
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import reference_log_probs


def rows(num_rows: int, used: list[int], length: int = 60):
  """Rows of 20 tokens, of which the last one is trained in those in use."""
  mask = np.tile(np.arange(length) < 20, (num_rows, 1))
  trained = np.zeros_like(mask)
  trained[used, 19] = True
  tokens = np.arange(num_rows)[:, None] * mask
  return {"tokens": tokens, "mask": mask, "trained": trained}


@pytest.mark.parametrize("num_used", [0, 3, 1280])
def test_trained_rows_come_first(num_used):
  rng = np.random.default_rng(0)
  used = np.sort(rng.permutation(1280)[:num_used])
  packed = game_batches.pack(rows(1280, used.tolist()))
  shape = 1280, 32 if num_used else 16
  assert {value.shape for value in packed.values()} == {shape}
  np.testing.assert_array_equal(packed["tokens"][:num_used, 0], used)
  assert packed["trained"].sum() == num_used
  assert not packed["mask"][num_used:].any()


@pytest.mark.parametrize("opponent_seed", ["group", "game"])
def test_what_the_games_of_a_group_share(opponent_seed, tmp_path):
  config = dataclasses.replace(
    config_lib.GRPOConfig(model=conftest.SMALL_MODEL),
    episodes=config_lib.EpisodesConfig(opponent_seed=opponent_seed),
  )
  model = reference_log_probs.base_model(config)
  pool = opponent_pool.OpponentPool(config, tmp_path)
  rollout = game_rollout.GameRollout(model, config, pool)
  keys, states, _ = rollout.start(np.repeat(np.arange(4), 8), pool.opponent(0))
  drawn = np.asarray(states.opponent_seed).reshape(4, 8)
  assert len(np.unique(drawn)) == (32 if opponent_seed == "game" else 4)
  agents = np.asarray(states.agent).reshape(4, 8)
  assert (agents == agents[:, :1]).all() and len(np.unique(agents)) == 2
  assert len(np.unique(jax.random.key_data(keys), axis=0)) == 32


def test_prompts_come_again_once_all_have_come(tmp_path):
  plain = config_lib.GRPOConfig(model=conftest.SMALL_MODEL)
  config = dataclasses.replace(
    plain,
    data=config_lib.DataConfig(path="prompts.jsonl"),
    episodes=config_lib.EpisodesConfig(source="prompts"),
  )
  model = reference_log_probs.base_model(plain)
  asked = [
    board_positions.Position(board_text.from_text(text), cell)
    for text, cell in (("." * 9, None), ("X........", 0), ("XO.......", 1))
  ]
  pool = opponent_pool.OpponentPool(config, tmp_path)
  rollout = game_rollout.GameRollout(model, config, pool, asked)
  _, states, _ = rollout.start(np.repeat(np.arange(6), 8), pool.opponent(0))
  shown = np.asarray(states.board).reshape(6, 8)
  assert (shown == shown[:, :1]).all()
  for epoch in (shown[:3, 0], shown[3:, 0]):
    assert sorted(epoch.tolist()) == sorted(each.board for each in asked)
  last = {each.board: each.last_move for each in asked}
  for board, agent, cell in zip(
    states.board.tolist(),
    states.agent.tolist(),
    states.last_move.tolist(),
    strict=True,
  ):
    assert agent == rules.side_to_move()[board]
    assert (None if cell < 0 else cell) == last[board]


@pytest.mark.parametrize(
  "opponents",
  [
    {"random": [0.0, 0.0], "mcts": {"simulations": 4}},
    pytest.param({"custom": "mcts:4"}, marks=pytest.mark.slow),
  ],
)
def test_an_opponent_of_each_kind_moves_legally(opponents, tmp_path):
  settings = {"opponents": opponents, "game": {"name": "tic_tac_toe"}}
  config = config_lib.load(config_lib.GRPOConfig, settings)
  pool = opponent_pool.OpponentPool(config, tmp_path)
  game = catalog.of(config)
  position = game.game.init(jax.random.key(0))
  for turn in range(3):
    keys = players.Keys(*jax.random.split(jax.random.key(turn)))
    move = jax.jit(pool.opponent(0))(keys, position)
    assert game.game.legal(position)[move]
    position = game.game.step(position, move)
