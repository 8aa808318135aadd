"""Kuhn poker equals OpenSpiel's in every history, and its text."""

import pytest

from tests import game_checks
from tunix_ttt import errors
from tunix_ttt.games import solve
from tunix_ttt.games.kuhn_poker import kuhn_game
from tunix_ttt.games.kuhn_poker import kuhn_text

GAME = kuhn_game.KuhnPoker()
PASS, BET = kuhn_game.PASS, kuhn_game.BET


def read(seat, *plies):
  states = game_checks.batch(game_checks.play(GAME, *plies))
  return game_checks.texts(kuhn_text.KuhnPokerText(), states, 2)[seat][0]


def test_every_history_equals_openspiels():
  game_checks.assert_equals_open_spiel(GAME)


@pytest.mark.parametrize(
  "plies, returns",
  [
    ((2, 0, PASS, PASS), (1, -1)),
    ((0, 1, BET, PASS), (1, -1)),
    ((0, 1, BET, BET), (-2, 2)),
    ((1, 0, PASS, BET, PASS), (-1, 1)),
    ((1, 0, PASS, BET, BET), (2, -2)),
    ((1, 0, PASS, BET), (0, 0)),
  ],
)
def test_returns(plies, returns):
  assert GAME.returns(game_checks.play(GAME, *plies)).tolist() == list(returns)


def test_finished_games_stay():
  game_checks.assert_finished_games_stay(GAME, 3)


def test_exact_minimax_is_refused():
  with pytest.raises(
    errors.UserError, match="24 states .* look like 12 .* needs visible states"
  ):
    solve.solve(GAME)


def test_text_of_a_game():
  assert read(0) == read(1) == read(1, 2) == ""
  assert read(0, 2, 0) == "Your card: king.\nPass or bet?"
  assert read(1, 2, 0) == "Your card: jack.\n"
  plies = (2, 0, PASS, BET)
  assert read(0, *plies) == (
    "Your card: king.\nYou pass.\nYour opponent bets.\nPass or bet?"
  )
  assert read(1, *plies, BET) == (
    "Your card: jack.\nYour opponent passes.\nYou bet.\nYour opponent bets.\n"
  )


def test_text_shows_what_a_seat_knows():
  game_checks.assert_text_shows_what_seats_know(GAME, kuhn_text.KuhnPokerText())
