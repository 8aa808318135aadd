"""High Card Duel: every deal, what the seats see, and the text."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import game_checks
from tunix_ttt import errors
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.games.high_card_duel import duel_game
from tunix_ttt.games.high_card_duel import duel_text

GAME = duel_game.HighCardDuel()
DECK = [rank for rank in "23456789TJQKA*" for _ in range(4)]


def test_every_deal_is_equally_likely_and_paid_by_rank():
  graph = jax.tree.map(np.asarray, solve.enumerate_states(GAME))
  assert len(graph.to_act) == 1 + 56 + 3 * 56 * 55
  np.testing.assert_allclose(graph.probabilities[0], 1 / 56)
  results = collections.Counter()
  for first, node in enumerate(graph.outcomes[0]):
    expected = np.where(np.arange(56) == first, 0, 1 / 55)
    np.testing.assert_allclose(graph.probabilities[node], expected, rtol=1e-6)
    for second, deal in enumerate(graph.outcomes[node]):
      if second == first:
        assert deal == -1
        continue
      (middle,) = graph.children[deal]
      (last,) = graph.children[middle]
      path = [0, node, deal, middle, last]
      assert graph.to_act[path].tolist() == [
        game_lib.CHANCE, game_lib.CHANCE, 0, 1, game_lib.OVER
      ]  # fmt: skip
      assert not graph.returns[path[:-1]].any()
      order = "23456789TJQKA*"
      ranks = [order.index(DECK[card]) for card in (first, second)]
      won = (ranks[0] > ranks[1]) - (ranks[0] < ranks[1])
      assert graph.returns[last].tolist() == [won, -won]
      results[won] += 1
  assert results == {1: 1456, -1: 1456, 0: 168}


def test_the_opponents_card_is_hidden_until_it_is_revealed():
  def seen(seat, *plies):
    cards, num_revealed = GAME.observe(
      game_checks.play(GAME, *plies), jnp.int32(seat)
    )
    return cards.tolist(), int(num_revealed)

  assert [seen(0, 7, 50), seen(1, 7, 50)] == [([7, -1], 0), ([-1, 50], 0)]
  assert [seen(0, 7, 50, 0), seen(1, 7, 50, 0)] == [([7, -1], 1), ([7, 50], 1)]
  assert seen(0, 7, 50, 0, 0) == seen(1, 7, 50, 0, 0) == ([7, 50], 2)
  with pytest.raises(errors.UserError, match="6,160 states .* like 3,136"):
    solve.solve(GAME)


def test_finished_games_stay():
  game_checks.assert_finished_games_stay(GAME, 56)


def test_text_is_shown_to_the_seat_to_act():
  lines = [(7, 50), (7, 50, 0), (7, 50, 0, 0), (7,)]
  states = [game_checks.play(GAME, *plies) for plies in lines]
  sentence = "High Card Duel: You have 1 hidden card. Action: reveal."
  assert game_checks.texts(
    duel_text.HighCardDuelText(), game_checks.batch(*states), 2
  ) == [
    [sentence, "", "", ""],
    ["", sentence, "", ""],
  ]
