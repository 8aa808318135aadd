"""Leduc poker equals OpenSpiel's in every history, and its text."""

import pytest

from tests import game_checks
from tunix_ttt import errors
from tunix_ttt.games import solve
from tunix_ttt.games.leduc_poker import leduc_game
from tunix_ttt.games.leduc_poker import leduc_text

GAME = leduc_game.LeducPoker()
FOLD, CALL, RAISE = leduc_game.FOLD, leduc_game.CALL, leduc_game.RAISE


def read(seat, *plies):
  states = game_checks.batch(game_checks.play(GAME, *plies))
  return game_checks.texts(leduc_text.LeducPokerText(), states, 2)[seat][0]


def test_every_history_equals_openspiels():
  game_checks.assert_equals_open_spiel(GAME)


@pytest.mark.parametrize(
  "plies, returns",
  [
    # The pair of jacks beats the king.
    ((0, 5, CALL, CALL, 1, CALL, CALL), (1, -1)),
    ((0, 5, CALL, CALL, 2, CALL, RAISE, RAISE, CALL), (-9, 9)),
    # Both have a queen.
    ((2, 3, RAISE, RAISE, CALL, 0, RAISE, RAISE, CALL), (0, 0)),
    ((4, 0, RAISE, FOLD), (1, -1)),
    ((4, 0, RAISE, RAISE, CALL, 5, RAISE, RAISE, FOLD), (-9, 9)),
    ((4, 0, RAISE, RAISE, CALL, 5, RAISE, RAISE), (0, 0)),
  ],
)
def test_returns(plies, returns):
  assert GAME.returns(game_checks.play(GAME, *plies)).tolist() == list(returns)


def test_finished_games_stay():
  game_checks.assert_finished_games_stay(GAME, 6)


def test_exact_minimax_is_refused():
  with pytest.raises(
    errors.UserError, match="3,780 states .* look like 936 to the seats"
  ):
    solve.solve(GAME)


def test_text_of_a_game():
  assert read(0, 4, 1) == "Your card: king of hearts.\nCall or raise?"
  assert read(1, 4, 1) == "Your card: jack of spades.\n"
  plies = (4, 1, CALL, RAISE, CALL, 2)
  assert read(0, *plies) == (
    "Your card: king of hearts.\nYou call.\nYour opponent raises.\nYou call."
    "\nPublic card: queen of hearts.\nCall or raise?"
  )
  assert read(1, *plies, RAISE) == (
    "Your card: jack of spades.\nYour opponent calls.\nYou raise."
    "\nYour opponent calls.\nPublic card: queen of hearts."
    "\nYour opponent raises.\nFold, call or raise?"
  )
  assert read(0, *plies, RAISE, RAISE).endswith("raises.\nFold or call?")
  assert read(0, *plies, RAISE, FOLD).endswith("\nYour opponent folds.\n")


def test_text_shows_what_a_seat_knows():
  game_checks.assert_text_shows_what_seats_know(
    GAME, leduc_text.LeducPokerText()
  )
