"""Traces of High Card Duel as `tunix_sft` rows.

The player has seat 0. The prompt does not name the card and `reveal` is the only
move, so the answer is the same in every row; the cards differ by chance.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.games.high_card_duel import duel_game
from tunix_ttt.games.high_card_duel import duel_text
from tunix_ttt.text import tokenizers

# A joker is *; the other names are such as AS, the ace of spades.
CARDS = tuple(rank + suit for rank in "23456789TJQKA*" for suit in "SHDC")
_RESULTS = {
  game_lib.Outcome.WIN: "win",
  game_lib.Outcome.DRAW: "tie",
  game_lib.Outcome.LOSS: "loss",
}
# Every batch is full, so that the games of all counts are one program.
_BATCH = 256


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
  """Yields a row for each of `count` games.

  A game depends on the seed and its number only: the same seed gives the same
  rows, and a smaller count gives a prefix of them. The model's turn has the
  steps of the trace as a thought, then the answer.
  """
  play = jax.jit(jax.vmap(_play))
  for first in range(0, count, _BATCH):
    numbers = jnp.arange(first, first + _BATCH)
    keys = streams.keys(seed, streams.Stream.TRACED_GAMES, last=numbers)
    deals, outcomes = jax.device_get(play(keys))
    for number, deal, outcome in zip(
      range(first, count), deals.tolist(), outcomes.tolist(), strict=False
    ):
      yield _row(seed, number, deal, game_lib.Outcome(outcome))


def _play(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the cards of the seats, int8 [2], and seat 0's outcome, int8 []."""
  game = duel_game.HighCardDuel()
  view = view_lib.View(game=game, opponents=players.random(game))
  state = view.step(view.init(key, 0), duel_game.REVEAL)
  return state.game.cards, view.outcome(state)


def _row(
  seed: int, number: int, deal: list[int], outcome: game_lib.Outcome
) -> dict[str, Any]:
  text = duel_text.HighCardDuelText()
  (((prompt,),), ((action,),)) = text.segments, text.actions
  my_card, opponent_card = (CARDS[card] for card in deal)
  steps = [
    f"Legal moves: [{action}]",
    f"My hand: {my_card}",
    f"Unseen cards: {duel_game.NUM_CARDS - 1}",
    f"Action chosen: {action}",
  ]
  thought = "<think>" + "\n".join(steps) + "</think>\n"
  return {
    "id": f"high_card_duel-{seed}-{number}",
    "prompts": tokenizers.gemma_turn("user", prompt)
    + tokenizers.gemma_turn("model", thought + action),
    "trace_steps": steps,
    "final_answer": action,
    "metadata": {
      "source": "ungar",
      "game": "high_card_duel",
      "seed": seed,
      "episode_index": number,
      "my_card": my_card,
      "opponent_card": opponent_card,
      "result": _RESULTS[outcome],
    },
  }
