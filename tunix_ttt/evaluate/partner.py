"""Plays against a model one move at a time: a person, or the model itself."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import matches
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.models import checkpoints

HELP = (
  "Take a cell by its name, A1 to C3, or as the keys of a number pad lie, 7 for"
  " A1; u takes your last move back, q ends the game."
)
# Cells by key of the number pad and by name.
_CELLS = {
  name.lower(): cell
  for names in ("789456123", text_formats.COORDINATES)
  for cell, name in enumerate(names)
}


class Answer(NamedTuple):
  """A model's answer on a board, and its cell, -1 if it is unreadable."""

  response: str
  cell: int
  is_legal: bool


class Partner:
  """A model that plays a batch of games, one move at a time.

  Each answer replays the game from its beginning with the other side's moves
  and the same random keys. The model repeats its earlier answers exactly, and
  its context is the context of training.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig | config_lib.Settings,
    *,
    seed: int | None = None,
    num_games: int = 1,
  ):
    """Builds the player; `play.opponent` is ignored.

    Raises:
      errors.UserError: If the model cannot play with this config.
    """
    config = config_lib.load_any(config)
    env = env_lib.TicTacToe(opponent=opponents.scripted_from_seed)
    self._player = matches.Player(model, config, env)
    self._decode = model.tokenizer.decode
    self._begin = jax.jit(jax.vmap(env.init, (0, None)))
    self._seed = config.seed if seed is None else seed
    self._num_games = num_games

  def answer(self, mark: int, moves: Sequence[Sequence[int]]) -> list[Answer]:
    """Returns the model's next answer in each game, in which it plays `mark`.

    `moves` has all moves of each game so far, as cells, X's first. If it is not
    the model's turn, or the game is over, the answer is the model's last one,
    or an unreadable one if there is none.
    """
    replies = [game[int(mark == rules.X) :: 2] for game in moves]
    opponent_seed = jnp.array(
      [opponents.encode_script(line) for line in replies], jnp.uint32
    )
    numbers, stream = jnp.arange(self._num_games), streams.Stream.PARTNER_TOKENS
    keys = streams.keys(self._seed, stream, mark, last=numbers)
    games = self._player(keys, self._begin(opponent_seed, mark))
    answers = []
    for number, game in enumerate(moves):
      before = len(game) - (len(game) % 2 != int(mark == rules.O))
      board = board_after(game[:before])
      matching = games.turn_mask[number] & (games.states.board[number] == board)
      if not matching.any():
        # The game ended before the model's first turn.
        answers.append(Answer("", -1, False))
        continue
      turn = np.flatnonzero(matching)[-1]
      tokens = games.actions[number, turn][games.action_mask[number, turn]]
      cell = int(games.moves[number, turn])
      is_legal = cell >= 0 and bool(rules.legal_masks()[board] >> cell & 1)
      answers.append(Answer(self._decode(tokens.tolist()), cell, is_legal))
    return answers


def play(
  player: Partner,
  mark: int,
  ask: Callable[[str], str] | None = None,
  tell: Callable[[str], None] = print,
) -> str | None:
  """Plays a game against a model until it ends or the person quits.

  Args:
    player: Model to play against.
    mark: Mark of the person.
    ask: Returns a line of input for a prompt and raises EOFError at the end of
      the input; None for the current `input`, which notebooks replace.
    tell: Prints lines.

  Returns:
    `won`, `lost` or `drawn` for the person; None if the person quits.
  """
  ask = ask or input
  moves: list[int] = []
  tell(HELP)
  while True:
    board = board_after(moves)
    winner = int(rules.winners()[board])
    if winner != rules.NO_WINNER:
      tell(f"\n{draw(board)}")
      if winner == rules.DRAWN:
        tell("A draw.")
        return "drawn"
      ending = "won" if winner == mark else "lost"
      tell(f"You have {ending}.")
      return ending
    if rules.side_to_move()[board] != mark:
      (answer,) = player.answer(rules.X + rules.O - mark, [moves])
      tell(f"The model: {answer.response}")
      cell = answer.cell
      if not answer.is_legal:
        reason = "names no cell" if cell < 0 else "names a taken cell"
        tell(f"That {reason}, so you have won.")
        return "won"
    else:
      tell(f"\n{draw(board)}")
      try:
        line = ask("your move: ").strip().lower()
      except EOFError:
        line = "q"
      if line == "q":
        return None
      if line == "u":
        if len(moves) < (2 if mark == rules.X else 3):
          tell("There is no move of yours to take back.")
        else:
          del moves[-2:]
        continue
      cell = _CELLS.get(line)
      if cell is None or not rules.legal_masks()[board] >> cell & 1:
        tell(f"{line!r} is no free cell. {HELP}")
        continue
    best = solver.optimal_cells(board)
    if cell not in best:
      names = " or ".join(map(text_formats.coordinate, best))
      tell(f"  Not optimal: {names} would have been.")
    moves.append(cell)


def board_after(moves: Sequence[int]) -> int:
  """Returns the board after alternating moves from the empty board."""
  board = rules.EMPTY_BOARD
  for number, cell in enumerate(moves):
    board = rules.place(board, cell, rules.O if number % 2 else rules.X)
  return int(board)


def draw(board: int) -> str:
  """Formats a board as lines of text; free cells show their names."""
  cells = zip(text_formats.COORDINATES, rules.cells()[board], strict=True)
  names = [
    f"{text_formats.MARK_NAMES[mark]} " if mark else name
    for name, mark in cells
  ]
  rows = (" | ".join(names[first : first + 3]) for first in (0, 3, 6))
  return "\n".join(f"  {row}".rstrip() for row in rows)


class SelfPlay(NamedTuple):
  """Counts of a model's games against itself.

  The endings are `X wins`, `O wins`, `draw`, or a mark and `illegal` or
  `unreadable`.
  """

  endings: Counter[str]
  num_different: int
  num_moves: int
  num_optimal: int


def self_play(partner: Partner, num_games: int) -> SelfPlay:
  """Plays a model against itself, for a partner with as many games."""
  games: list[list[int]] = [[] for _ in range(num_games)]
  endings: dict[int, str] = {}
  num_optimal = 0
  for ply in range(rules.NUM_CELLS):
    mark, name = (rules.O, "O") if ply % 2 else (rules.X, "X")
    for number, answer in enumerate(partner.answer(mark, games)):
      if number in endings:
        continue
      game = games[number]
      if not answer.is_legal:
        fault = "unreadable" if answer.cell < 0 else "illegal"
        endings[number] = f"{name} {fault}"
        continue
      num_optimal += answer.cell in solver.optimal_cells(board_after(game))
      game.append(answer.cell)
      winner = rules.winners()[board_after(game)]
      if winner != rules.NO_WINNER:
        endings[number] = "draw" if winner == rules.DRAWN else f"{name} wins"
  return SelfPlay(
    endings=Counter(endings.values()),
    num_different=len({tuple(game) for game in games}),
    num_moves=sum(map(len, games)),
    num_optimal=num_optimal,
  )
