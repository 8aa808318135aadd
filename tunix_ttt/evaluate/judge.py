"""Judges how a model plays a game of any kind, by sampled games."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np
from scipy import stats

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import view as view_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import game_tables
from tunix_ttt.rollout import sampler as sampler_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Results of a model's games in one seat.

  A game that ends with an illegal move, an unreadable answer or a limit has the
  return 0.

  Attributes:
    games: Number of games.
    mean_return: Mean return of the seat.
    return_interval: 95% confidence interval of the mean return (Student's t).
    rates: Rate of each ending, by its name in `trajectory.RATES`.
    intervals: 95% confidence intervals of the rates (Wilson, 1927).
  """

  games: int
  mean_return: float
  return_interval: tuple[float, float]
  rates: Mapping[str, float]
  intervals: Mapping[str, tuple[float, float]]


def judge(
  model: checkpoints.Model,
  view: view_lib.View,
  text: game_lib.GameText,
  play: config_lib.PlayConfig,
  *,
  thoughts: bool = False,
  seed: int = 0,
) -> dict[str, Verdict]:
  """Plays sampled games of a model in each seat; returns results by seat name.

  Args:
    model: Model to judge.
    view: Game and opponents.
    text: Text of the game.
    play: Settings of play; `opponent` and `format` are unused.
    thoughts: Whether answers begin with a thought.
    seed: Random seed.

  Raises:
    errors.UserError: if the tokenizer cannot encode the answers, or the limits
      leave no room for one.
  """
  policy = model_policy.ModelPolicy(model.module, model.spec)
  tables = game_tables.build(
    view.game, text, model.tokenizer, thoughts=thoughts
  )
  sampler = sampler_lib.Sampler(policy, view, tables, play)

  def player(keys: jax.Array, states: view_lib.ViewState) -> Any:
    return meshes.fetch(sampler(policy.params, keys, states))

  def draw(seat: int, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    names = streams.Stream
    return (
      streams.keys(seed, names.JUDGED_GAMES, seat, last=numbers),
      streams.keys(seed, names.JUDGED_TOKENS, seat, last=numbers),
    )

  results = {}
  for seat, name in enumerate(text.seats):
    games = matches.play_batches(
      player, view, seat, play.num_games, play.batch_size, draw, name=name
    )
    returns = np.asarray(jax.vmap(view.returns)(games.state))
    results[name] = _verdict(np.asarray(games.ending), returns)
  return results


def _verdict(endings: np.ndarray, returns: np.ndarray) -> Verdict:
  total, mean = len(returns), float(returns.mean())
  error = float(returns.std(ddof=1) / np.sqrt(total)) if total > 1 else 0.0
  half = float(stats.t.ppf(0.975, max(total - 1, 1))) * error
  rates, intervals = rates_lib.rates_of(endings)
  return Verdict(
    games=total,
    mean_return=mean,
    return_interval=(mean - half, mean + half),
    rates=rates,
    intervals=intervals,
  )
