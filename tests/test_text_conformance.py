"""Tests the checks of a game's text by `testing.check_game`."""

from collections.abc import Sequence
from typing import Any

from jax import core
import jax.numpy as jnp
import pytest

from tests import toy_games
from tunix_ttt import testing
from tunix_ttt.games import game as game_lib

CARDS = toy_games.Nim(cards=True)


def test_text_that_depends_on_compilation():
  class Tracing(toy_games.NimText):
    def show(self, state, seat):
      slots = super().show(state, seat)
      is_traced = isinstance(state.stones, core.Tracer)
      return slots if is_traced else jnp.zeros_like(slots)

  toy_games.refuse(
    "show: its result depends on batching or compilation", CARDS, Tracing(CARDS)
  )


def test_text_that_leaks_a_hidden_card():
  class Leaky(toy_games.NimText):
    def show(self, state, seat):
      stones = self.game.observe(state, seat)["stones"]
      is_dealt = state.dealt == 2
      return jnp.stack([stones, jnp.where(is_dealt, state.cards[1], -1)])

  toy_games.refuse(
    "show: tells seat 0 (first) more than the game's observe: slot 1 is 'Your"
    " card is …' or 'Your card is …' in equal observations",
    CARDS,
    Leaky(CARDS),
  )


def test_text_that_leaks_by_saying_nothing():
  class Silent(toy_games.NimText):
    def show(self, state, seat):
      slots = super().show(state, seat)
      is_hidden = (seat == 1) & (state.cards[0] == 0)
      return jnp.where(is_hidden, -1, slots)

  toy_games.refuse(
    "show: tells seat 1 (second) more than…: slot 0 is … in equal observations",
    CARDS,
    Silent(CARDS),
  )


def test_a_seat_knows_its_turn_and_the_end():
  class Blind(toy_games.Nim):
    def observe(self, state, seat):
      return {"nothing": jnp.zeros(0)}

  class Turns(toy_games.NimText):
    segments: Sequence[Sequence[str]] = (("Your turn.", "Over.", "Wait."),)

    def show(self, state, seat):
      turn = self.game.to_act(state)
      others = jnp.where(turn == game_lib.OVER, 1, 2)
      return jnp.where(turn == seat, 0, others)[None].astype(jnp.int32)

  class Dealing(Turns):
    def show(self, state, seat):
      is_chance = self.game.to_act(state) == game_lib.CHANCE
      return jnp.where(is_chance, -1, super().show(state, seat))

  game = Blind(cards=True)
  testing.check_game(game, Turns(game))
  toy_games.refuse(
    "show: tells seat 0 (first) more than…: slot 0 is None or 'Wait.'…",
    game,
    Dealing(game),
  )


def test_text_of_a_game_without_observations_is_not_compared():
  class Open(toy_games.Nim):
    observe: Any = None

  class Free(toy_games.NimText):
    def show(self, state, seat):
      return jnp.stack([state.stones, state.cards[1 - seat]])

  game = Open(cards=True)
  testing.check_game(game, Free(game))


@pytest.mark.parametrize(("slot", "value"), [(0, 8), (1, 2), (1, -2)])
def test_slots_that_have_no_such_text(slot, value):
  class Outside(toy_games.NimText):
    def show(self, state, seat):
      slots = super().show(state, seat)
      return jnp.where(state.stones == 7, slots.at[slot].set(value), slots)

  toy_games.refuse(
    "show: each slot must be -1 or the number of one of its texts, of which there"
    f" are [8, 2], found [{value if slot == 0 else 7}, "
    f"{value if slot == 1 else -1}]",
    CARDS,
    Outside(CARDS),
  )


def test_a_wrong_number_of_slots():
  class Narrow(toy_games.NimText):
    def show(self, state, seat):
      return super().show(state, seat)[:1]

  toy_games.refuse(
    "show: expected int32[2], found int32[1]", CARDS, Narrow(CARDS)
  )


@pytest.mark.parametrize(
  ("attribute", "value", "message"),
  [
    ("seats", ("X",), "seats: expected 2 distinct names, found ['X']"),
    ("seats", ("X", "X"), "seats: expected 2 distinct names, found ['X', 'X']"),
    (
      "segments",
      (("a",), ()),
      "segments: expected one or more texts in element 1, found ()",
    ),
    (
      "segments",
      ("Stones", ("a",)),
      "segments: expected one or more texts in element 0, found 'Stones'",
    ),
    (
      "actions",
      (("1",), ("2",), ()),
      "actions: expected one or more texts in element 2, found ()",
    ),
    (
      "actions",
      (("1",), ("2",), (3,)),
      "actions: expected one or more texts in element 2, found (3,)",
    ),
    (
      "actions",
      (("1",), ("2",)),
      "actions: expected spellings of 3 actions, found 2",
    ),
    (
      "actions",
      (("1",), ("2", ""), ("3",)),
      "actions: a spelling of action 1 is empty",
    ),
    (
      "actions",
      (("1", "one"), ("2",), ("3", "one")),
      "actions: 'one' spells the actions 0 and 2",
    ),
    (
      "actions",
      (("1",), ("2", "1234"), ("3",)),
      "actions: '1' of action 0 is a prefix of '1234' of action 1",
    ),
    (
      # Sorted, a longer spelling of action 0 comes between them.
      "actions",
      (("1", "1a"), ("2", "1b"), ("3",)),
      "actions: '1' of action 0 is a prefix of '1b' of action 1",
    ),
  ],
)
def test_bad_words(attribute, value, message):
  text = toy_games.NimText(CARDS)
  setattr(text, attribute, value)
  toy_games.refuse(message, CARDS, text)


def test_spellings_of_one_action_may_begin_with_each_other():
  class Begun(toy_games.NimText):
    actions: Sequence[Sequence[str]] = (("1", "1 stone"), ("2",), ("3",))

  testing.check_game(CARDS, Begun(CARDS), num_games=3)
