"""Makes rows for SFT from the games of an expert."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tunix_ttt import streams
from tunix_ttt.games import definition as definition_lib
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.runs import progress
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Row = dict[str, Any]
_BATCH = 256


def games(
  game: definition_lib.Definition,
  expert: players.Player,
  opponent: players.Player | None = None,
  *,
  num_games: int,
  seed: int = 0,
) -> Iterator[tuple[float, list[Row]]]:
  """Yields the return and the rows of each game, a `row` for each expert move.

  The expert takes the seats in turn. A game depends on the seed and its number
  only.

  Args:
    game: Game with its text.
    expert: Player whose moves are the answers.
    opponent: Player of the other seats; None for the random one.
    num_games: Number of games.
    seed: Random seed.
  """
  view, text = game.environment(opponent), game.text
  answers = [spellings.render_answer(names[0]) for names in text.actions]
  play = jax.jit(
    jax.vmap(lambda key, seat: _play(view, text, expert, key, seat))
  )
  size = min(_BATCH, num_games)
  bar = progress.bar(total=num_games, unit="game")
  with bar:
    for first in range(0, num_games, size):
      numbers = jnp.arange(first, first + size)
      keys = streams.keys(seed, streams.Stream.EXPERT_GAMES, last=numbers)
      games = jax.device_get(play(keys, numbers % len(text.seats)))
      # The last batch is full, but not all of its games belong to the rows.
      for number, (shows, actions, num_turns, value) in zip(
        range(first, num_games), zip(*games, strict=True), strict=False
      ):
        bar.update()
        seat, value = number % len(text.seats), float(value)
        turns = zip(
          shows[:num_turns].tolist(), actions[:num_turns].tolist(), strict=True
        )
        yield (
          value,
          [
            row(game, show, answers[action], seat, value)
            for show, action in turns
          ],
        )


def row(
  game: definition_lib.Definition,
  show: Sequence[int],
  answer: str,
  seat: int,
  value: float,
) -> Row:
  """Returns a conversation of one answer, the seat and the game's return.

  `show` is the observation, the result of `GameText.show`.
  """
  observation = game_lib.observation_text(game.text, show)
  return {
    "messages": [
      chat.message("system", game.text.rules),
      chat.message("user", observation),
      chat.message("assistant", answer),
    ],
    "game": game.name,
    "seat": game.seats[seat],
    "return": value,
  }


def _play(
  view: view_lib.View,
  text: Any,
  expert: players.Player,
  key: jax.Array,
  seat: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns observations, actions, the number of turns and the return."""
  start = view.init(key, seat)
  show = text.show(start.game, start.seat)
  length = view.game.max_plies
  shows = jnp.zeros((length, *show.shape), show.dtype)
  actions = jnp.zeros(length, jnp.int32)

  def is_ongoing(carry: Any) -> jax.Array:
    state, *_ = carry
    return state.ending == view_lib.Ending.ONGOING

  def turn(carry: Any) -> Any:
    state, number, shows, actions = carry
    keys = players.Keys(
      game=streams.fold_in(key, streams.Stream.EXPERT_CHOICES),
      ply=streams.fold_in(key, streams.Stream.EXPERT_MOVES, number),
    )
    action = jnp.asarray(expert(keys, state.game), jnp.int32)
    shows = shows.at[number].set(text.show(state.game, state.seat))
    actions = actions.at[number].set(action)
    return view.step(state, action), number + 1, shows, actions

  carry = start, jnp.int32(0), shows, actions
  state, number, shows, actions = jax.lax.while_loop(is_ongoing, turn, carry)
  return shows, actions, number, view.returns(state)
