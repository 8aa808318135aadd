"""For tests, ours and users': conformance, a toy tokenizer, scripted players."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import chat


class Environment(Protocol):
  """An environment in the shape of `games.tictactoe.env.TicTacToe`."""

  def init(self, opponent_seed: jax.Array, agent: Any = ...) -> env_lib.State:
    """Starts a game."""
    ...

  def step(self, state: env_lib.State, action: Any) -> env_lib.State:
    """Plays a move and the reply to it."""
    ...


def check_environment(
  env: Environment, *, num_games: int = 64, seed: int = 0
) -> None:
  """Checks that an environment keeps the promises the samplers rely on.

  Random games are played as X and as O, legally and not:

  - states keep their structure, shapes and types from `init` through `step`;
  - `init` leaves the move to the agent, or the game over;
  - a legal move takes its cell, and the opponent takes at most one more;
  - a move that is not legal ends the game as `ILLEGAL`, the board unchanged;
  - a game that is over ignores further moves and allows none;
  - every game ends within five moves of the agent;
  - the same opponent_seed and moves give the same game, whatever the batch and whether
    compiled or not.

  Args:
    env: the environment.
    num_games: how many random games to play.
    seed: Random seed of the games.

  Raises:
    AssertionError: naming the broken promise.
  """
  stream = streams.Stream.CONFORMANCE
  opponent_seed = jax.random.bits(streams.key(seed, stream), (num_games,))
  marks = env_lib.starting_marks("mixed", num_games)
  init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
  rng = streams.generator(seed, stream)
  states = init(opponent_seed, marks)
  history, actions = [states], []
  for _ in range((rules.NUM_CELLS + 1) // 2):
    legal = np.asarray(jax.vmap(env_lib.legal_actions)(states))
    ongoing = np.asarray(states.outcome) == env_lib.Outcome.ONGOING
    _check(
      np.array_equal(legal.any(axis=1), ongoing),
      "moves are legal exactly while a game is on",
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
    bool((states.outcome != env_lib.Outcome.ONGOING).all()),
    "every game ends within five moves of the agent",
  )
  _check_alone(env, opponent_seed, marks, actions, history)


def _check(holds: bool, promise: str) -> None:
  if not holds:
    raise AssertionError(f"the environment breaks a promise: {promise}")


def _check_moved(
  before: env_lib.State, after: env_lib.State, action: np.ndarray, ongoing: Any
) -> None:
  _check(
    jax.tree.structure(before) == jax.tree.structure(after)
    and all(
      a.shape == b.shape and a.dtype == b.dtype
      for a, b in zip(
        jax.tree.leaves(before), jax.tree.leaves(after), strict=True
      )
    ),
    "states keep their structure, shapes and types",
  )
  old, new = (rules.cells()[np.asarray(s.board)] for s in (before, after))
  agent = np.asarray(before.agent)
  rows = np.arange(len(action))
  _check(
    bool((new[rows, action] == agent)[ongoing].all()),
    "a legal move takes its cell",
  )
  changed = (old != new).sum(axis=1)
  _check(
    bool(((changed >= 1) & (changed <= 2))[ongoing].all()),
    "a move changes one cell, and the reply at most one more",
  )
  _check(
    bool((changed == 0)[~ongoing].all())
    and bool((before.outcome == after.outcome)[~ongoing].all()),
    "a game that is over ignores further moves",
  )


def _check_illegal(
  step: Any, states: env_lib.State, legal: np.ndarray, ongoing: np.ndarray
) -> None:
  taken = legal.argmin(axis=1)
  for name, action, wrong in (
    ("taken", taken, ~legal.all(axis=1)),
    ("below the board", np.full(len(legal), -1), True),
    ("above the board", np.full(len(legal), rules.NUM_CELLS), True),
  ):
    after = step(states, action)
    rows = ongoing & wrong
    _check(
      bool((after.outcome == env_lib.Outcome.ILLEGAL)[rows].all())
      and bool((after.board == states.board)[rows].all()),
      f"a move to a cell {name} ends the game as ILLEGAL, the board unchanged",
    )


def _check_alone(
  env: Environment,
  opponent_seed: jax.Array,
  marks: jax.Array,
  actions: list[np.ndarray],
  history: list[env_lib.State],
) -> None:
  """Plays two of the games again, alone and uncompiled."""
  for n in range(2):
    state = env.init(opponent_seed[n], marks[n])
    for t, expected in enumerate(history):
      _check(
        bool(state.board == expected.board[n])
        and bool(state.outcome == expected.outcome[n]),
        "a game does not depend on its batch or on compilation",
      )
      if t < len(actions):
        state = env.step(state, jnp.int32(actions[t][n]))


class CharacterTokenizer:
  """A toy tokenizer: one id a character, control ids 0 to 5."""

  start_of_turn_id, end_of_turn_id = 4, 5
  end_ids = (end_of_turn_id,)
  template = chat.gemma_template(2, start_of_turn_id, end_of_turn_id)
  vocab_size = 6 + 128

  def encode(self, text: str) -> list[int]:
    """Returns the code of each character plus 6; ASCII only."""
    return [6 + code for code in text.encode("ascii")]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; control ids vanish."""
    return bytes(int(i) - 6 for i in ids if i > 5).decode("ascii")

  def token_bytes(self) -> list[bytes | None]:
    """Returns what each id stands for; None for control ids."""
    return [None] * 6 + [bytes([code]) for code in range(128)]

  def pad_id(self) -> int:
    """Returns 0."""
    return 0

  def eos_id(self) -> int:
    """Returns 1."""
    return 1

  def bos_id(self) -> int:
    """Returns 2."""
    return 2


def scripted_play(
  env: env_lib.TicTacToe, table: np.ndarray, num_turns: int = 5
) -> Callable[[jax.Array, env_lib.State], trajectory_lib.Trajectory]:
  """Returns a player without a model: a rollout that reads moves off a table.

  Args:
    env: the environment.
    table: int [3^9], the cell it takes on each board.
    num_turns: how many turns it plays.
  """
  cells = jnp.asarray(table, jnp.int8)

  @jax.jit
  def play(keys: jax.Array, states: env_lib.State) -> trajectory_lib.Trajectory:
    del keys

    def turn(state: env_lib.State, _: None) -> tuple[env_lib.State, Any]:
      on = state.outcome == env_lib.Outcome.ONGOING
      move = cells[state.board]
      record = (
        state.board,
        state.last_move,
        on,
        jnp.where(on, move, jnp.int8(-1)),
      )
      return jax.vmap(env.step)(state, move), record

    end, records = jax.lax.scan(turn, states, None, num_turns)
    boards, last_moves, on, moves = (jnp.swapaxes(r, 0, 1) for r in records)
    nothing = jnp.zeros((*on.shape, 0))
    return trajectory_lib.Trajectory(
      agent=states.agent,
      ending=end.outcome,
      board=end.board,
      boards=boards,
      last_moves=last_moves,
      retried=jnp.zeros_like(on),
      turn_mask=on,
      moves=moves,
      actions=nothing.astype(jnp.int32),
      action_mask=nothing.astype(bool),
      log_probs=nothing,
    )

  return play
