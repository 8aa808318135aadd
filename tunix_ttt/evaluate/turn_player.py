"""Plays games turn by turn on the host, from answers to their observations.

A greedy player that sees the present observation alone always answers it alike, so
it is asked once for all games of a batch that show it.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import decisions
from tunix_ttt.evaluate import model_player
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
# Number of observations that a model answers at once.
_BATCH = 64


class Answers(NamedTuple):
  """Answers in N states, of at most A tokens each; see `Trajectory`.

  Attributes:
    moves: Actions, -1 for unreadable answers, int32 [N].
    faults: `Ending` of the game after an answer without a move, int8 [N].
    actions: Tokens, int32 [N, A].
    action_mask: Mask of the tokens, bool [N, A].
    log_probs: Log-probabilities of the tokens, float32 [N, A].
  """

  moves: Any
  faults: Any
  actions: Any
  action_mask: Any
  log_probs: Any


class TurnPlayer:
  """Plays whole games by answers, as `model_player.Player` does by a model."""

  def __init__(
    self,
    game: definition.Definition,
    answer: Callable[[Any], Answers],
    decode: Callable[[list[int]], str],
    *,
    num_turns: int,
    env: Any = None,
  ):
    """Compiles on the first call.

    Args:
      game: Game to play.
      answer: Function from N states, at least one, to the answers.
      decode: Function from the token ids of an answer to its text.
      num_turns: Maximum number of turns in a game.
      env: Environment of the game; None for one with a random opponent.
    """
    self.game, self.decode = game, decode
    env = game.environment() if env is None else env
    self._answer, self._num_turns = answer, num_turns
    begin = self.game.begin
    self._begin = jax.jit(jax.vmap(lambda key, seat: begin(env, key, seat)))
    self._step = jax.jit(jax.vmap(env.step))
    self._outcome = jax.jit(jax.vmap(env.outcome))

  def begin(self, keys: jax.Array, seats: jax.Array) -> Any:
    """Returns the first states of B games."""
    return self._begin(keys, seats)

  def __call__(self, keys: Any, states: Any) -> trajectory_lib.Trajectory:
    """Plays a game from each of B states; the keys have no effect."""
    del keys
    states = jax.device_get(states)
    ending, turns = np.array(self._outcome(states)), []
    while len(turns) < self._num_turns:
      active = ending == Ending.ONGOING
      if turns and not active.any():
        nothing = jax.tree.map(np.zeros_like, turns[0][3:])
        turns.append((states, active, np.full_like(turns[0][2], -1), *nothing))
        continue
      rows = np.flatnonzero(active)
      answers = self._answer(jax.tree.map(lambda leaf, n=rows: leaf[n], states))
      moves, faults, *tokens = (
        _scatter(leaf, rows, len(active)) for leaf in answers
      )
      moves = np.where(active, moves, -1)
      turns.append((states, active, moves, *tokens))
      is_played = moves >= 0
      after = jax.device_get(self._step(states, jnp.asarray(moves)))
      outcome = np.where(is_played, self._outcome(after), faults)
      ending = np.where(active, outcome, ending).astype(np.int8)
      states = jax.tree.map(
        lambda new, old, mask=is_played: np.where(
          mask.reshape(-1, *[1] * (new.ndim - 1)), new, old
        ),
        after,
        states,
      )
    last = Ending.UNFINISHED if self._num_turns == 1 else Ending.LENGTH
    ending[ending == Ending.ONGOING] = last
    past, mask, moves, actions, action_mask, log_probs = jax.tree.map(
      lambda *rows: np.stack(rows, axis=1), *turns
    )
    fields: dict[str, Any] = {
      "ending": ending,
      "state": states,
      "states": past,
      "retried": np.zeros_like(mask),
      "turn_mask": mask,
      "moves": moves,
      "actions": actions,
      "action_mask": action_mask,
      "log_probs": log_probs,
    }
    return trajectory_lib.Trajectory(**fields)


class GreedyAnswers:
  """A greedy model's answers to single observations.

  Attributes:
    player: The model as a player of single turns, whose `params` answer.
  """

  def __init__(self, model: checkpoints.Model, config: config_lib.SFTConfig):
    """Builds the sampler; compiles on the first call.

    Raises:
      errors.UserError: as `model_player.Player` does.
    """
    self._game = catalog.of(config)
    play = sampler.greedy_single_moves(config.play)
    env = decisions.SingleTurn(self._game.environment())
    self.player = model_player.Player(model, config, env, play)
    self._keys = streams.keys(
      0, streams.Stream.GREEDY, last=jnp.arange(min(_BATCH, play.batch_size))
    )

  def __call__(self, states: Any) -> Answers:
    """Returns the answers in N states, asking once for each observation."""
    seats, places = (
      self._game.seat_numbers(states),
      self._game.positions(states),
    )
    first, same = distinct([seats, *jax.tree.leaves(places)])
    batches, size = [], len(self._keys)
    for start in range(0, len(first), size):
      # Repeated observations fill the last batch.
      rows = first[np.arange(start, start + size) % len(first)]
      batch = jax.tree.map(lambda leaf, n=rows: leaf[n], states)
      games = self.player(self._keys, batch)
      batches.append(
        Answers(
          games.moves[:, 0],
          games.ending,
          games.actions[:, 0],
          games.action_mask[:, 0],
          games.log_probs[:, 0],
        )
      )
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[same], *batches)


def of_model(
  model: checkpoints.Model, config: config_lib.SFTConfig
) -> tuple[TurnPlayer, GreedyAnswers]:
  """Returns a greedy model as a player of whole games, and its answers.

  Raises:
    errors.UserError: as `model_player.Player` does.
  """
  answers, play = GreedyAnswers(model, config), config.play
  game, decode = catalog.of(config), model.tokenizer.decode
  player = TurnPlayer(game, answers, decode, num_turns=play.max_turns)
  return player, answers


def distinct(leaves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Finds equal rows of arrays [N, ...].

  Returns the index of the first of each set of equal rows, int [K], and the
  number of each row's set, int [N].
  """
  rows = [leaf.reshape(len(leaf), math.prod(leaf.shape[1:])) for leaf in leaves]
  joined = np.concatenate([row.astype(np.float64) for row in rows], axis=1)
  _, first, same = np.unique(
    joined, axis=0, return_index=True, return_inverse=True
  )
  return first, same.ravel()


def _scatter(leaf: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
  """Returns `count` rows with those of `leaf` at the numbers `rows`, 0 elsewhere."""
  full = np.zeros((count, *leaf.shape[1:]), leaf.dtype)
  full[rows] = leaf
  return full
