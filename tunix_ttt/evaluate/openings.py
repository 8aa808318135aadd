"""A model's first moves, sampled: what it likes before it knows anything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.models import checkpoints
from tunix_ttt.runs import progress

TEMPERATURE = 1.0
NUM_GAMES = 1024


def sample(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  seed: int,
  num_games: int = NUM_GAMES,
) -> game_files.Openings:
  """Asks a model for first moves, as X and as O after each move of X.

  Args:
    model: who is asked.
    config: the settings of its play, but for the temperature, which is 1.
    seed: Random seed for sampling.
    num_games: how often it is asked as X, and as O.

  Raises:
    errors.UserError: see `matches.Player`.
  """
  play = dataclasses.replace(
    config.play, max_turns=1, on_parse_error="end", temperature=TEMPERATURE
  )
  env = env_lib.TicTacToe()
  player = matches.Player(model, config, env, play)
  size = min(play.batch_size, num_games)
  counts = np.zeros((rules.NUM_CELLS + 1, rules.NUM_CELLS + 1), int)
  init = jax.jit(jax.vmap(env.init))
  with progress.stage("asking for openings"):
    for agent in (rules.X, rules.O):
      for first in range(0, num_games, size):
        numbers = jnp.arange(first, first + size)
        keys = streams.keys(
          seed, streams.Stream.OPENING_TOKENS, agent, last=numbers
        )
        marks = jnp.full(size, agent, jnp.int8)
        games = player(keys, init(_luck(numbers), marks))
        kept = slice(num_games - first)
        before = np.asarray(games.last_moves)[kept, 0]
        moves = np.asarray(games.moves)[kept, 0]
        # -1, for no cell, is the last row and the last column.
        np.add.at(counts, (before, np.where(moves == before, -1, moves)), 1)
  return game_files.Openings(
    temperature=TEMPERATURE,
    x=counts[-1].tolist(),
    o={
      prompts.coordinate(cell): counts[cell].tolist()
      for cell in range(rules.NUM_CELLS)
    },
  )


def _luck(numbers: jax.Array) -> jax.Array:
  """Returns lucks of which nine in a row open with the nine cells."""
  openings = np.arange(rules.NUM_CELLS, dtype=np.uint64)
  middles = (2 * openings + 1) * 2**31 // rules.NUM_CELLS
  return jnp.asarray(middles.astype(np.uint32))[numbers % rules.NUM_CELLS]
