"""Evaluates a policy during training; returns metrics by name."""

from typing import Any

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.models import checkpoints


class Evaluator:
  """Plays with a model's present parameters; compiled once."""

  def __init__(self, model: checkpoints.Model, config: config_lib.GRPOConfig):
    """Takes the model that is trained and the settings.

    Raises:
      errors.UserError: if there is no such opponent, or no room for an answer.
    """
    self._config = config
    self._env = env_lib.TicTacToe()
    if not config.exhaustive_eval:
      self._env = matches.environment(config.play)
    self._player = matches.Player(model, config, self._env)

  def __call__(self, params: Any) -> dict[str, float]:
    """Returns rates for each mark, and the `score`.

    The score is wins plus half the draws, on average over both marks and, where
    every line is played, over a random and an optimal opponent.
    """
    self._player.params = params
    play, config = self._config.play, self._config
    if config.exhaustive_eval:
      found = matches.exact_matches(self._player, play.batch_size, leave=False)
    else:
      found = matches.sampled_matches(
        self._player,
        self._env,
        play,
        config.seed,
        in_training=True,
        leave=False,
      )
    metrics, scores = {}, []
    for match in found:
      mark, result = prompts.MARK_NAMES[match.agent], match.result
      if isinstance(result, rates_lib.Exact):
        against = {"random": result.random, "optimal": result.optimal}
        metrics[f"{mark}/lines_lost"] = float(result.lines_lost)
      else:
        against = {play.opponent: result.rates}
      for opponent, rates in against.items():
        metrics |= {f"{mark}/{opponent}/{k}": v for k, v in rates.items()}
        scores.append(rates["win_rate"] + rates["draw_rate"] / 2)
      metrics[f"{mark}/optimal_move_rate"] = result.optimal_move_rate
    return metrics | {"score": float(np.mean(scores))}
