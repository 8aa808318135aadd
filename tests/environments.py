"""Checks the properties of environments of tic-tac-toe that samplers rely on."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules


class Environment(Protocol):
  """An environment with the interface of `games.tictactoe.env.TicTacToe`."""

  def init(self, opponent_seed: jax.Array, agent: Any = ...) -> env_lib.State:
    """Starts a game."""
    ...

  def step(self, state: env_lib.State, action: Any) -> env_lib.State:
    """Plays a move and the opponent's reply."""
    ...

  def legal(self, state: env_lib.State) -> jax.Array:
    """Returns the mask of legal cells, bool [9]."""
    ...


def check_environment(
  env: Environment, *, num_games: int = 64, seed: int = 0
) -> None:
  """Checks the properties of an environment that samplers rely on.

  Plays random games as X and as O, with legal and illegal moves:

  - states keep their structure, shapes and dtypes from `init` through `step`;
  - `init` returns a state on which the agent moves or the game is over;
  - a legal move takes its cell, and the opponent takes at most one more;
  - an illegal move ends the game as `ILLEGAL` and leaves the board unchanged;
  - a finished game ignores further moves and has no legal moves;
  - every game ends within five moves of the agent;
  - equal seeds and moves give equal games, for any batch size, compiled or not.

  Raises:
    AssertionError: with the property that does not hold.
  """
  stream = streams.Stream.CONFORMANCE
  opponent_seeds = jax.random.bits(streams.key(seed, stream), (num_games,))
  marks = env_lib.starting_marks("mixed", num_games)
  init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
  rng = streams.generator(seed, stream)
  states = init(opponent_seeds, marks)
  history, actions = [states], []
  for _ in range((rules.NUM_CELLS + 1) // 2):
    legal = np.asarray(jax.vmap(env.legal)(states))
    ongoing = np.asarray(states.outcome) == env_lib.Outcome.ONGOING
    _check(
      legal.any(axis=1) == ongoing,
      "moves are legal exactly while a game is ongoing",
    )
    _check_illegal(step, states, legal, ongoing)
    action = np.array(
      [rng.choice(np.flatnonzero(r)) if r.any() else 0 for r in legal]
    )
    after = step(states, action)
    _check_moved(states, after, action, ongoing)
    actions.append(action)
    history.append(after)
    states = after
  _check(
    states.outcome != env_lib.Outcome.ONGOING,
    "every game ends within five moves of the agent",
  )
  # Replays two games without batching and without compilation.
  for n in range(2):
    state = env.init(opponent_seeds[n], marks[n])
    for t, expected in enumerate(history):
      _check(
        [
          state.board == expected.board[n],
          state.outcome == expected.outcome[n],
        ],
        "a game does not depend on its batch or on compilation",
      )
      if t < len(actions):
        state = env.step(state, jnp.int32(actions[t][n]))


def _check(holds: Any, rule: str) -> None:
  if not np.all(holds):
    raise AssertionError(f"the environment breaks a rule: {rule}")


def _check_moved(
  before: env_lib.State, after: env_lib.State, action: np.ndarray, ongoing: Any
) -> None:
  layouts = [
    jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    for state in (before, after)
  ]
  _check(
    layouts[0] == layouts[1], "states keep their structure, shapes and dtypes"
  )
  old, new = (rules.cells()[np.asarray(s.board)] for s in (before, after))
  is_taken = new[np.arange(len(action)), action] == np.asarray(before.agent)
  _check(is_taken[ongoing], "a legal move takes its cell")
  changed = (old != new).sum(axis=1)
  _check(
    np.isin(changed[ongoing], (1, 2)),
    "a move changes one cell and the reply at most one more",
  )
  is_same = (changed == 0) & np.asarray(before.outcome == after.outcome)
  _check(is_same[~ongoing], "a finished game ignores further moves")


def _check_illegal(
  step: Any, states: env_lib.State, legal: np.ndarray, ongoing: np.ndarray
) -> None:
  for name, action, rows in (
    ("taken", legal.argmin(axis=1), ongoing & ~legal.all(axis=1)),
    ("below the board", np.full(len(legal), -1), ongoing),
    ("above the board", np.full(len(legal), rules.NUM_CELLS), ongoing),
  ):
    after = step(states, action)
    is_illegal = np.asarray(after.outcome == env_lib.Outcome.ILLEGAL)
    is_same = np.asarray(after.board == states.board)
    _check(
      (is_illegal & is_same)[rows],
      f"a move to a cell {name} ends the game as ILLEGAL, same board",
    )
