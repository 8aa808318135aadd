"""The exact distribution of a sampled model's moves, as policies of all seats."""

from typing import Any

from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import exact_play
from tunix_ttt.evaluate import move_probabilities
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import tables as tables_lib


class SampledPolicies:
  """The policy of a model in each seat at a temperature; compiled once.

  The model sees single observations and answers without thoughts.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    game: definition.Definition,
    play: exact_play.ExactPlay,
    *,
    temperature: float = 1.0,
  ):
    """Tokenizes the answers.

    Args:
      model: Model to score.
      game: Game of the model.
      play: Decisions of the game.
      temperature: Sampling temperature.

    Raises:
      errors.UserError: if answers have thoughts.
    """
    self._states = [
      game.agent_states(each.states, seat)
      for seat, each in enumerate(play.decisions)
    ]
    self._score = move_probabilities.MoveProbabilities(
      model,
      game,
      tables_lib.build(game, model.tokenizer),
      sampling_lib.Sampling(temperature=temperature),
    )

  def __call__(self, params: Any = None) -> list[decisions_lib.SeatPolicy]:
    """Returns the policy in each seat; `params` replaces the model's."""
    scored = [self._score(states, params) for states in self._states]
    return [
      decisions_lib.sampled(
        moves.probabilities, moves.unreadable + moves.unresolved
      )
      for moves in scored
    ]
