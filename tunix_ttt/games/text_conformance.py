"""Checks that the text of a game keeps to the interface `GameText`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tunix_ttt import errors
from tunix_ttt.games import assertions
from tunix_ttt.games import game as game_lib


def check_words(game: game_lib.Game, text: game_lib.GameText) -> None:
  """Checks everything in a text that does not depend on states."""
  seats = list(text.seats)
  if len(seats) != game.num_seats or len(set(seats)) != len(seats):
    assertions.fail(
      f"seats: expected {game.num_seats} distinct names, found"
      f" {errors.quote(seats)}"
    )
  for name, lists in (("segments", text.segments), ("actions", text.actions)):
    for number, texts in enumerate(lists):
      is_list = bool(texts) and not isinstance(texts, str)
      if not is_list or not all(isinstance(each, str) for each in texts):
        assertions.fail(
          f"{name}: expected one or more texts in element {number}, found"
          f" {errors.quote(texts)}"
        )
  if len(text.actions) != game.num_actions:
    assertions.fail(
      f"actions: expected spellings of {game.num_actions} actions, found"
      f" {len(text.actions)}"
    )
  _check_spellings(text.actions)


def _check_spellings(actions: Sequence[Sequence[str]]) -> None:
  spelled: dict[str, int] = {}
  for action, spellings in enumerate(actions):
    for spelling in spellings:
      if not spelling:
        assertions.fail(f"actions: a spelling of action {action} is empty")
      other = spelled.setdefault(spelling, action)
      if other != action:
        assertions.fail(
          f"actions: {spelling!r} spells the actions {other} and {action}"
        )
  for spelling, action in spelled.items():
    for length in range(1, len(spelling)):
      prefix = spelling[:length]
      other = spelled.get(prefix, action)
      if other != action:
        assertions.fail(
          f"actions: {prefix!r} of action {other} is a prefix of {spelling!r}"
          f" of action {action}"
        )


def check_show(
  text: game_lib.GameText, values: Sequence[dict[str, Any]]
) -> None:
  """Checks the slots that games show in their states.

  Args:
    text: Text of the game.
    values: For each ply, arrays of N games by the method that returned them:
      `to_act` int32 [N]; `show`, for each seat, int32 [N, K]; `observe`, if the
      game has it, a pytree of arrays [N, …] for each seat.
  """
  sizes = np.array([len(texts) for texts in text.segments], np.int32)
  for seat in range(len(text.seats)):
    slots = np.concatenate([each["show"][seat] for each in values])
    assertions.check(
      np.all((slots >= -1) & (slots < sizes), axis=1),
      "show: each slot must be -1 or the number of one of its texts, of which"
      f" there are {errors.quote(sizes.tolist())}",
      slots,
    )
    if "observe" in values[0]:
      seen = [row for each in values for row in _knowledge(each, seat)]
      for old, new in _same_knowledge(seen):
        _check_same(text, seat, slots[old], slots[new])


def _knowledge(values: dict[str, Any], seat: int) -> list[bytes]:
  """Returns a seat's observation of each game, and if it is its turn."""
  turn = values["to_act"]
  # A seat knows when it is asked for an action and when the game is over.
  is_public = np.isin(turn, (seat, game_lib.OVER))
  turn = np.where(is_public, turn, game_lib.CHANCE)
  return assertions.rows((turn, values["observe"][seat]), len(turn))


def _same_knowledge(rows: Sequence[bytes]) -> Iterator[tuple[int, int]]:
  """Yields each row's number after the number of the first row like it."""
  first: dict[bytes, int] = {}
  for number, row in enumerate(rows):
    yield first.setdefault(row, number), number


def _check_same(
  text: game_lib.GameText, seat: int, old: np.ndarray, new: np.ndarray
) -> None:
  for slot in np.flatnonzero(old != new).tolist():
    texts = text.segments[slot]
    pair = [
      errors.quote(texts[n] if n >= 0 else None) for n in (old[slot], new[slot])
    ]
    assertions.fail(
      f"show: tells seat {seat} ({text.seats[seat]}) more than the game's"
      f" observe: slot {slot} is {' or '.join(pair)} in equal observations"
    )
