"""Rows of training data of any game: an expert's games, traces, a model's games."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.games import definition
from tunix_ttt.games import expert_rows
from tunix_ttt.games import players
from tunix_ttt.games import row_kinds
from tunix_ttt.runs import progress

Row = dict[str, Any]


class ModelTurn(NamedTuple):
  """A turn of a model: the environment's state, its action and verbatim answer.

  The action is -1 if the answer is unreadable.
  """

  state: Any
  action: int
  answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _GameKind:
  """Settings of both kinds of games.

  Attributes:
    game: Game of the rows.
  """

  game: definition.Definition

  def settings(self) -> dict[str, Any]:
    """Returns all settings, with the name of the game."""
    return {**vars(self), "game": self.game.name}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertGames(_GameKind):
  """Games of an expert: a row for each of its moves.

  Attributes:
    expert: Player whose moves are the answers, named as in `play.opponent`.
    opponent: Player of the other seats.
    mistakes: Probability that the expert plays a random legal move.
    keep: Outcomes to keep, a key of `row_kinds.KEPT`.
  """

  expert: str = "optimal"
  opponent: str = "random"
  mistakes: float = 0.0
  keep: row_kinds.Keep = "all"

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games."""
    for outcome in row_kinds.KEPT["all"]:
      # The manifest lists all outcomes.
      row_kinds.tally(counts, outcome, self.keep, games=0)
    game = self.game
    expert = game.player(self.expert, "--expert")
    if self.mistakes:
      expert = players.epsilon(game.game, expert, self.mistakes)
    opponent = game.player(self.opponent, "--opponent")
    # A puzzle is lost unless it is won.
    tie = "loss" if len(game.seats) == 1 else "draw"
    games = expert_rows.games(
      game, expert, opponent, num_games=count, seed=seed
    )
    for value, rows in games:
      outcome = "win" if value > 0 else "loss" if value < 0 else tie
      if row_kinds.tally(counts, outcome, self.keep):
        yield from rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traces(_GameKind):
  """The traces of a game that has them."""

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games."""
    del counts
    assert self.game.traces is not None
    rows = self.game.traces(count, seed)
    yield from progress.bar(rows, total=count, unit="game")


@dataclasses.dataclass(frozen=True)
class GameRows:
  """The rows of a game's conversations.

  Attributes:
    game: The game.
  """

  game: Any

  @property
  def kinds(self) -> Mapping[str, type[row_kinds.Kind]]:
    """Kinds of generated rows by name; of their fields, `game` is the game."""
    return {"games": Traces if self.game.traces else ExpertGames}

  def for_sft(
    self, settings: config_lib.GamesConfig, seed: int
  ) -> Iterator[Row]:
    """Yields the rows of the games that `data.games` describes."""
    kind = Traces(game=self.game)
    if not self.game.traces:
      # Fails with the config's key.
      self.game.player(settings.expert, "data.games.expert")
      kind = ExpertGames(
        game=self.game,
        expert=settings.expert,
        mistakes=settings.mistakes,
        keep=settings.keep,
      )
    yield from kind.rows(settings.num_games, seed, Counter())

  def check_context(self, context: str) -> None:
    """Raises a UserError if there are no rows of a model's games in a context."""
    if context != "board":
      raise errors.UserError(
        f"play.context: {context}: rows of {self.game.name} are single"
        " observations; set it to board"
      )

  def of_model(
    self, turns: Sequence[ModelTurn], ending: str, value: float, context: str
  ) -> Iterator[Row]:
    """Yields the rows of a model's game.

    Args:
      turns: Turns of the model, in order.
      ending: Name of the game's ending.
      value: Return of the game.
      context: Context of a row.
    """
    del context
    for turn in turns:
      state, text = turn.state, self.game.text
      show = np.asarray(text.show(state.game, state.seat)).tolist()
      row = expert_rows.row(
        self.game, show, turn.answer, int(state.seat), value
      )
      yield {**row, "ending": ending}
