"""Tabulates all games against a greedy policy, for a page to play from."""

import collections
from collections.abc import Mapping, Sequence
import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import game_files
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import solve
from tunix_ttt.games import state_graph

# Limits of a table: its nodes, its JSON, and the states of the whole game.
MAX_NODES, MAX_BYTES, MAX_STATES = 3000, 300_000, 50_000

_CHANCE = "The game has chance, which a table of answers leaves out."
_HIDDEN = "The game hides information, which a table of answers would reveal."
_MANY = "The game has too many positions for a table of the model's answers."
_MISSING = "The evaluation does not have the model's answer to every position."
_OTHER = "The model's answers are those of other rules."
_UNKNOWN = "The page was written where the rules of the game are unknown."
_SEVERAL = "The model's answer depends on earlier turns, not on the position."


class Play(NamedTuple):
  """A table of games, or else the reason that there is none, a sentence.

  Attributes:
    table: Plain data: the names of `seats`, the first spellings of actions as
      `labels`, the maximum length of games as `plies`, distinct `texts`, and
      `nodes`, which begin with the first node for a human in either seat. Each
      node has the number of the `text` that the human sees. At the human's turn,
      `moves` maps legal actions to nodes. At the model's turn there are the
      number of its `response`, its `move` (-1 if unreadable) and the `next`
      node, which a move that is not legal lacks. Both have the optimal actions
      as `best` if the game is solved. A node that ends a game has its `ending`.
    reason: Sentence for the page; empty if there is a table.
  """

  table: dict[str, Any] | None
  reason: str = ""


class _UnplayableError(Exception):
  """Carries the reason for a missing table."""


def load(
  name: str,
  options: Mapping[str, Any],
  policy: Mapping[str, Sequence[game_files.Answer]],
) -> Play:
  """Builds the table of a game that is named as in configs."""
  try:
    game = catalog.load(name, **options)
  except errors.UserError:
    # The page may be written without the user's module.
    return Play(None, _UNKNOWN)
  return build(game, policy)


def build(
  game: definition.Definition,
  policy: Mapping[str, Sequence[game_files.Answer]],
) -> Play:
  """Tabulates all games of a human in each seat against a greedy policy.

  `policy` has the model's answers by the name of its seat. An illegal or
  unreadable answer ends a game, which the human wins.
  """
  try:
    graph = _visible_graph(game)
    answers = [_answers(game.text, seat, policy) for seat in game.seats]
    table = _tabulate(game, graph, answers)
  except _UnplayableError as reason:
    return Play(None, str(reason))
  return Play(table)


def _visible_graph(game: definition.Definition) -> state_graph.StateGraph:
  """Returns the states of a game of two seats without chance, on the host."""
  rules = game.game
  if rules.num_seats == 1:
    raise _UnplayableError("The game has one seat, and the model sits in it.")
  if rules.num_seats > 2:
    raise _UnplayableError(f"The game has {rules.num_seats} seats, not two.")
  key = streams.key(0, streams.Stream.FIRST_STATES)
  odds = jax.eval_shape(lambda key: rules.chance(rules.init(key)), key)
  try:
    state_graph.first_state(rules)
  except errors.UserError:
    raise _UnplayableError(_CHANCE) from None
  graph = None
  if game.is_enumerable:
    with contextlib.suppress(errors.UserError):
      graph = state_graph.enumerate_states(rules, max_states=MAX_STATES)
  if graph is not None:
    num_turns, num_views = solve.count_views(rules, graph)
    if num_views < num_turns:
      raise _UnplayableError(_HIDDEN)
  if odds.shape[0]:
    raise _UnplayableError(_CHANCE)
  if graph is None:
    raise _UnplayableError(_MANY)
  return jax.tree.map(np.asarray, graph)


def _answers(
  text: game_lib.GameText[Any],
  seat: str,
  policy: Mapping[str, Sequence[game_files.Answer]],
) -> dict[str, tuple[str, int]]:
  """Returns the response and the action, -1 for none, by observation."""
  actions = {names[0]: number for number, names in enumerate(text.actions)}
  answers: dict[str, tuple[str, int]] = {}
  for observation, response, move in policy.get(seat, ()):
    if move is not None and move not in actions:
      raise _UnplayableError(_OTHER)
    answer = response, -1 if move is None else actions[move]
    if answers.setdefault(observation, answer) != answer:
      raise _UnplayableError(_SEVERAL)
  return answers


def _tabulate(
  game: definition.Definition,
  graph: state_graph.StateGraph,
  answers: Sequence[Mapping[str, tuple[str, int]]],
) -> dict[str, Any]:
  """Returns the table of `Play`; `answers` are those of the model by seat."""
  text = game.text
  show = jax.vmap(jax.vmap(text.show, (0, None)), (None, 0))
  shows = np.asarray(jax.jit(show)(graph.states, jnp.arange(2))).tolist()
  optimal = None
  with contextlib.suppress(errors.UserError):
    optimal = np.asarray(solve.solve_graph(game.game, graph).optimal)
  texts: dict[str, int] = {}
  nodes: list[dict[str, Any]] = []
  # Nodes by the human's seat and the number of the state; games start at 0.
  numbers = {(seat, 0): seat for seat in range(2)}
  queue = collections.deque(numbers)

  def number(human: int, state: int) -> int:
    key = human, state
    if key not in numbers:
      numbers[key] = len(numbers)
      queue.append(key)
    return numbers[key]

  def see(seat: int, state: int) -> str:
    return game_lib.observation_text(text, shows[seat][state])

  def intern(words: str) -> int:
    return texts.setdefault(words, len(texts))

  while queue:
    human, state = queue.popleft()
    node: dict[str, Any] = {"text": intern(see(human, state))}
    nodes.append(node)
    children, to_act = graph.children[state].tolist(), int(graph.to_act[state])
    if to_act == game_lib.OVER:
      node["ending"] = _ending(float(graph.returns[state, human]))
      continue
    if optimal is not None:
      node["best"] = np.flatnonzero(optimal[state]).tolist()
    if to_act == human:
      node["moves"] = {
        str(action): number(human, child)
        for action, child in enumerate(children)
        if child >= 0
      }
    else:
      answer = answers[to_act].get(see(to_act, state))
      if answer is None:
        raise _UnplayableError(_MISSING)
      node["response"], node["move"] = intern(answer[0]), answer[1]
      if answer[1] >= 0 and children[answer[1]] >= 0:
        node["next"] = number(human, children[answer[1]])
      else:
        node["ending"] = "The model's answer is no legal move: you win."
    if len(numbers) > MAX_NODES:
      raise _UnplayableError(_MANY)
  table = {
    "seats": [*text.seats],
    "labels": [names[0] for names in text.actions],
    "plies": game.game.max_plies,
    "texts": [*texts],
    "nodes": nodes,
  }
  if len(files.to_json(table)) > MAX_BYTES:
    raise _UnplayableError(_MANY)
  return table


def _ending(value: float) -> str:
  """Returns the end of a game in words, by the human's return."""
  outcome = (
    "You win" if value > 0 else "The model wins" if value < 0 else "Draw"
  )
  return f"{outcome}: your return is {value:g}."
