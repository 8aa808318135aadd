"""A game with its text, as the engine plays, trains and judges it.

A folder of `games`, or a module of a user, makes a `Definition` of its `Game` and
`GameText`. Its methods hold for any game; a game with faster or richer code of
its own overrides them.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Generic

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.games import board_page
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import game_observations
from tunix_ttt.games import line_play
from tunix_ttt.games import named_players
from tunix_ttt.games import players
from tunix_ttt.games import position_reader
from tunix_ttt.games import replays
from tunix_ttt.games import solve
from tunix_ttt.games import state_graph
from tunix_ttt.games import view as view_lib
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import spellings
from tunix_ttt.text import tokenizers

if TYPE_CHECKING:
  from tunix_ttt.games import game_rows

# Pieces of a tokenizer besides symbols: bytes, controls and learned ones.
_NUM_PIECES = 384
# Endings of a game that its rules end.
_BY_RULES = (
  game_lib.Outcome.WIN,
  game_lib.Outcome.DRAW,
  game_lib.Outcome.LOSS,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Definition(Generic[game_lib.StateT]):
  """A game, its text and what the engine needs to know about them.

  States below are those of `environment`, pytrees on the device or host.

  Attributes:
    name: Name in configs, manifests and rows.
    game: Rules of the game.
    text: Text of the game.
    low: Least return of a seat. An answer that is no legal move earns it.
    high: Greatest return of a seat.
    thoughts: Whether answers begin with a thought.
    thought_truth: Function of a position's number, an action (-1 for an
      unreadable answer) and the answer's text. Returns whether the thought
      states a true reason, None if it states none. None for games whose thoughts
      cannot be judged.
    is_enumerable: Whether to try to enumerate the game's states.
    traces: Function of a count and a seed that yields rows of training data in
      place of an expert's games; None for those.
    reader: Reader of the game's text, for games that have one.
    lines: Play of every line, for games that have it; others are judged by
      their states.
    board: Board on the page of a run; None for a game that is shown as text.
  """

  name: str
  game: game_lib.Game[game_lib.StateT]
  text: game_lib.GameText[game_lib.StateT]
  low: float = -1.0
  high: float = 1.0
  thoughts: bool = False
  thought_truth: Callable[[int, int, str], bool | None] | None = None
  is_enumerable: bool = True
  traces: Callable[[int, int], Iterator[dict[str, Any]]] | None = None
  reader: position_reader.Reader | None = None
  lines: line_play.LinePlay | None = None
  board: board_page.BoardPage | None = None

  @property
  def seats(self) -> Sequence[str]:
    """Name of each seat."""
    return self.text.seats

  def seat_number(self, name: str, key: str) -> int:
    """Returns the number of a seat, whose name may have any case.

    Raises:
      errors.UserError: if there is no such seat; `key` is the config key.
    """
    names = [seat.lower() for seat in self.seats]
    if name.lower() not in names:
      raise errors.UserError(
        f"{key}: {errors.quote(name)} is no seat of {self.name}; use one of"
        f" {', '.join(names)}"
      )
    return names.index(name.lower())

  def spell(self, action: int) -> str | None:
    """Returns the first spelling of an action; None for -1."""
    return None if action < 0 else self.text.actions[action][0]

  # What the rollout needs.

  def environment(self, opponent: Any = None) -> Any:
    """Returns the environment of one seat; None is a random opponent."""
    if opponent is None:
      opponent = players.random(self.game)
    return view_lib.View(game=self.game, opponents=opponent)

  def mirror(self) -> Any:
    """Returns the environment in which the model plays all seats."""
    opponents = players.random(self.game)
    return view_lib.MirrorView(game=self.game, opponents=opponents)

  def begin(
    self, environment: Any, key: jax.Array, seat: jax.Array | int
  ) -> Any:
    """Starts a game of the seat; the key determines opponents and chance."""
    return environment.init(key, seat)

  def begin_at(
    self, environment: Any, key: jax.Array, seat: jax.Array, position: Any
  ) -> Any:
    """Starts a game of the seat at a position of `random_position`."""
    return environment.init(key, seat, position)

  def begin_prompt(self, environment: Any, key: jax.Array, prompt: Any) -> Any:
    """Starts a game of a prompt's position, for games that read prompts."""
    raise errors.UserError(
      f"episodes.source: {self.name} cannot read positions from prompts; use"
      " games or positions"
    )

  def agent_states(self, states: Any, seat: int) -> Any:
    """Returns states [N] of `game`, at turns of the seat, as the seat's."""
    count = len(jax.tree.leaves(states)[0])
    return view_lib.at_turns(
      jax.tree.map(jnp.asarray, states), jnp.full(count, seat, jnp.int32)
    )

  def random_position(
    self, keys: tuple[jax.Array, jax.Array], seat: jax.Array
  ) -> Any:
    """Draws a position in which it is the seat's turn, all equally likely."""
    graph = self.graph
    return jax.tree.map(
      lambda leaf: leaf[players.choose(keys[0], graph.to_act == seat)],
      graph.states,
    )

  def first_position(self, key: jax.Array) -> Any:
    """Returns the position in which games start."""
    return self.game.init(key)

  def positions(self, states: Any) -> Any:
    """Returns the positions of states, for `begin_at`; pytrees [...]."""
    return states.game

  def observations(self, tokenizer: tokenizers.Tokenizer) -> Any:
    """Returns the tokens of observations; see `rollout.tables.Tables`."""
    return game_observations.build(
      self.game, self.text, tokenizer, thoughts=self.thoughts
    )

  def answers(self, tokenizer: tokenizers.Tokenizer) -> answers_lib.AnswerTable:
    """Returns the grammar of answers."""
    return answers_lib.compile_automaton(
      self.grammar(), tokenizer.token_bytes(), self.end_ids(tokenizer)
    )

  def grammar(self) -> spellings.Automaton:
    """Returns the automaton over the bytes of answers."""
    return spellings.build(
      self.text.actions,
      opening="<move>",
      closing="</move>",
      thought_tags=("<think>", "</think>") if self.thoughts else None,
    )

  def end_ids(self, tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Returns the ids that end an answer."""
    return [*tokenizer.end_ids]

  def symbols(self, vocab_size: int) -> Sequence[str]:
    """Returns texts that are one token each for a tokenizer of this size."""
    rules = f"user\n{self.text.rules}\n\n"
    texts = {each for slot in self.text.segments for each in slot}
    answers = ("<think>", "</think>", "</think>\n<move>", "<move>", "</move>")
    if len(texts) > vocab_size - _NUM_PIECES:
      texts = set()
    every = (rules, *sorted(texts), *answers)
    return [*dict.fromkeys(text for text in every if text)]

  # Players.

  def player(self, name: str, key: str) -> Any:
    """Returns the opponent that a config names under `key`.

    Names are as in `config.PlayConfig.opponent`.

    Raises:
      errors.UserError: if there is no such opponent for this game.
    """
    return named_players.player(self, name, key)

  def optimal(self, key: str) -> players.Player:
    """Returns a player of every optimal action with equal probability.

    Raises:
      errors.UserError: if the game is not solved; `key` is the config key.
    """
    self.require_solution(key)
    return players.uniform_over(self.solution.best)

  def mixture(self, others: Sequence[Any]) -> Callable[..., jax.Array]:
    """Returns an opponent that is one of several, drawn for each game.

    Its first arguments, which `jax.tree_util.Partial` binds, are the unnormalized
    probabilities of the P opponents and of K tables, float32 [P + K], and the
    tables' action in each position, int [K, num_positions]. A random action
    replaces an illegal one.
    """

    def play(
      shares: jax.Array, tables: jax.Array, keys: players.Keys, state: Any
    ) -> jax.Array:
      past = (
        players.tabular(self.game, table, self.graph.index) for table in tables
      )
      return players.mixture([*others, *past], shares)(keys, state)

    return play

  @property
  def num_positions(self) -> int:
    """Number of positions in a table of moves."""
    return len(self.graph.to_act)

  def table_rows(self) -> np.ndarray:
    """Returns the row of each state of `graph` in a table of moves, int [N]."""
    return np.arange(self.num_positions)

  def turns(self) -> tuple[np.ndarray, Any]:
    """Returns all positions with a seat to act.

    They are numbers of positions, int [N], and the states, a pytree [N], in
    which that seat is the model's.
    """
    numbers = np.flatnonzero(np.asarray(self.graph.to_act) >= 0)
    states = jax.tree.map(lambda leaf: leaf[numbers], self.graph.states)
    return numbers, view_lib.at_turns(states, self.graph.to_act[numbers])

  @property
  def rows(self) -> "game_rows.GameRows":
    """Rows of training data."""
    # Imported lazily: it needs this module.
    from tunix_ttt.games import game_rows

    return game_rows.GameRows(self)

  # What the solver knows.

  @functools.cached_property
  def graph(self) -> state_graph.StateGraph:
    """The states of the game and the steps between them.

    Raises:
      errors.UserError: if there are too many.
    """
    if not self.is_enumerable:
      raise errors.UserError(f"{self.name} has too many positions")
    return state_graph.enumerate_states(self.game)

  @functools.cached_property
  def solution(self) -> solve.Solution:
    """The values of the game.

    Raises:
      errors.UserError: if the game hides information or has too many states.
    """
    return solve.solve_graph(self.game, self.graph)

  @functools.cached_property
  def unsolved(self) -> str | None:
    """The reason why the game is not solved; None if it is."""
    try:
      _ = self.solution
    except errors.UserError as error:
      return str(error)
    return None

  def require_solution(self, key: str) -> None:
    """Raises a UserError that names a config key if the game is not solved."""
    if self.unsolved:
      raise errors.UserError(f"{key}: needs an exact solver: {self.unsolved}")

  def regret(self, states: Any, moves: np.ndarray) -> np.ndarray:
    """Returns the loss of value of each move, float32 [...].

    Args:
      states: States in which the model moved, a pytree [...].
      moves: Actions, int [...]; -1 for an unreadable answer.

    Returns:
      The best return of a legal action minus the move's, 0 to `high - low`. A
      move that is not legal has the largest regret.
    """
    worst, chosen = self.high - self.low, np.maximum(moves, 0)[..., None]
    values = np.asarray(self.solution.action_values)[self._numbers(states)]
    # A finished state has no action, and so the regret NaN.
    with np.errstate(invalid="ignore"):
      regret = values.max(-1) - np.take_along_axis(values, chosen, -1)[..., 0]
    regret = np.nan_to_num(regret, posinf=worst)
    return np.where(moves < 0, worst, regret).astype(np.float32)

  def is_ahead(self, states: Any) -> np.ndarray:
    """Returns whether perfect play returns more than 0 to the model, bool [...]."""
    values = np.asarray(self.solution.values)
    return values[self._numbers(states), np.asarray(states.seat)] > 1e-6

  def _numbers(self, states: Any) -> np.ndarray:
    """Returns the number of each state in `graph`, int [...]."""
    shape = states.seat.shape
    flat = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[len(shape) :]), states.game
    )
    return np.asarray(self._index(flat)).reshape(shape)

  # Compiled once, as every training step asks.
  @functools.cached_property
  def _index(self) -> Callable[[Any], jax.Array]:
    return jax.jit(jax.vmap(self.graph.index))

  @functools.cached_property
  def _returns(self) -> Callable[[Any], jax.Array]:
    return jax.jit(jax.vmap(self.environment().returns))

  def move_kinds(self, states: Any, moves: np.ndarray) -> np.ndarray | None:
    """Returns the index of each move's kind for `move_quality`, int [...].

    None for games without such kinds; see `config.MoveQualityConfig`.
    """
    del states, moves
    return None

  def position_numbers(self, states: Any) -> np.ndarray:
    """Returns equal numbers for equal positions of the model, int [...]."""
    shape = states.seat.shape
    leaves = jax.tree.leaves((states.game, states.seat))
    rows = [np.asarray(leaf).reshape(*shape, -1) for leaf in leaves]
    flat = np.concatenate([row.astype(np.float64) for row in rows], axis=-1)
    flat = flat.reshape(-1, flat.shape[-1])
    numbers = np.unique(flat, axis=0, return_inverse=True)[1]
    return numbers.reshape(shape)

  def seat_numbers(self, states: Any) -> np.ndarray:
    """Returns the seat of the model in each state, int [...]."""
    return np.asarray(states.seat)

  def returns(self, states: Any, endings: np.ndarray) -> np.ndarray:
    """Returns what each ended game is worth to the model, float32 [B].

    Args:
      states: Final states, a pytree [B].
      endings: `rollout.trajectory.Ending` of each game, int [B]. A game that did
        not end by the rules is worth `low`, and one that the other seat
        ended by an answer that is no legal move, a `WIN`, is worth `high`.
    """
    values = np.asarray(self._returns(states))
    is_forfeit = (endings == game_lib.Outcome.WIN) & (values <= 0)
    values = np.where(is_forfeit, self.high, values)
    by_rules = np.isin(endings, _BY_RULES)
    return np.where(by_rules, values, self.low).astype(np.float32)

  # Play against a person, move by move.

  def replaying_environment(self, context: str) -> Any:
    """Returns the environment for states of `replay`.

    Raises:
      errors.UserError: if single positions cannot show the context.
    """
    if context != "board":
      raise errors.UserError(
        f"play.context: {context}: {self.name} is played move by move on single"
        " observations; set it to board"
      )
    return self.environment()

  @functools.cached_property
  def position_after(self) -> Callable[[Sequence[int]], replays.Position]:
    """Function from plies, those of chance included, to the position."""
    return replays.follower(self.game)

  def replay(self, seat: int, plies: Sequence[Sequence[int]]) -> Any:
    """Returns the states of N games in which it is the seat's turn, [N].

    Args:
      seat: Seat of the model.
      plies: Actions and outcomes of chance of each game so far.
    """
    positions = [self.position_after(each) for each in plies]
    states = [position.state for position in positions]
    return view_lib.at_turns(
      jax.tree.map(lambda *leaves: jnp.stack(leaves), *states),
      jnp.full(len(plies), seat, jnp.int32),
      is_turn=jnp.array([position.to_act == seat for position in positions]),
    )

  def replayed_turn(
    self, games: Any, number: int, seat: int, plies: Sequence[int]
  ) -> int | None:
    """Returns the turn of game `number` of `replay` that answers its position."""
    del seat, plies
    return 0 if games.turn_mask[number, 0] else None

  def draw(self, state: game_lib.StateT, seat: int) -> str:
    """Returns a state of the rules as a person in the seat sees it."""
    show = np.asarray(self.text.show(state, jnp.int32(seat))).tolist()
    return game_lib.observation_text(self.text, show)

  def move_help(self) -> str:
    """Returns a line on how a person enters moves."""
    names = ", ".join(names[0] for names in self.text.actions[:12])
    more = ", …" if len(self.text.actions) > 12 else ""
    return (
      f"Moves: {names}{more}; u takes your last move back, q ends the game."
    )

  def read_move(self, line: str) -> int | None:
    """Returns the action that a person's line spells in lower case, if any."""
    for action, names in enumerate(self.text.actions):
      if line in (name.lower() for name in names):
        return action
    return None

  def best_actions(self, state: game_lib.StateT) -> list[int]:
    """Returns the optimal actions in a state; none if the game is not solved."""
    if self.unsolved:
      return []
    return np.flatnonzero(np.asarray(self.solution.best(state))).tolist()

  # Records of games, as plain data.

  def record_seat(self, state: Any) -> dict[str, Any]:
    """Returns the game's and the seat's names, the beginning of a record."""
    return {"game": self.name, "seat": self.seats[int(state.seat)]}

  def record_end(self, state: Any, ending: int) -> dict[str, Any]:
    """Returns the return of a game, as `returns` does, and its last observation."""
    states = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)
    value = self.returns(states, np.array([ending]))[0]
    return {"return": float(value), "final": self.observation(state)}

  def record_turn(self, state: Any, move: int) -> dict[str, Any]:
    """Returns what the model saw at its turn, and whether its move was legal."""
    legal = np.asarray(self.environment().legal(state))
    return {
      "observation": self.observation(state),
      "legal": bool(move >= 0 and legal[move]),
    }

  def observation(self, state: Any) -> str:
    """Returns the text of the observation in a state."""
    return self.draw(state.game, state.seat)

  def observation_texts(self, states: Any) -> list[str]:
    """Returns the text of the observation in each of B states."""
    shows = np.asarray(self._shows(states.game, states.seat)).tolist()
    return [game_lib.observation_text(self.text, show) for show in shows]

  @functools.cached_property
  def _shows(self) -> Callable[..., jax.Array]:
    return jax.jit(jax.vmap(self.text.show))
