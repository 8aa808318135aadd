"""Lists all decisions of a game, and reads a policy's answers to them.

A model that sees the present observation alone (the context `board`) is a
function of its seat and the observation, so its answers to the distinct
observations of a seat are all there is to know about how it plays.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games import game as game_lib
from tunix_ttt.games import state_graph
from tunix_ttt.games import view as view_lib
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
# Number of states whose observations are computed together.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
  """The D distinct observations of a seat that is to act.

  Attributes:
    seat: Number of the seat.
    shows: Observations, the results of `GameText.show`, int32 [D, K].
    states: First state of the game with each observation, a pytree of NumPy
      arrays [D, ...].
    numbers: Observation of each of the N states of the game, -1 where the seat
      is not to act, int32 [N].
  """

  seat: int
  shows: np.ndarray
  states: Any
  numbers: np.ndarray

  def __len__(self) -> int:
    """Returns D."""
    return len(self.shows)

  def view_states(self) -> view_lib.ViewState:
    """Returns the decisions as games of a sampler: a pytree [D, ...]."""
    return view_lib.at_turns(
      jax.tree.map(jnp.asarray, self.states),
      jnp.full(len(self), self.seat, jnp.int32),
    )


def enumerate_decisions(
  game: game_lib.Game[Any],
  text: game_lib.GameText[Any],
  graph: state_graph.StateGraph,
) -> tuple[Decisions, ...]:
  """Returns the decisions of each seat in the states of `graph`."""
  to_act = np.asarray(graph.to_act)
  show = jax.jit(
    lambda states, seats: jax.lax.map(
      lambda pair: text.show(*pair), (states, seats), batch_size=_CHUNK
    )
  )
  shows = np.asarray(show(graph.states, jnp.maximum(graph.to_act, 0)))
  result = []
  for seat in range(game.num_seats):
    turns = np.flatnonzero(to_act == seat)
    distinct, first, inverse = np.unique(
      shows[turns], axis=0, return_index=True, return_inverse=True
    )
    numbers = np.full(len(to_act), -1, np.int32)
    numbers[turns] = inverse.reshape(-1)
    states = jax.tree.map(
      lambda leaf, rows=turns[first]: np.asarray(leaf)[rows], graph.states
    )
    result.append(
      Decisions(seat=seat, shows=distinct, states=states, numbers=numbers)
    )
  return tuple(result)


@dataclasses.dataclass(frozen=True, eq=False)
class SeatPolicy:
  """Probabilities of what a policy does at each of D decisions.

  Attributes:
    moves: Probability of each of the A actions, legal or not, float64 [D, A].
    ends: Probability that the answer ends the game with each `Ending`, such as
      `PARSE_ERROR`, float64 [D, len(Ending)].
  """

  moves: np.ndarray
  ends: np.ndarray


def deterministic(
  actions: np.ndarray, endings: np.ndarray, num_actions: int
) -> SeatPolicy:
  """Returns the policy with one answer to each of D decisions.

  Args:
    actions: Action of each answer, int [D]; one out of range is illegal.
    endings: `ONGOING` if the action is to be played, else the `Ending` of the
      game, int [D].
    num_actions: Number of actions A of the game.
  """
  actions, endings = np.asarray(actions), np.asarray(endings)
  is_illegal = (actions < 0) | (actions >= num_actions)
  is_played = endings == Ending.ONGOING
  endings = np.where(is_played & is_illegal, Ending.ILLEGAL, endings)
  is_played &= ~is_illegal
  chosen = np.arange(num_actions) == actions[:, None]
  ended = np.arange(len(Ending)) == endings[:, None]
  return SeatPolicy(
    (chosen & is_played[:, None]).astype(np.float64),
    (ended & ~is_played[:, None]).astype(np.float64),
  )


def sampled(
  moves: np.ndarray,
  unreadable: np.ndarray,
  truncated: np.ndarray | float = 0.0,
) -> SeatPolicy:
  """Returns the policy with random answers to D decisions.

  Args:
    moves: Probability of each of the A actions, float [D, A].
    unreadable: Probability of answers that are no move, float [D].
    truncated: Probability of answers that a token limit cuts, float [D].
  """
  ends = np.zeros((len(moves), len(Ending)))
  ends[:, Ending.PARSE_ERROR] = unreadable
  ends[:, Ending.LENGTH] = truncated
  return SeatPolicy(np.asarray(moves, np.float64), ends)


class SingleTurn:
  """An environment for `sampler.Sampler` in which a move changes nothing.

  With `max_turns` = 1 a game is one decision, and neither chance nor an
  opponent has to be compiled.
  """

  def __init__(self, env: Any = None):
    """Takes the environment with the legal actions, which few samplers need."""
    self._env = env

  def legal(self, state: Any) -> jax.Array:
    """Returns the mask of the model's legal actions, bool [A]."""
    return self._env.legal(state)

  def step(self, state: Any, action: jax.Array) -> Any:
    """Returns the state unchanged."""
    del action
    return state

  def outcome(self, state: Any) -> jax.Array:
    """Returns `ONGOING`, int8 []."""
    del state
    return jnp.int8(Ending.ONGOING)


def of_answers(
  games: trajectory_lib.Trajectory, num_actions: int
) -> SeatPolicy:
  """Returns the policy that gave these answers to all D decisions.

  Args:
    games: Games of one turn each in `SingleTurn`, on the host, [D].
    num_actions: Number of actions of the game.
  """
  actions = np.asarray(games.moves)[:, 0]
  # An answer with a move leaves its one turn unfinished.
  endings = np.where(actions >= 0, Ending.ONGOING, np.asarray(games.ending))
  return deterministic(actions, endings, num_actions)
