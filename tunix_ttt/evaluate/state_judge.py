"""Judges a model exactly from its answers to all observations of a game."""

from collections.abc import Iterator
import functools
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import best_responses
from tunix_ttt.evaluate import decisions
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib


class StateJudge:
  """Judges a greedy model exactly from its answer to each observation.

  Attributes:
    game: Game of the model.
    exact: States and decisions of the game.
    player: The model as a player of single decisions.
  """

  def __init__(
    self,
    model: model_player.Model,
    config: config_lib.SFTConfig,
  ):
    """Lists the states of the game; compiles on the first call.

    Raises:
      errors.UserError: If the game cannot be judged by states, or the limits
        leave no room for an answer.
    """
    self.game = catalog.of(config)
    self.exact = exact_play_of(config)
    play = sampler.greedy_single_moves(config.play)
    env = decisions.SingleTurn(self.game.environment())
    self.player = model_player.of(model, config, env, play)
    self._batch_size = play.batch_size

  def __call__(
    self, *, in_training: bool = False
  ) -> Iterator[tuple[str, rates_lib.Exact, trajectory_lib.Trajectory]]:
    """Yields the name, the results and the answers of each seat."""
    for seat, name in enumerate(self.game.seats):
      listed = self.exact.decisions[seat]
      states = self.game.agent_states(listed.states, seat)

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


def exact_play_of(config: config_lib.SFTConfig) -> best_responses.BestResponses:
  """Returns the states of a config's game, to judge single answers by.

  Raises:
    errors.UserError: If the game cannot be judged by states, or its settings let
      a game depend on more.
  """
  if config.play.context != "board":
    raise errors.UserError(
      f"play.context: {config.play.context}: {config.game.name} is judged exactly"
      " on single observations; set it to board, or judge by sampled games"
      " (exhaustive_eval: false)"
    )
  game = catalog.of(config)
  exact = shared_play(game)
  needed = max(map(exact.most_turns, range(len(game.seats))))
  if config.play.max_turns < needed:
    raise errors.UserError(
      f"play.max_turns: {config.play.max_turns} cuts games of {game.name}, which"
      f" exact results do not cover; set it to {needed}"
    )
  return exact


@functools.lru_cache(maxsize=2)
def shared_play(game: definition.Definition) -> best_responses.BestResponses:
  """Returns the states of a game, listed once for all who judge it."""
  return best_responses.BestResponses(game)
