"""Evaluates a model's current parameters during training."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import policy_judge
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.evaluate import sampled_policy
from tunix_ttt.evaluate import state_judge
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory as trajectory_lib

Trajectory = trajectory_lib.Trajectory


class Evaluator:
  """Evaluates a model's current parameters during training; compiled once."""

  def __init__(self, model: model_player.Model, config: config_lib.GRPOConfig):
    """Compiles on the first call.

    Raises:
      errors.UserError: If the opponent does not exist, or the limits leave no
        room for an answer.
    """
    self._config, game, self._judge = config, catalog.of(config), None
    # NashConv of current parameters, where the game has no exact worst return.
    self._nash_conv: Callable[[Any], float] | None = None
    if not config.exhaustive_eval:
      self._player = model_player.of(model, config)
      return
    is_greedy = config.play.temperature == 0
    if game.lines is not None and is_greedy:
      self._play, self._player, self._size = matches.player_of_lines(
        model, config
      )
      return
    if is_greedy:
      self._judge = state_judge.StateJudge(model, config)
      exact = self._judge.exact
      if (
        isinstance(model, checkpoints.Model)
        # A solved game has its worst return.
        and game.unsolved
        and all(map(exact.tells_turns, range(len(game.seats))))
        and game.grammar().texts() is not None
      ):
        policies = sampled_policy.SampledPolicies(
          model, game, exact, temperature=config.rollout.temperature
        )
        self._nash_conv = lambda params: exact.nash_conv(policies(params))
    else:
      self._judge = policy_judge.PolicyJudge(model, config, in_training=True)
    self._player = self._judge.player

  @property
  def params(self) -> Any:
    """Parameters that were evaluated last, at first the model's."""
    return self._player.params

  def __call__(
    self, params: Any, visit: Callable[[Trajectory], Any] = lambda games: None
  ) -> dict[str, float]:
    """Returns the rates in each seat and the `score`.

    The score is the mean share of points (`rates.points`) over seats and, if
    results are exact, over a random and an optimal opponent. `nash_conv`
    is the exploitability of the sampled policy where information is hidden; see
    `BestResponses.nash_conv`. `visit` is called with each
    seat's games, or its answers of one turn, of a greedy model.
    """
    player, play = self._player, self._config.play
    game = player.game
    player.params = params
    if self._judge is not None:
      played = self._judge(in_training=True)
    else:
      if self._config.exhaustive_eval:
        played_matches = matches.exact_matches(
          self._play,
          game,
          self._size,
          decode=player.decode,
          in_training=True,
        )
      else:
        seed = self._config.seed
        played_matches = matches.sampled_matches(
          player, play, seed, in_training=True
        )
      played = ((each.seat, each.result, each.games) for each in played_matches)
    metrics = evaluation_metrics(game, played, play.opponent, visit)
    if self._nash_conv is not None:
      metrics["nash_conv"] = self._nash_conv(params)
    return metrics


def evaluation_metrics(
  game: definition.Definition,
  played: Iterable[Sequence[Any]],
  opponent: str,
  visit: Callable[[Trajectory], Any],
) -> dict[str, float]:
  """Returns the metrics of an evaluation, with the `score`.

  `played` has the seat, the result and the games that `visit` gets, for each seat;
  `opponent` is the one of sampled games.
  """
  metrics: dict[str, float] = {}
  scores: list[float] = []
  for seat, result, *games in played:
    for each in games:
      visit(each)
    for name in ("lines_lost", "lines", *rates_lib.OF_DECISIONS):
      if (value := getattr(result, name, None)) is not None:
        metrics[f"{seat}/{name}"] = float(value)
    for name, rates in result.against(opponent).items():
      metrics |= {f"{seat}/{name}/{k}": v for k, v in rates.items()}
    for name, value in result.returns.items():
      metrics[f"{seat}/return/{name}"] = value
    scores += rates_lib.points(game, result, opponent)
  return metrics | {"score": float(np.mean(scores))}
