"""Judges a model exactly from its answers to all observations of a game."""

from collections.abc import Iterator
import functools
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import decisions
from tunix_ttt.evaluate import exact_play
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib


class StateJudge:
  """Judges a greedy model exactly from its answer to each observation.

  Attributes:
    game: Game of the model.
    exact: States and decisions of the game.
    player: The model as a player of single decisions.
  """

  def __init__(self, model: checkpoints.Model, config: config_lib.SFTConfig):
    """Lists the states of the game; compiles on the first call.

    Raises:
      errors.UserError: If the game cannot be judged by states, or the limits
        leave no room for an answer.
    """
    if config.play.context != "board":
      raise errors.UserError(
        f"play.context: {config.play.context}: {config.game.name} is judged exactly"
        " on single observations; set it to board, or judge by sampled games"
        " (exhaustive_eval: false)"
      )
    self.game = catalog.of(config)
    self.exact = shared_play(self.game)
    seats = range(len(self.game.seats))
    needed = max(map(self.exact.most_turns, seats))
    if config.play.max_turns < needed:
      raise errors.UserError(
        f"play.max_turns: {config.play.max_turns} cuts games of"
        f" {self.game.name}, which exact results do not cover; set it to {needed}"
      )
    play = sampler.greedy_single_moves(config.play)
    self.player = model_player.Player(
      model, config, decisions.SingleTurn(), play
    )
    self._batch_size = play.batch_size

  def __call__(
    self, *, in_training: bool = False
  ) -> Iterator[tuple[str, rates_lib.Exact, trajectory_lib.Trajectory]]:
    """Yields the name, the results and the answers of each seat."""
    for seat, name in enumerate(self.game.seats):
      listed = self.exact.decisions[seat]
      states = listed.view_states()

      def draw(
        numbers: jax.Array, states: Any = states, total: int = len(listed)
      ) -> tuple[jax.Array, Any]:
        # Repeated decisions fill the last batch.
        numbers = numbers % total
        keys = streams.keys(0, streams.Stream.GREEDY, last=numbers)
        return keys, jax.tree.map(lambda leaf: leaf[numbers], states)

      answers = model_player.play_batches(
        self.player,
        draw,
        len(listed),
        min(self._batch_size, len(listed)),
        name=name,
        leave=not in_training,
      )
      policy = decisions.of_answers(answers, self.game.game.num_actions)
      verdict = self.exact.judge(seat, policy)
      yield name, rates_lib.exact_of_states(verdict), answers


@functools.lru_cache(maxsize=2)
def shared_play(game: definition.Definition) -> exact_play.ExactPlay:
  """Returns the states of a game, listed once for all who judge it."""
  return exact_play.ExactPlay(game)
