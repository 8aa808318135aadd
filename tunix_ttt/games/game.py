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
  """Outcome of a game for one seat: the sign of its return, or `ILLEGAL`.

  A puzzle, which has one seat, is lost unless its return is above 0.
  """

  ONGOING = 0
  WIN = 1
  DRAW = 2
  LOSS = 3
  ILLEGAL = 4


# A frozen pytree of arrays.
StateT = TypeVar("StateT")
ShownT = TypeVar("ShownT", contravariant=True)

# Values of `Game.to_act` besides the numbers of seats.
CHANCE = -1
OVER = -2


class Game(Protocol[StateT]):
  """The rules of a game with A actions and C outcomes of chance."""

  @property
  def num_seats(self) -> int:
    """Number of players; 1 for a puzzle."""
    ...

  @property
  def num_actions(self) -> int:
    """Number of actions A of all players together."""
    ...

  @property
  def max_plies(self) -> int:
    """Upper bound on the steps of a game, those of chance included."""
    ...

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


class GameText(Protocol[ShownT]):
  """The text of a game.

  An observation is the concatenation of K slots, each of which shows one of its
  texts or none.
  """

  @property
  def rules(self) -> str:
    """System prompt, with the format of moves."""
    ...

  @property
  def seats(self) -> Sequence[str]:
    """Name of each seat."""
    ...

  @property
  def segments(self) -> Sequence[Sequence[str]]:
    """Texts of each slot."""
    ...

  @property
  def actions(self) -> Sequence[Sequence[str]]:
    """Spellings of each action; a model is taught the first."""
    ...

  def show(self, state: ShownT, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows to a seat, -1 for none: int32 [K].

    It may depend only on what the seat knows. `conformance.check_game` checks
    this for games with the optional method `observe(state, seat)`, a pytree of
    everything that the seat knows.
    """
    ...


def observation_text(text: GameText, show: Sequence[int]) -> str:
  """Returns the text of an observation, the result of `GameText.show`."""
  slots = zip(text.segments, show, strict=True)
  return "".join(texts[number] for texts, number in slots if number >= 0)
