"""Reads recorded games of any game, as the model's seat saw them."""

import pathlib
from typing import Any, Self

import pydantic

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games import board_page
from tunix_ttt.games import catalog
from tunix_ttt.rollout import trajectory as trajectory_lib

_WHAT, _SCRIPT = "file of games", "eval_play.py"
_ENDINGS = sorted({e.name.lower() for e in trajectory_lib.Ending} - {"ongoing"})


class Turn(files.Row):
  """A turn of the model.

  `move` is the first spelling of the answer's action, None if it is unreadable.
  `optimal` is None for a game without a solution, `reward` outside of training.
  """

  observation: str
  response: str
  move: str | None
  legal: bool
  optimal: bool | None
  reward: float | None = None

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
  ending: str
  reward: float = pydantic.Field(alias="return", allow_inf_nan=False)
  final: str
  turns: list[Turn]
  step: pydantic.NonNegativeInt | None = None

  @property
  def num_slips(self) -> int:
    """Number of legal moves that are not optimal."""
    return sum(turn.legal and turn.optimal is False for turn in self.turns)


def board_of(path: pathlib.Path) -> board_page.BoardPage | None:
  """Returns the board for the games in a file; None for games as text.

  Games that do not name their game, as `Game` does, are of the default game.

  Raises:
    errors.UserError: If the first line is no JSON object.
  """
  _, row = next(files.read_jsonl(path, _WHAT))
  return None if "game" in row else catalog.load_config(None).board


def read_games(path: pathlib.Path) -> list[Any]:
  """Reads a JSONL file of games of one game.

  Returns:
    Records of `Game`, or of `BoardPage.record` if the games have a board.

  Raises:
    errors.UserError: If a line is wrong, with its number, or of another game.
  """
  board, games = board_of(path), []
  kind: Any = Game if board is None else board.record
  for number, game in files.read_rows(kind, path, _WHAT, _SCRIPT):
    if game.ending not in _ENDINGS:
      raise errors.UserError(
        f"{path}:{number}: ending: expected one of {', '.join(_ENDINGS)}"
      )
    if games and board is None and game.game != games[0].game:
      raise errors.UserError(
        f"{path}:{number}: a game of {errors.quote(game.game)} among games of"
        f" {errors.quote(games[0].game)}; keep each game in a file of its own"
      )
    games.append(game)
  return games
