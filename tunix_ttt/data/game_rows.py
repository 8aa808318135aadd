"""Makes rows for SFT from games of any kind, played by a player of one's own."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.runs import progress
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Row = dict[str, Any]
_BATCH = 256


def rows(
  view: view_lib.View,
  text: game_lib.GameText,
  expert: players.Player,
  *,
  num_games: int,
  seed: int = 0,
  min_return: float = float("-inf"),
) -> Iterator[Row]:
  """Yields a conversation for each move of an expert.

  The expert takes the seats in turn, against the view's opponents. A game
  depends on the seed and its number only. A row has the `messages`, the name of
  the `seat` and the `return` of the game.

  Args:
    view: Game and opponents.
    text: Text of the game.
    expert: Player whose moves are the answers.
    num_games: Number of games.
    seed: Random seed.
    min_return: Minimum return of a game; others are dropped.
  """
  play = jax.jit(
    jax.vmap(lambda key, seat: _play(view, text, expert, key, seat))
  )
  size = min(_BATCH, num_games)
  bar = progress.bar(total=num_games, unit="game")
  with progress.stage("playing", has_bar=True), bar:
    for first in range(0, num_games, size):
      numbers = jnp.arange(first, first + size)
      keys = streams.keys(seed, streams.Stream.EXPERT_GAMES, last=numbers)
      seats = numbers % view.game.num_seats
      games = jax.device_get(play(keys, seats))
      # The last batch is full, but not all of its games are asked for.
      for number, (shows, actions, is_turn, value) in zip(
        range(first, num_games), zip(*games, strict=True), strict=False
      ):
        bar.update()
        if value < min_return:
          continue
        seat = text.seats[number % view.game.num_seats]
        for show, action in zip(shows[is_turn], actions[is_turn], strict=True):
          answer = spellings.render_answer(text.actions[int(action)][0])
          yield {
            "messages": [
              chat.message("system", text.rules),
              chat.message("user", observation(text, show.tolist())),
              chat.message("assistant", answer),
            ],
            "seat": seat,
            "return": float(value),
          }


def observation(text: game_lib.GameText, show: Sequence[int]) -> str:
  """Returns the text of an observation, the result of `GameText.show`."""
  slots = zip(text.segments, show, strict=True)
  return "".join(texts[number] for texts, number in slots if number >= 0)


def _play(
  view: view_lib.View,
  text: game_lib.GameText,
  expert: players.Player,
  key: jax.Array,
  seat: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns observations, actions, the mask of turns and the return of a game."""

  def turn(
    state: view_lib.ViewState, number: jax.Array
  ) -> tuple[view_lib.ViewState, tuple[jax.Array, ...]]:
    keys = players.Keys(
      game=streams.fold_in(key, streams.Stream.EXPERT_CHOICES),
      ply=streams.fold_in(key, streams.Stream.EXPERT_MOVES, number),
    )
    action = expert(keys, state.game)
    is_turn = state.ending == view_lib.Ending.ONGOING
    record = text.show(state.game, state.seat), action, is_turn
    return view.step(state, action), record

  turns = jnp.arange(view.game.max_plies)
  state, (shows, actions, is_turn) = jax.lax.scan(
    turn, view.init(key, seat), turns
  )
  return shows, actions, is_turn, view.returns(state)
