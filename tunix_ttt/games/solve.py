"""Exact solution of any game with visible states that can be enumerated."""

import itertools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import state_graph

enumerate_states = state_graph.enumerate_states

# Values have converged if a sweep changes none by more.
_CONVERGED = 1e-10
# Sweeps over states that form cycles.
_EXTRA_SWEEPS = 1000
# Actions whose values differ by less are equally good.
_TIE = 1e-6


@struct.dataclass
class Solution:
  """Values of the N states of a game under perfect play of every seat.

  Attributes:
    graph: The states and the steps between them.
    values: Expected return of each seat, float32 [N, num_seats].
    action_values: Expected return of the seat to act after each action, float32
      [N, A]; -inf for illegal actions.
    optimal: Whether each action is legal and best, bool [N, A]; actions within
      1e-6 of the best are ties.
  """

  graph: state_graph.StateGraph
  values: jax.Array
  action_values: jax.Array
  optimal: jax.Array

  @property
  def states(self) -> Any:
    """The states, a pytree of arrays [N, ...]."""
    return self.graph.states

  @property
  def children(self) -> jax.Array:
    """State after each action, -1 if it is illegal: int32 [N, A]."""
    return self.graph.children

  def index(self, state: Any) -> jax.Array:
    """Returns the number of a state, -1 if play cannot reach it: int32 []."""
    return self.graph.index(state)

  def best(self, state: Any) -> jax.Array:
    """Returns the mask of the best actions of the seat to act: bool [A].

    It is all False in states without a seat to act or that play cannot reach.
    """
    index = self.index(state)
    return self.optimal[index] & (index >= 0)

  def regret(self, state: Any, action: jax.Array | int) -> jax.Array:
    """Returns the best action value minus that of `action`: float32 [].

    It is inf for an illegal action, and NaN in states without a seat to act or
    that play cannot reach.
    """
    index = self.index(state)
    values = self.action_values[index]
    regret = values.max() - values[action]
    return jnp.where(index >= 0, regret, jnp.nan)


def solve(game: game_lib.Game[Any], *, max_states: int = 10**6) -> Solution:
  """Solves a game in which every seat sees the whole state.

  Each seat maximizes its own expected return; a seat with several best actions
  plays the first of them, which matters to the others if the returns do not add
  up to a constant. Chance averages over its outcomes. Values are computed in
  double precision, from the last level of states to the first, in sweeps that
  are repeated until no value changes. States may form cycles if the values
  converge (to 1e-10 a sweep): play without end then returns 0, and `max_plies`
  does not cut it off.

  Raises:
    errors.UserError: if a seat to act cannot see the state, if the values do
      not converge, or for the reasons of `enumerate_states`.
  """
  return solve_graph(game, enumerate_states(game, max_states=max_states))


def solve_graph(
  game: game_lib.Game[Any], graph: state_graph.StateGraph
) -> Solution:
  """Solves a game whose states are enumerated; see `solve`."""
  num_turns, num_views = count_views(game, graph)
  if num_views < num_turns:
    raise errors.UserError(
      f"{type(game).__name__} hides information: its {num_turns:,} states"
      f" with a seat to act look like {num_views:,} to the seats, and exact"
      " minimax needs visible states; judge by exploitability or sampling"
    )
  host: state_graph.StateGraph = jax.tree.map(np.asarray, graph)
  values = _values(host, type(game).__name__, game.max_plies)
  action_values = _action_values(host, values, slice(None))
  best = action_values.max(axis=1, keepdims=True)
  is_legal = host.children >= 0
  return Solution(
    graph=graph,
    values=jnp.asarray(values, jnp.float32),
    action_values=jnp.asarray(action_values, jnp.float32),
    optimal=jnp.asarray(is_legal & (action_values >= best - _TIE)),
  )


def count_views(
  game: game_lib.Game[Any], graph: state_graph.StateGraph
) -> tuple[int, int]:
  """Returns how many states have a seat to act, and how many it tells apart.

  The numbers are equal for a game of visible states, which needs no method
  `observe`.
  """
  is_seat = np.asarray(graph.to_act) >= 0
  num_turns = int(is_seat.sum())
  observe = getattr(game, "observe", None)
  if observe is None:
    return num_turns, num_turns
  inputs = jax.tree.map(
    lambda leaf: leaf[is_seat], (graph.states, graph.to_act)
  )
  views = jax.jit(jax.vmap(observe))(*inputs)
  return num_turns, state_graph.num_distinct((views, inputs[1]))


def exact_probabilities(graph: state_graph.StateGraph) -> np.ndarray:
  """Returns `graph.probabilities` with sums of 1 in double precision.

  The result is float64 [N, C].
  """
  probabilities = np.asarray(graph.probabilities, np.float64)
  total = probabilities.sum(axis=1, keepdims=True)
  return probabilities / np.where(total > 0, total, 1)


def topological_levels(
  game: game_lib.Game[Any], graph: state_graph.StateGraph
) -> list[np.ndarray]:
  """Returns the states in levels, such that every step leads to a later one.

  A level has the numbers of the states whose longest line of play from state 0
  has as many steps, int [...].

  Raises:
    errors.UserError: if states form cycles.
  """
  targets = np.concatenate([graph.children, graph.outcomes], axis=1)
  num_states = len(targets)
  missing = np.bincount(targets[targets >= 0], minlength=num_states)
  level, levels = np.flatnonzero(missing == 0), []
  while len(level):
    levels.append(level)
    after = targets[level]
    after, counts = np.unique(after[after >= 0], return_counts=True)
    missing[after] -= counts
    level = after[missing[after] == 0]
  if missing.any():
    raise errors.UserError(
      f"{type(game).__name__}: its states form cycles, so there are lines"
      " without end; count the moves in the state"
    )
  return levels


def _values(
  graph: state_graph.StateGraph, name: str, max_plies: int
) -> np.ndarray:
  """Returns the expected return of each seat: float64 [N, num_seats]."""
  values = np.asarray(graph.returns, np.float64)
  probabilities = exact_probabilities(graph)
  levels = [*itertools.pairwise(graph.levels.tolist())]
  change = np.inf
  # The last sweep finds nothing to change.
  for _ in range(max_plies + 1 + _EXTRA_SWEEPS):
    before = values.copy()
    for start, end in reversed(levels):
      to_act = graph.to_act[start:end]
      rows = start + np.flatnonzero(to_act >= 0)
      best = _action_values(graph, values, rows).argmax(axis=1)
      values[rows] = values[graph.children[rows, best]]
      rows = start + np.flatnonzero(to_act == game_lib.CHANCE)
      values[rows] = np.einsum(
        "nc,ncs->ns", probabilities[rows], values[graph.outcomes[rows]]
      )
    change = np.abs(values - before).max()
    if change <= _CONVERGED:
      return values
  raise errors.UserError(
    f"{name}: its states form cycles, and a sweep still changes values by"
    f" {change:.1g}; count the moves in the state, so that play ends"
  )


def _action_values(
  graph: state_graph.StateGraph, values: np.ndarray, rows: Any
) -> np.ndarray:
  """Returns the values of actions for the seats to act: float64 [R, A]."""
  children = graph.children[rows]
  seats = np.maximum(graph.to_act[rows], 0)[:, None]
  return np.where(children >= 0, values[children, seats], -np.inf)
