"""Tic-tac-toe for the engine: its tables in place of the generic code."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.games import definition
from tunix_ttt.games import named_players
from tunix_ttt.games import players
from tunix_ttt.games.tictactoe import board_rows
from tunix_ttt.games.tictactoe import board_symbols
from tunix_ttt.games.tictactoe import board_tables
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import tictactoe_game
from tunix_ttt.text import spellings
from tunix_ttt.text import tokenizers

# Regret of an answer that is no legal move: a win becomes a loss.
_WORST_REGRET = 2
# Keys of a number pad, by cell.
_NUMBER_PAD = "789456123"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TicTacToeDefinition(definition.Definition[tictactoe_game.State]):
  """Tic-tac-toe; states are `env.State`, and a seat is a mark less X's.

  Attributes:
    text_format: Format of boards and answers.
  """

  text_format: text_formats.TextFormat

  def environment(self, opponent: Any = None) -> env_lib.TicTacToe:
    """Returns the environment; None is the random opponent."""
    return env_lib.TicTacToe(opponent=opponent or opponents.uniform_random)

  def mirror(self) -> env_lib.Mirror:
    """Returns the environment in which the model plays both marks."""
    return env_lib.Mirror()

  def begin(
    self, environment: Any, key: jax.Array, seat: jax.Array | int
  ) -> env_lib.State:
    """Starts a game; the key gives the opponent's seed."""
    return environment.init(jax.random.bits(key), seat + rules.X)

  def begin_at(
    self, environment: Any, key: jax.Array, seat: jax.Array, position: Any
  ) -> env_lib.State:
    """Starts a game on a board with a last move, int32 [] each."""
    seed = jax.random.bits(key)
    return environment.init(seed, seat + rules.X, *position)

  def begin_prompt(
    self, environment: Any, key: jax.Array, prompt: Any
  ) -> env_lib.State:
    """Starts a game of the side to move on a board with a last move."""
    seat = jnp.asarray(rules.side_to_move())[prompt[0]] - rules.X
    return self.begin_at(environment, key, seat, prompt)

  def agent_states(
    self, states: tictactoe_game.State, seat: int
  ) -> env_lib.State:
    """Returns boards on which the seat moves, as states of `environment`."""
    init = jax.vmap(self.environment().init, (None, None, 0, 0))
    return init(0, seat + rules.X, states.board, states.last_move)

  def random_position(
    self, keys: tuple[jax.Array, jax.Array], seat: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Draws a board on which the seat moves, and the move before."""
    return opponents.random_position(*keys, (seat + rules.X).astype(jnp.int8))

  def first_position(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the empty board, without a last move."""
    del key
    return jnp.int32(rules.EMPTY_BOARD), jnp.int32(-1)

  def positions(self, states: env_lib.State) -> tuple[jax.Array, jax.Array]:
    """Returns the boards and the last moves."""
    return states.board, states.last_move

  def observations(
    self, tokenizer: tokenizers.Tokenizer
  ) -> board_tables.Observations:
    """Returns the tokens of every board and last move."""
    tables = board_tables.build(self.text_format, tokenizer)
    return jax.tree.map(jnp.asarray, tables)

  def grammar(self) -> spellings.Automaton:
    """Returns the grammar of the text format."""
    return self.text_format.grammar()

  def end_ids(self, tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Returns the ids that end an answer in the text format."""
    return self.text_format.end_ids(tokenizer)

  def symbols(self, vocab_size: int) -> Sequence[str]:
    """Returns the recurring texts of both formats."""
    del vocab_size
    return board_symbols.SYMBOLS

  def player(self, name: str, key: str) -> opponents.Opponent:
    """Returns an `opponents.Opponent`; also `scripted:CELL,CELL,…`."""
    kind, _, setting = name.partition(":")
    if kind == "mcts":
      return self._on_boards(named_players.searching(self, setting, key))
    try:
      return opponents.from_name(name)
    except ValueError as error:
      raise errors.UserError(f"{key}: {error}") from None

  def _on_boards(self, player: players.Player) -> opponents.Opponent:
    def play(opponent_seed: jax.Array, board: jax.Array) -> jax.Array:
      key = opponents.key_of(opponent_seed, board)
      state = tictactoe_game.State(board=board, last_move=jnp.int8(-1))
      return player(players.Keys(game=key, ply=key), state)

    return play

  def mixture(self, others: Sequence[Any]) -> Callable[..., jax.Array]:
    """Returns an opponent that is one of several, drawn for each game."""
    return functools.partial(opponents.mixture, others)

  @property
  def num_positions(self) -> int:
    """Number of boards, reachable or not."""
    return rules.NUM_BOARDS

  def table_rows(self) -> np.ndarray:
    """Returns the board of each state of `graph`, int [N]."""
    return np.asarray(self.graph.states.board)

  def turns(self) -> tuple[np.ndarray, env_lib.State]:
    """Returns all boards on which a move is possible, and their states."""
    boards = rules.positions()
    opponent_mark = rules.X + rules.O - rules.side_to_move()[boards]
    is_taken = rules.cells()[boards] == opponent_mark[:, None]
    last = np.where(boards == rules.EMPTY_BOARD, -1, is_taken.argmax(axis=1))
    states = jax.vmap(env_lib.TicTacToe().init)(
      jnp.zeros(len(boards), jnp.uint32),
      jnp.asarray(rules.side_to_move()[boards]),
      jnp.asarray(boards),
      jnp.asarray(last, jnp.int8),
    )
    return boards, states

  @property
  def rows(self) -> board_rows.BoardRows:
    """Rows of training data."""
    return board_rows.BoardRows(self)

  @functools.cached_property
  def unsolved(self) -> None:
    """None: the game is solved."""
    return None

  def regret(self, states: env_lib.State, moves: np.ndarray) -> np.ndarray:
    """Returns the regret of each move by the solver, float32, 0 to 2."""
    boards = np.asarray(states.board)
    value = solver.solve().value
    after = rules.successors()[boards, np.maximum(moves, 0)]
    is_legal = (moves >= 0) & (after >= 0)
    # Values are for the side to move, which changes after a move.
    lost = value[boards] + value[np.maximum(after, 0)]
    return np.where(is_legal, lost, _WORST_REGRET).astype(np.float32)

  def is_ahead(self, states: env_lib.State) -> np.ndarray:
    """Returns whether the side to move can force a win, bool [...]."""
    return solver.solve().value[np.asarray(states.board)] == solver.WIN

  def move_kinds(self, states: env_lib.State, moves: np.ndarray) -> np.ndarray:
    """Returns 0 for no legal move, then edge, corner, center, block and win."""
    kinds = _move_kinds()[np.asarray(states.board), np.maximum(moves, 0)]
    return np.where(moves < 0, 0, kinds)

  def position_numbers(self, states: env_lib.State) -> np.ndarray:
    """Returns the boards, int [...]."""
    return np.asarray(states.board)

  def seat_numbers(self, states: env_lib.State) -> np.ndarray:
    """Returns 0 where the model is X and 1 where it is O, int [...]."""
    return np.asarray(states.agent).astype(np.int32) - rules.X

  def returns(self, states: env_lib.State, endings: np.ndarray) -> np.ndarray:
    """Returns 1 for a win, 0 for a draw, else -1: float32 [B]."""
    del states
    outcome = env_lib.Outcome
    won = (endings == outcome.WIN).astype(np.float32)
    return won - ~np.isin(endings, (outcome.WIN, outcome.DRAW))

  def replaying_environment(self, context: str) -> env_lib.TicTacToe:
    """Returns the environment whose opponents play scripts."""
    del context
    return env_lib.TicTacToe(opponent=opponents.scripted_from_seed)

  def replay(self, seat: int, plies: Sequence[Sequence[int]]) -> env_lib.State:
    """Returns first states of games whose opponents repeat their moves, [N]."""
    replies = [each[int(seat == 0) :: 2] for each in plies]
    seeds = [opponents.encode_script(line) for line in replies]
    env = self.replaying_environment("full")
    init = jax.jit(jax.vmap(env.init, (0, None)))
    return init(jnp.array(seeds, jnp.uint32), seat + rules.X)

  def replayed_turn(
    self, games: Any, number: int, seat: int, plies: Sequence[int]
  ) -> int | None:
    """Returns the last turn on the board after the plies, or the one before."""
    before = len(plies) - (len(plies) % 2 != seat)
    board = rules.EMPTY_BOARD
    for ply, cell in enumerate(plies[:before]):
      board = int(rules.place(board, cell, rules.O if ply % 2 else rules.X))
    is_equal = games.turn_mask[number] & (games.states.board[number] == board)
    return int(np.flatnonzero(is_equal)[-1]) if is_equal.any() else None

  def draw(self, state: tictactoe_game.State, seat: int) -> str:
    """Returns the board as lines of text; free cells show their names."""
    del seat
    marks = rules.cells()[int(state.board)]
    names = [
      f"{text_formats.MARK_NAMES[mark]} " if mark else name
      for name, mark in zip(text_formats.COORDINATES, marks, strict=True)
    ]
    rows = (" | ".join(names[first : first + 3]) for first in (0, 3, 6))
    return "\n".join(f"  {row}".rstrip() for row in rows)

  def move_help(self) -> str:
    """Returns a line on how a person enters moves."""
    return (
      "Enter a cell, A1 to C3, or its key on a number pad, where 7 is A1; u takes"
      " your last move back, q ends the game."
    )

  def read_move(self, line: str) -> int | None:
    """Returns the cell of a name or of a key of the number pad."""
    if len(line) == 1 and line in _NUMBER_PAD:
      return _NUMBER_PAD.index(line)
    return super().read_move(line)

  def best_actions(self, state: tictactoe_game.State) -> list[int]:
    """Returns the optimal cells."""
    return [*solver.optimal_cells(int(state.board))]

  def record_seat(self, state: env_lib.State) -> dict[str, Any]:
    """Returns the mark of the model."""
    return {"agent": text_formats.MARK_NAMES[int(state.agent)]}

  def record_end(self, state: env_lib.State, ending: int) -> dict[str, Any]:
    """Returns the board at the end."""
    del ending
    return {"board": board_text.to_text(int(state.board))}

  def record_turn(self, state: env_lib.State, move: int) -> dict[str, Any]:
    """Returns the board and the last move of the opponent."""
    del move
    return {
      "board": board_text.to_text(int(state.board)),
      "opponent_move": self.spell(int(state.last_move)),
    }

  def observation_texts(self, states: env_lib.State) -> list[str]:
    """Returns the text of the observation in each of B states."""
    turns = zip(states.board, states.agent, states.last_move, strict=True)
    return [
      text_formats.render_observation(
        int(board), int(agent), None if last_move < 0 else int(last_move)
      )
      for board, agent, last_move in turns
    ]


@functools.cache
def _move_kinds() -> np.ndarray:
  """Returns the kind of a move to each cell of each board: int8 [boards, 9]."""
  kinds = np.ones((rules.NUM_BOARDS, rules.NUM_CELLS), np.int8)
  kinds[:, rules.CORNERS] = 2
  kinds[:, rules.CENTER] = 3
  boards = np.arange(rules.NUM_BOARDS)[:, None]
  mine = rules.side_to_move()[:, None]
  for kind, mark in ((4, rules.X + rules.O - mine), (5, mine)):
    # Board after `mark` takes the cell; taken cells are masked below.
    after = np.minimum(boards + mark * rules.POWERS, rules.NUM_BOARDS - 1)
    kinds[rules.winners()[after] == mark] = kind
  legal = rules.mask_to_bool(rules.legal_masks())
  return np.where(legal, kinds, 0)
