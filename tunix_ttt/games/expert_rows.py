"""Makes rows for SFT from the games of an expert."""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import itertools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games import definition as definition_lib
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.runs import progress
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Row = dict[str, Any]
# Observation, and the expert's action, of each of its turns.
_Turns = list[tuple[list[int], int]]
_WIDTH = 256


class _Program(NamedTuple):
  """Compiled functions of games' numbers, int [W], and states."""

  start: Callable[..., Any]
  turn: Callable[..., Any]


def games(
  game: definition_lib.Definition,
  expert: players.Player,
  opponent: players.Player | None = None,
  *,
  num_games: int,
  seed: int = 0,
  slips: float = 0.0,
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
    slips: Probability that a game goes on with a random legal move. The answer
      is the expert's move all the same, so rows also show positions that the
      expert avoids.
  """
  answers = [spellings.render_answer(names[0]) for names in game.text.actions]
  program = _compile(game, expert, opponent, seed, slips)
  # XLA runs the loops of a search on one core.
  cores = os.cpu_count() if jax.default_backend() == "cpu" else None
  workers = min(cores or 1, -(-num_games // _WIDTH))
  bounds = np.linspace(0, num_games, workers + 1).astype(int).tolist()
  bar = progress.bar(total=num_games, unit="game")
  with bar, futures.ThreadPoolExecutor(workers) as pool:
    parts = pool.map(
      lambda part: [*_play(program, part, bar)], itertools.pairwise(bounds)
    )
    every = itertools.chain.from_iterable(parts)
    for number, (turns, value) in enumerate(every):
      seat = number % len(game.seats)
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


def _compile(
  game: definition_lib.Definition,
  expert: players.Player,
  opponent: players.Player | None,
  seed: int,
  slips: float,
) -> _Program:
  """Returns the functions that start the games of W numbers, and play a turn."""
  view, text, names = game.environment(opponent), game.text, streams.Stream

  def start(number: jax.Array) -> view_lib.ViewState:
    key = streams.key(seed, names.EXPERT_GAMES, number)
    return view.init(key, number % len(text.seats))

  def turn(
    number: jax.Array, state: view_lib.ViewState
  ) -> tuple[view_lib.ViewState, tuple[jax.Array, ...]]:
    key = streams.key(seed, names.EXPERT_GAMES, number)
    keys = players.Keys(
      game=streams.fold_in(key, names.EXPERT_CHOICES),
      ply=streams.fold_in(key, names.EXPERT_MOVES, state.plies),
    )
    action = jnp.asarray(expert(keys, state.game), jnp.int32)
    slip = players.epsilon(view.game, lambda *_: action, slips)
    slip_key = streams.fold_in(key, names.EXPERT_SLIPS, state.plies)
    after = view.step(state, slip(keys._replace(ply=slip_key), state.game))
    ongoing = view_lib.Ending.ONGOING
    is_turn, is_over = state.ending == ongoing, after.ending != ongoing
    show = text.show(state.game, state.seat)
    return after, (show, action, is_turn, is_over, view.returns(after))

  return _Program(jax.jit(jax.vmap(start)), jax.jit(jax.vmap(turn)))


def _play(
  program: _Program, bounds: tuple[int, int], bar: Any
) -> Iterator[tuple[_Turns, float]]:
  """Yields the turns and the return of each game from `bounds[0]` on.

  At most `_WIDTH` games are active. As a start may wait for an opponent's
  search, waiting games replace finished ones when a quarter are finished.
  """
  number, last = bounds
  width = min(_WIDTH, last - number)
  active, waiting = np.arange(number, number + width), number + width
  states = program.start(active)
  turns: dict[int, _Turns] = collections.defaultdict(list)
  values: dict[int, float] = {}
  while number < last:
    states, record = program.turn(active, states)
    shows, actions, is_turn, is_over, returns = jax.device_get(record)
    for lane in np.flatnonzero(is_turn):
      turns[active[lane]].append((shows[lane].tolist(), int(actions[lane])))
    finished = np.flatnonzero(is_over)
    values |= zip(active[finished], returns[finished].tolist(), strict=True)
    while number in values:
      yield turns.pop(number, []), values.pop(number)
      number += 1
      bar.update()
    fresh = finished[: last - waiting]
    if 4 * len(fresh) >= min(width, 4 * (last - waiting)) > 0:
      active[fresh] = np.arange(waiting, waiting + len(fresh))
      waiting += len(fresh)
      is_fresh = np.isin(np.arange(width), fresh)
      states = _where(is_fresh, program.start(active), states)


@jax.jit
def _where(condition: jax.Array, this: Any, that: Any) -> Any:
  choose = jax.vmap(lambda chosen, a, b: jnp.where(chosen, a, b))
  return jax.tree.map(lambda a, b: choose(condition, a, b), this, that)
