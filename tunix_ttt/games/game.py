"""The interfaces of a game: its rules in JAX, and its text.

A `Game` is pure, unbatched and free of text; the engine batches it with
`jax.vmap` and compiles it. Randomness of the rules is explicit: at a chance node
the engine draws an outcome from `chance`. A game whose randomness hides in its
state can be played and trained on, but is judged by sampling.
"""

from collections.abc import Sequence
import enum
from typing import Protocol, TypeVar

import jax


class Outcome(enum.IntEnum):
  """Outcome of a game for one seat: the sign of its return, or `ILLEGAL`."""

  ONGOING = 0
  WIN = 1
  DRAW = 2
  LOSS = 3
  ILLEGAL = 4


# A frozen pytree of arrays.
StateT = TypeVar("StateT")

# Values of `Game.to_act` besides the numbers of seats.
CHANCE = -1
OVER = -2


class Game(Protocol[StateT]):
  """The rules of a game with A actions and C outcomes of chance.

  Attributes:
    num_seats: Number of players; 1 for a puzzle.
    num_actions: Number of actions A of all players together.
    max_plies: Upper bound on the steps of a game, those of chance included.
  """

  num_seats: int
  num_actions: int
  max_plies: int

  def init(self, key: jax.Array) -> StateT:
    """Returns the first state; games with explicit chance ignore the key."""
    ...

  def to_act(self, state: StateT) -> jax.Array:
    """Returns the seat to act, `CHANCE` or `OVER`: int32 []."""
    ...

  def legal(self, state: StateT) -> jax.Array:
    """Returns the mask of legal actions, bool [A]; no action without a seat."""
    ...

  def chance(self, state: StateT) -> jax.Array:
    """Returns the probabilities of the outcomes of chance: float32 [C].

    They add up to 1 at a chance node and are arbitrary elsewhere. C is 0 for a
    game without chance nodes.
    """
    ...

  def step(self, state: StateT, action: jax.Array) -> StateT:
    """Plays one ply: an action of the seat to act, or an outcome of chance.

    The engine passes legal actions only. A finished game stays as it is.
    """
    ...

  def returns(self, state: StateT) -> jax.Array:
    """Returns each seat's return, float32 [num_seats]; 0 before the end."""
    ...


class GameText(Protocol[StateT]):
  """The text of a game.

  An observation is the concatenation of K slots, each of which shows one of its
  texts or none.

  Attributes:
    rules: System prompt, with the format of moves.
    seats: Name of each seat.
    segments: Texts of each slot.
    actions: Spellings of each action; a model is taught the first.
  """

  rules: str
  seats: Sequence[str]
  segments: Sequence[Sequence[str]]
  actions: Sequence[Sequence[str]]

  def show(self, state: StateT, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows to a seat, -1 for none: int32 [K].

    It may depend only on what the seat knows. `conformance.check_game` checks
    this for games with the optional method `observe(state, seat)`, a pytree of
    everything that the seat knows.
    """
    ...
