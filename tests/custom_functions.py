"""Functions of a user that configs of tests name."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import text_formats


def center(games):
  """Rewards moves in the center."""
  return games.moves == 4


def polite(games, texts):
  """Rewards answers that have a word."""
  assert len(texts) == len(games.moves)
  return [["B2" in text for text in of_game] for of_game in texts]


def sgd(config):
  """Makes plain gradient descent."""
  return optax.sgd(config.learning_rate)


def sign(values, peers):
  """Estimates advantages by the sign alone."""
  return np.sign(values - peers.mean)


def first_cell(opponent_seed, board):
  """Plays the first free cell."""
  mask = opponents.legal_mask(board)
  return jnp.argmax(mask >> jnp.arange(9) & 1).astype(jnp.int32)


def not_traceable(opponent_seed, board):
  """Decides by a Python `if` on an array."""
  return 0 if board == 0 else 1


def a_float(opponent_seed, board):
  """Returns no cell."""
  return jnp.float32(0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terse(text_formats.GridFormat):
  """Grids with a word before them."""

  def observation(self, board, last_move):
    """Describes a board."""
    return f"Position:\n{super().observation(board, last_move)}"
