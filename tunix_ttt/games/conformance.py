"""Checks that a game and its text keep to the interfaces in `game`.

A game may have one method more than its interface, `observe(state, seat)`: a
pytree of everything that a seat knows. With it, the text is checked to show
nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games import assertions
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import text_conformance

# Methods of a game and its text as functions of the state.
_Readers = dict[str, Callable[[Any], Any]]


class _Ply(NamedTuple):
  """One ply of N games: states, NumPy results of readers, and actions."""

  states: Any
  values: dict[str, Any]
  actions: np.ndarray


def check_game(
  game: game_lib.Game,
  text: game_lib.GameText | None = None,
  *,
  num_games: int = 64,
  seed: int = 0,
) -> None:
  """Checks the properties of a game that the engine relies on.

  Plays random games, in which all possible outcomes of chance are equally
  likely:

  - states are pytrees of arrays that keep their structure, shapes and dtypes;
  - methods compile, and return the shapes and dtypes of the interface;
  - methods are pure and do not depend on batching or compilation;
  - actions are legal exactly while a seat is to act;
  - the probabilities of chance are not negative and add up to 1;
  - returns are 0 before the end and finite at the end;
  - games end within `max_plies` steps and then ignore further steps.

  The text, if there is one:

  - has a distinct name for each seat;
  - spells every action, and no spelling is a prefix of another action's;
  - shows texts that exist;
  - shows a seat nothing that is not in the game's `observe`, an optional method
    from a state and a seat to a pytree of everything that the seat knows, apart
    from whether it is the seat's turn and whether the game is over.

  Args:
    game: Rules of the game.
    text: Text of the game.
    num_games: Number of random games.
    seed: Random seed of the games.

  Raises:
    AssertionError: with the first property that does not hold.
  """
  if text is not None:
    text_conformance.check_words(game, text)
  stream = streams.Stream.GAME_CONFORMANCE
  keys = streams.keys(seed, stream, last=jnp.arange(num_games))
  readers = _readers(game, text)
  _check_states(game, keys[0])
  _check_readers(game, text, readers, keys[0])
  history = _play(game, readers, keys, streams.generator(seed, stream))
  if text is not None:
    text_conformance.check_show(text, [ply.values for ply in history])
  _check_calls(game, readers, keys[0], history)


def _readers(game: game_lib.Game, text: game_lib.GameText | None) -> _Readers:
  def each_seat(method: Callable[..., Any]) -> Callable[[Any], list[Any]]:
    seats = range(game.num_seats)
    return lambda state: [method(state, jnp.int32(seat)) for seat in seats]

  names = ("to_act", "legal", "chance", "returns")
  readers: _Readers = {name: getattr(game, name) for name in names}
  if text is not None:
    readers["show"] = each_seat(text.show)
  observe = getattr(game, "observe", None)
  if observe is not None:
    readers["observe"] = each_seat(observe)
  return readers


def _check_states(game: game_lib.Game, key: jax.Array) -> None:
  """Checks that states are pytrees of arrays of unchanging types."""
  state = game.init(key)
  for leaf in jax.tree.leaves(state):
    if not isinstance(leaf, jax.Array | np.ndarray):
      assertions.fail(
        "init: a state must be a frozen pytree of arrays, such as a"
        " flax.struct.dataclass; one of its leaves has the type"
        f" {type(leaf).__name__}"
      )
  expected = _layout(state)
  first = _trace("init", game.init, key)
  after = _trace("step", game.step, state, jnp.int32(0))
  for name, layout in (("init", _layout(first)), ("step", _layout(after))):
    for part, value in expected.items():
      if layout.get(part) != value:
        assertions.fail(
          f"{name}: states must keep their structure, shapes and dtypes;"
          f" {part} was {value}, then {layout.get(part)}"
        )


def _layout(state: Any) -> dict[str, str]:
  """Returns the type of each leaf by its path, and the structure."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(state)
  types = {
    f"state{jax.tree_util.keystr(path)}": assertions.type_name(leaf)
    for path, leaf in leaves
  }
  return {**types, "the structure": str(structure)}


def _check_readers(
  game: game_lib.Game,
  text: game_lib.GameText | None,
  readers: _Readers,
  key: jax.Array,
) -> None:
  """Checks the types of results, and that all methods compile."""
  types = {
    "to_act": "int32[]",
    "legal": f"bool[{game.num_actions}]",
    "returns": f"float32[{game.num_seats}]",
  }
  if text is not None:
    types["show"] = f"int32[{len(text.segments)}]"
  state = game.init(key)
  for name, reader in readers.items():
    for leaf in jax.tree.leaves(_trace(name, reader, state)):
      actual = assertions.type_name(leaf)
      # The game chooses its number of outcomes, and its observation.
      if name == "chance":
        length = leaf.shape[0] if leaf.ndim == 1 else "C"
        types[name] = f"float32[{length}]"
      if types.get(name, actual) != actual:
        assertions.fail(f"{name}: expected {types[name]}, found {actual}")


def _trace(name: str, method: Callable[..., Any], *arguments: Any) -> Any:
  """Returns the types of a method's result."""
  try:
    return jax.eval_shape(method, *arguments)
  except Exception as error:
    reason = str(error).partition("\n")[0]
    assertions.fail(
      f"{name}: JAX cannot compile it ({type(error).__name__}: {reason}); write"
      " it with jax.numpy, without if and for on its arguments"
    )


def _play(
  game: game_lib.Game,
  readers: _Readers,
  keys: jax.Array,
  rng: np.random.Generator,
) -> list[_Ply]:
  """Plays random games and checks the rules at every ply."""
  read = jax.jit(
    jax.vmap(lambda state: {name: f(state) for name, f in readers.items()})
  )
  step = jax.jit(jax.vmap(game.step))
  states, history = jax.jit(jax.vmap(game.init))(keys), []
  while True:
    values = assertions.to_numpy(read(states))
    _check_values(game, values)
    over = values["to_act"] == game_lib.OVER
    choices = _choices(values)
    noise = np.where(choices, rng.random(choices.shape), -1)
    actions = noise.argmax(axis=1).astype(np.int32)
    history.append(_Ply(states, values, actions))
    if over.all():
      break
    if len(history) > game.max_plies:
      assertions.fail(
        f"max_plies: {(~over).sum()} of {len(over)} games did not end within"
        f" {game.max_plies} steps"
      )
    after = step(states, actions)
    _check_over(states, after, over, actions)
    states = after
  for action in range(choices.shape[1]):
    actions = np.full(len(over), action, np.int32)
    _check_over(states, step(states, actions), over, actions)
  return history


def _choices(values: dict[str, Any]) -> np.ndarray:
  """Returns the possible actions or outcomes, all after the end: [N, …]."""
  turn, legal, chance = (values[n] for n in ("to_act", "legal", "chance"))
  choices = np.zeros((len(turn), max(legal.shape[1], chance.shape[1])), bool)
  is_chance = (turn == game_lib.CHANCE)[:, None]
  choices[:, : chance.shape[1]] = is_chance & (chance > 0)
  choices[:, : legal.shape[1]] |= legal
  choices[turn == game_lib.OVER] = True
  return choices


def _check_values(game: game_lib.Game, values: dict[str, Any]) -> None:
  turn, legal, returns = (values[n] for n in ("to_act", "legal", "returns"))
  assertions.check(
    (turn < game.num_seats) & (turn >= game_lib.OVER),
    f"to_act: must be a seat below {game.num_seats}, CHANCE (-1) or OVER (-2)",
    turn,
  )
  assertions.check(
    (turn < 0) | legal.any(axis=1),
    "legal: an action must be legal while a seat is to act",
    legal,
  )
  assertions.check(
    (turn >= 0) | ~legal.any(axis=1),
    "legal: no action may be legal at a chance node or after the end",
    legal,
  )
  chance = values["chance"][turn == game_lib.CHANCE]
  assertions.check(
    (chance >= 0).all(axis=1) & (np.abs(chance.sum(axis=1) - 1) < 1e-5),
    "chance: probabilities must not be negative and must add up to 1",
    chance,
  )
  assertions.check(
    (turn == game_lib.OVER) | (returns == 0).all(axis=1),
    "returns: must be 0 before the end",
    returns,
  )
  assertions.check(
    np.isfinite(returns).all(axis=1), "returns: must be finite", returns
  )


def _check_over(
  before: Any, after: Any, over: np.ndarray, actions: np.ndarray
) -> None:
  num_games = len(over)
  old = assertions.rows(assertions.to_numpy(before), num_games)
  new = assertions.rows(assertions.to_numpy(after), num_games)
  is_same = np.array([a == b for a, b in zip(old, new, strict=True)])
  assertions.check(
    is_same | ~over,
    "step: must leave a finished game as it is for every action",
    actions,
  )


def _check_calls(
  game: game_lib.Game,
  readers: _Readers,
  key: jax.Array,
  history: Sequence[_Ply],
) -> None:
  """Repeats calls without batching and compilation, for each kind of node."""
  first = _call("init", game.init, key)
  _check_same("init", first, history[0].states, 0)
  for ply, row in _examples([values["to_act"] for _, values, _ in history]):
    states, values, actions = history[ply]
    is_first = (ply, row) == (0, 0)
    state = first if is_first else _row(states, row)
    for name, reader in readers.items():
      _check_same(name, _call(name, reader, state), values[name], row)
    after = _call("step", game.step, state, jnp.int32(actions[row]))
    # All games are over at the last ply and stay as they are.
    next_ply = min(ply + 1, len(history) - 1)
    _check_same("step", after, history[next_ply].states, row)


def _examples(turns: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
  """Yields the first and the last ply and row of each value of `to_act`."""
  for turn in np.unique(turns):
    places = np.argwhere(np.equal(turns, turn))
    yield from {tuple(places[n].tolist()) for n in (0, -1)}


def _row(tree: Any, row: int) -> Any:
  return jax.tree.map(lambda leaf: leaf[row], tree)


def _check_same(name: str, single: Any, batched: Any, row: int) -> None:
  expected = assertions.to_numpy(_row(batched, row))
  if not assertions.is_close(assertions.to_numpy(single), expected):
    assertions.fail(f"{name}: its result depends on batching or compilation")


def _call(name: str, method: Callable[..., Any], *arguments: Any) -> Any:
  """Returns the result of a method, after checking that it is pure."""
  before = assertions.to_numpy(arguments)
  result = method(*arguments)
  if not assertions.is_equal(before, assertions.to_numpy(arguments)):
    assertions.fail(f"{name}: must not change its input")
  first = assertions.to_numpy(result)
  if not assertions.is_equal(first, assertions.to_numpy(method(*arguments))):
    assertions.fail(f"{name}: equal inputs must give equal outputs")
  return result
