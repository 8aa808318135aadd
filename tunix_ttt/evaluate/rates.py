"""Exact and sampled win, draw and loss rates of a policy.

Under greedy decoding a policy answers the same board and history always alike,
so all that can happen is 384 lines of replies to X and 945 to O. Playing them
all gives its exact rates against a random and against a perfect opponent, and
its worst result against any opponent whatever.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.evaluate import statistics
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
# (keys [B], states of B games) -> their trajectory.
Play = Callable[[jax.Array, env_lib.State], Trajectory]

RATES = trajectory_lib.RATES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
  """A greedy policy's results with one mark, over every line.

  Attributes:
    lines: different games.
    lines_lost: how many of them neither won nor drew.
    worst: the worst ending, a key of `RATES` without `_rate`.
    random: the rates against an opponent that plays at random.
    optimal: the rates against one that plays at random among optimal moves.
    optimal_move_rate: the share of optimal moves among the decisions met
      against the random opponent.
  """

  lines: int
  lines_lost: int
  worst: str
  random: dict[str, float]
  optimal: dict[str, float]
  optimal_move_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """Results of sampled games with one mark.

  Attributes:
    games: how many.
    rates: Rate of each ending.
    intervals: the rates' 95% confidence intervals (Wilson, 1927).
    optimal_move_rate: the share of optimal moves among all decisions.
  """

  games: int
  rates: dict[str, float]
  intervals: dict[str, tuple[float, float]]
  optimal_move_rate: float


def play_every_line(
  play: Play, agent: int, batch_size: int = 512
) -> Trajectory:
  """Plays a greedy policy on every line against `agent`.

  Args:
    play: in an environment whose opponent is `opponents.uniform_random`.
    agent: the policy's mark.
    batch_size: games at a time; the last batch is filled up with others.

  Returns:
    One game a line, on the host.
  """
  opponent_seed, init = (
    opponents.enumerate_opponent_seeds(agent),
    env_lib.TicTacToe().init,
  )
  total, batches = len(opponent_seed), []
  for first in range(0, total, batch_size):
    numbers = jnp.arange(first, first + batch_size) % total
    marks = jnp.full(batch_size, agent, jnp.int8)
    states = jax.vmap(init)(jnp.asarray(opponent_seed)[numbers], marks)
    # Greedy decoding draws nothing, but every row has a key.
    keys = streams.keys(0, streams.Stream.GREEDY, last=numbers)
    batches.append(jax.device_get(play(keys, states)))
  return jax.tree.map(lambda *rows: np.concatenate(rows)[:total], *batches)


def exact(games: Trajectory) -> Exact:
  """Judges what `play_every_line` returned."""
  once = games_once(games)
  order = list(RATES.values())
  endings = [Ending(int(e)) for e in np.asarray(games.ending)[once]]
  worst = max(endings, key=order.index)
  good = (Ending.WIN, Ending.DRAW)
  uniform = np.ones(len(games.ending))
  return Exact(
    lines=len(once),
    lines_lost=sum(ending not in good for ending in endings),
    worst=worst.name.lower(),
    random=_rates(games, uniform),
    optimal=_rates(games, _optimal_over_random(games)),
    optimal_move_rate=_optimal_move_rate(games),
  )


def sampled(games: Trajectory) -> Sampled:
  """Judges sampled games."""
  total = len(games.ending)
  rates = _rates(games, np.ones(total))
  return Sampled(
    games=total,
    rates=rates,
    intervals={
      name: statistics.wilson_interval(round(rate * total), total)
      for name, rate in rates.items()
    },
    optimal_move_rate=_optimal_move_rate(games),
  )


def games_once(games: Trajectory) -> np.ndarray:
  """Returns the index of each different game: lines that end early are alike."""
  seen: dict[Any, int] = {}
  for n in range(len(games.ending)):
    played = np.asarray(games.turn_mask[n])
    boards = np.asarray(games.boards[n])[played].tolist()
    seen.setdefault((*boards, int(games.board[n])), n)
  return np.array(list(seen.values()))


def _rates(games: Trajectory, weights: np.ndarray) -> dict[str, float]:
  ending = np.asarray(games.ending)
  total = weights.sum()
  return {
    name: float(weights[ending == value].sum() / total)
    for name, value in RATES.items()
  }


def _optimal_move_rate(games: Trajectory) -> float:
  asked = np.asarray(games.turn_mask).sum()
  return float(trajectory.optimal_moves(games).sum() / asked) if asked else 0.0


def _optimal_over_random(games: Trajectory) -> np.ndarray:
  """Returns how much likelier than the random one the optimal opponent is.

  Every line is equally likely under the random opponent, so weighting lines by
  this gives exact expectations under the optimal one: float [B].
  """
  ratio = np.ones(len(games.ending))
  boards, moves = np.asarray(games.boards), np.asarray(games.moves)
  played = np.asarray(games.turn_mask)
  for n in range(len(ratio)):
    if games.agent[n] == rules.O:
      # X opens before the agent's first turn.
      ratio[n] *= _reply_ratio(rules.EMPTY_BOARD, int(boards[n, 0]))
    for t in np.flatnonzero(played[n] & (moves[n] >= 0)):
      before = rules.successors()[boards[n, t], moves[n, t]]
      more = t + 1 < played.shape[1] and played[n, t + 1]
      after = boards[n, t + 1] if more else games.board[n]
      # An illegal move, or the game's last one, has no reply.
      if before < 0 or before == after:
        continue
      ratio[n] *= _reply_ratio(int(before), int(after))
  return ratio


def _reply_ratio(before: int, after: int) -> float:
  (cell,) = np.flatnonzero(rules.cells()[before] != rules.cells()[after])
  legal, best = rules.legal_masks()[before], solver.solve().optimal[before]
  if not best >> cell & 1:
    return 0.0
  return float(rules.mask_sizes()[legal] / rules.mask_sizes()[best])
