"""A model as a partner to play with, who answers one move at a time."""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import matches
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.models import checkpoints


@dataclasses.dataclass(frozen=True)
class Answer:
  """A model's answer on a board.

  Attributes:
    said: its words, the thought and the move.
    cell: the cell it names, -1 if it cannot be read.
    is_legal: whether that cell is free.
    best: the optimal cells.
  """

  said: str
  cell: int
  is_legal: bool
  best: tuple[int, ...]

  @property
  def is_optimal(self) -> bool:
    """Whether the move is one of the optimal ones."""
    return self.cell in self.best


class Partner:
  """A model that plays some games at once, a move at a time.

  For each of its moves a game is sampled from its beginning, along the other
  side's moves so far and with the same keys, so that the model says again what
  it has said, and its context is the one that it was trained in.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig,
    *,
    seed: int | None = None,
    num_games: int = 1,
  ):
    """Takes a model and the settings of its play.

    Args:
      model: who plays.
      config: the settings; `play.opponent` is not used.
      seed: Random seed for sampling; None for the config's.
      num_games: how many games are played at once.

    Raises:
      errors.UserError: see `matches.Player`.
    """
    env = env_lib.TicTacToe(opponent=opponents.scripted_from_seed)
    self._player = matches.Player(model, config, env)
    self._decode = model.tokenizer.decode
    self._begin = jax.jit(jax.vmap(env.init, (0, None)))
    self._seed = config.seed if seed is None else seed
    self._num_games = num_games

  def answer(self, mark: int, moves: Sequence[Sequence[int]]) -> list[Answer]:
    """Returns what the model says next in each game.

    Args:
      mark: the model's in all of them.
      moves: All moves of each game so far, as cells, X's first. If it is not
        the model's turn, or the game is over, its last answer is returned, or
        an unreadable one if there is none.
    """
    theirs = [game[int(mark == rules.X) :: 2] for game in moves]
    opponent_seed = jnp.array(
      [opponents.encode_script(line) for line in theirs], jnp.uint32
    )
    keys = streams.keys(
      self._seed,
      streams.Stream.PARTNER_TOKENS,
      mark,
      last=jnp.arange(self._num_games),
    )
    games = self._player(keys, self._begin(opponent_seed, mark))
    found = []
    for number, game in enumerate(moves):
      before = len(game) - (len(game) % 2 != int(mark == rules.O))
      board = board_after(game[:before])
      asked = games.turn_mask[number] & (games.boards[number] == board)
      if not asked.any():
        # The game was over before the model's first turn.
        found.append(Answer(said="", cell=-1, is_legal=False, best=()))
        continue
      turn = np.flatnonzero(asked)[-1]
      said = games.actions[number, turn][games.action_mask[number, turn]]
      cell = int(games.moves[number, turn])
      legal = int(rules.legal_masks()[board])
      found.append(
        Answer(
          said=self._decode(said.tolist()),
          cell=cell,
          is_legal=cell >= 0 and bool(legal >> cell & 1),
          best=solver.optimal_cells(board),
        )
      )
    return found


def board_after(moves: Sequence[int]) -> int:
  """Returns the board after moves from the empty one, X's first."""
  board = rules.EMPTY_BOARD
  for number, cell in enumerate(moves):
    board = rules.place(board, cell, rules.O if number % 2 else rules.X)
  return int(board)


@dataclasses.dataclass(frozen=True)
class SelfPlay:
  """Games of a model against itself.

  Attributes:
    endings: how many ended how: `X wins`, `O wins`, `draw`, or, of a mark,
      `illegal` or `unreadable`.
    num_different: how many of them differ.
    num_moves: moves that were made.
    num_optimal: how many of those were optimal.
  """

  endings: Counter[str]
  num_different: int
  num_moves: int
  num_optimal: int


def self_play(partner: Partner, num_games: int) -> SelfPlay:
  """Plays a model against itself.

  Args:
    partner: A partner for as many games.
    num_games: how many.
  """
  games: list[list[int]] = [[] for _ in range(num_games)]
  ended: dict[int, str] = {}
  optimal = 0
  for ply in range(rules.NUM_CELLS):
    mark, name = (rules.O, "O") if ply % 2 else (rules.X, "X")
    answers = partner.answer(mark, games)
    for number, answer in enumerate(answers):
      if number in ended:
        continue
      if not answer.is_legal:
        ended[number] = (
          f"{name} {'unreadable' if answer.cell < 0 else 'illegal'}"
        )
        continue
      games[number].append(answer.cell)
      optimal += answer.is_optimal
      winner = rules.winners()[board_after(games[number])]
      if winner != rules.NO_WINNER:
        ended[number] = "draw" if winner == rules.DRAWN else f"{name} wins"
  return SelfPlay(
    endings=Counter(ended.values()),
    num_different=len({tuple(game) for game in games}),
    num_moves=sum(map(len, games)),
    num_optimal=optimal,
  )


# As the keys lie: 7 is the upper left corner.
_KEYS = (7, 8, 9, 4, 5, 6, 1, 2, 3)
HELP = (
  "Take a cell by its name, A1 to C3, or as the keys of a number pad lie, 7 for"
  " A1; u takes your last move back, q ends the game."
)

Ask = Callable[[str], str]
Tell = Callable[[str], None]


def draw(board: int) -> str:
  """Returns a board as lines of text, free cells by their names."""
  rows = [
    " | ".join(
      f"{prompts.MARK_NAMES[mark]} " if mark else prompts.coordinate(cell)
      for cell, mark in enumerate(rules.cells()[board])
      if cell // 3 == row
    )
    for row in range(3)
  ]
  return "\n".join(f"  {row}".rstrip() for row in rows)


class Answers(Protocol):
  """The method of `Partner` that `play` calls."""

  def answer(self, mark: int, moves: Sequence[Sequence[int]]) -> list[Answer]:
    """Returns what it says next."""
    ...


def play(
  player: Answers, mark: int, ask: Ask | None = None, tell: Tell = print
) -> str | None:
  """Plays a game to its end, or until there is no more to read.

  Args:
    player: the model to play with.
    mark: the person's.
    ask: given a prompt, returns a line; raises EOFError if there is none. None
      for `input`, as it is when this is called: notebooks put in their own.
    tell: shows lines.

  Returns:
    How it ended for the person: `won`, `lost` or `drawn`; None for not at all.
  """
  ask = ask or input
  moves: list[int] = []
  tell(HELP)
  while True:
    board = board_after(moves)
    winner = int(rules.winners()[board])
    if winner != rules.NO_WINNER:
      tell(f"\n{draw(board)}")
      ending = "won" if winner == mark else "lost"
      ending = "drawn" if winner == rules.DRAWN else ending
      tell("A draw." if ending == "drawn" else f"You have {ending}.")
      return ending
    if rules.side_to_move()[board] != mark:
      (answer,) = player.answer(rules.X + rules.O - mark, [moves])
      tell(f"The model: {answer.said}")
      if not answer.is_legal:
        reason = "names no cell" if answer.cell < 0 else "is of a taken cell"
        tell(f"That {reason}, so you have won.")
        return "won"
      if not answer.is_optimal:
        tell(f"  Not optimal: {_names(answer.best)} would have been.")
      moves.append(answer.cell)
      continue
    tell(f"\n{draw(board)}")
    try:
      said = ask("your move: ").strip().lower()
    except EOFError:
      said = "q"
    if said == "q":
      return None
    if said == "u":
      moves = _undone(moves, mark, tell)
      continue
    cell = _cell(said)
    if cell is None or not rules.legal_masks()[board] >> cell & 1:
      tell(f"{said!r} is no free cell. {HELP}")
      continue
    best = solver.optimal_cells(board)
    if cell not in best:
      tell(f"  Not optimal: {_names(best)} would have been.")
    moves.append(cell)


def _undone(moves: list[int], mark: int, tell: Tell) -> list[int]:
  """Returns the moves up to the person's last one."""
  if len(moves) < (2 if mark == rules.X else 3):
    tell("There is no move of yours to take back.")
    return moves
  return moves[:-2]


def _cell(said: str) -> int | None:
  if said in map(str, _KEYS):
    return _KEYS.index(int(said))
  try:
    return prompts.cell_from_coordinate(said)
  except ValueError:
    return None


def _names(cells: tuple[int, ...]) -> str:
  return " or ".join(map(prompts.coordinate, cells))
