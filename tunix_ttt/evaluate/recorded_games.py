"""Reads recorded games of any game, as the model's seat saw them."""

import pathlib
from typing import Self

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import game_files

_WHAT, _SCRIPT = "file of games", "eval_play.py"


class Turn(files.Row):
  """A turn of the model.

  `move` is the first spelling of the answer's action, None if it is unreadable.
  `optimal` is None for a game without a solution.
  """

  observation: str
  response: str
  move: str | None
  legal: bool
  optimal: bool | None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.legal and self.move is None:
      raise ValueError("an unreadable answer cannot be legal")
    if self.optimal and not self.legal:
      raise ValueError("an illegal answer cannot be optimal")
    return self


class Game(files.Row):
  """A game of the model in a seat.

  Attributes:
    game: Name of the game.
    seat: The game's own name of the seat.
    ending: Name of a `trajectory.Ending` in lower case.
    reward: Return of the seat, `return` in the file.
    final: Observation of the seat at the end.
    turns: Turns of the model.
    step: Training step, None in evaluations.
  """

  game: str = pydantic.Field(min_length=1)
  seat: str = pydantic.Field(min_length=1)
  ending: game_files.Ending
  reward: float = pydantic.Field(alias="return", allow_inf_nan=False)
  final: str
  turns: list[Turn]
  step: pydantic.NonNegativeInt | None = None

  @property
  def num_slips(self) -> int:
    """Number of legal moves that are not optimal."""
    return sum(turn.legal and turn.optimal is False for turn in self.turns)


def is_recorded(path: pathlib.Path) -> bool:
  """Returns whether the games of a file name their game, as `Game` does.

  Raises:
    errors.UserError: If the first line is no JSON object.
  """
  _, row = next(files.read_jsonl(path, _WHAT))
  return "game" in row


def read_games(path: pathlib.Path) -> list[Game]:
  """Reads a JSONL file of games of one game.

  Raises:
    errors.UserError: If a line is wrong, with its number, or of another game.
  """
  games: list[Game] = []
  for number, game in files.read_rows(Game, path, _WHAT, _SCRIPT):
    if games and game.game != games[0].game:
      raise errors.UserError(
        f"{path}:{number}: a game of {errors.quote(game.game)} among games of"
        f" {errors.quote(games[0].game)}; keep each game in a file of its own"
      )
    games.append(game)
  return games
