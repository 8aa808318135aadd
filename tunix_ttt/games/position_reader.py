"""The interface of games that read positions and moves from text.

Checks of data, rows held out by position, prompts to start from, evalsets of
moves and pairs of a model's mistakes need it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors


class Match(NamedTuple):
  """A position of a `kind` of notation in a text.

  The position and its header extend from `start` to `end`. `player` is the side
  to move according to the header; None if it does not name one.
  """

  position: int
  kind: str
  start: int
  end: int
  player: int | None


class Move(NamedTuple):
  """The action of an answer, if any, and whether it matches the format."""

  action: int | None
  is_strict: bool


class Reader(Protocol):
  """Reads the text of a game and grades moves by its solver.

  Positions are numbers of `Definition.position_numbers`.
  """

  def find(self, text: str) -> list[Match]:
    """Lists the positions in a text, in order."""
    ...

  def read_answer(self, text: str, kind: str) -> Move:
    """Parses the last move of an answer to a position of a kind."""
    ...

  def open_move(self, prompt: str) -> int | None:
    """Returns the start of a move that a prompt's end begins, if any."""
    ...

  def is_turn(self, match: Match) -> bool:
    """Returns whether the position agrees with its header on the side to move."""
    ...

  def grade(self, position: int, action: int | None) -> str:
    """Grades a move by the solver.

    The grade is `optimal`, `worse`, `illegal`, `unreadable` for no move, or
    `impossible` for a position that is over or unreachable.
    """
    ...

  def is_as_good(self, position: int, action: int, other: int) -> bool:
    """Returns whether an action is worth at least as much as a legal other."""
    ...

  def form(self, position: int) -> int:
    """Returns a number that all symmetric positions share."""
    ...

  def start(self, text: str) -> Any:
    """Returns the position on which a prompt asks for a move.

    It is an argument of `Definition.begin_prompt`, a pytree of ints.

    Raises:
      ValueError: if the prompt has no position, or no move is possible in it.
    """
    ...

  def from_text(self, text: str) -> int:
    """Parses the field `board` of an item of an evalset."""
    ...

  def check_item(
    self, board: str | None, expected: str | Sequence[str], prompt: str
  ) -> None:
    """Checks the moves that an item of an evalset expects.

    Raises:
      ValueError: if the item contradicts the rules, the solver or its prompt.
    """
    ...

  def verdict(
    self, response: str, expected: Sequence[str], board: str | None
  ) -> str:
    """Judges a response to an item that expects one of several moves.

    Returns:
      `right`, `unreadable` (not in the answer format), `illegal` or `not optimal`.
    """
    ...

  def evalset_rows(self, seed: int) -> Iterator[dict[str, Any]]:
    """Yields the items of an evalset of all positions up to symmetry."""
    ...

  def pair_row(
    self,
    state: Any,
    answer: str,
    kind: str,
    rng: np.random.Generator,
    style: str,
  ) -> dict[str, Any]:
    """Returns a preference pair of a mistake and a better answer.

    Args:
      state: State of the environment.
      answer: Verbatim answer, the mistake.
      kind: Kind of the mistake, of `row_kinds.REJECTED`.
      rng: Random generator that draws one of the optimal moves.
      style: Style of the better answer's thought.
    """
    ...


def of(game: config_lib.GameConfig | None, key: str) -> Reader:
  """Returns the reader of a game; None is the default game.

  Raises:
    errors.UserError: if the game has none; `key` is the flag or config key.
  """
  # Imported lazily: pulls in JAX.
  from tunix_ttt.games import catalog

  return require(catalog.load_config(game), key)


def require(game: Any, key: str) -> Reader:
  """Returns the reader of a `Definition`; see `of`."""
  if game.reader is None:
    raise errors.UserError(
      f"{key}: {game.name} cannot read positions from text"
    )
  return game.reader
