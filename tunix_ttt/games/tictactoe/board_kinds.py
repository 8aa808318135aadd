"""Kinds of rows of tic-tac-toe: games, positions, preference pairs and prompts.

The same settings and seed give the same rows; a smaller count gives a prefix of
the rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any, Literal

from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.games import row_kinds
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.runs import progress

Row = dict[str, Any]
Format = Literal["grid", "token_board"]
Context = Literal["board", "full", "truncated"]

_BATCH = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TextKind:
  """Settings of every kind.

  Attributes:
    format: Text format of boards and answers.
    thoughts: Style of explanations, a key of `text_formats.STYLES`.
  """

  format: Format = "grid"
  thoughts: str = "template"

  @property
  def text_format(self) -> text_formats.TextFormat:
    """The text format."""
    return text_formats.named(self.format, thoughts=self.thoughts != "none")

  def settings(self) -> dict[str, Any]:
    """Returns all settings."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Games(_TextKind):
  """Games of the solver against a random opponent.

  Attributes:
    context: Context of a row; `game_turns.of_game` lists the choices.
    mistakes: Probability that a move is a random legal one.
    keep: Outcomes to keep, a key of `row_kinds.KEPT`.
    random_starts: Share of games that start on a random position.
  """

  context: Context = "board"
  mistakes: float = 0.0
  keep: row_kinds.Keep = "all"
  random_starts: float = 0.0

  def __post_init__(self):
    game_turns.check_context(self.context, self.text_format)

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games."""
    # Imported lazily: the other kinds need no JAX.
    from tunix_ttt.games.tictactoe import env as env_lib
    from tunix_ttt.games.tictactoe import expert_games

    text_format = self.text_format
    for outcome in row_kinds.KEPT["all"]:
      # The manifest lists all outcomes.
      row_kinds.tally(counts, outcome, self.keep, games=0)
    with progress.bar(total=count, unit="game") as bar:
      for first in range(0, count, _BATCH):
        games = expert_games.expert_games(
          seed, _BATCH, self.random_starts, self.mistakes, first
        )
        for number in range(min(_BATCH, count - first)):
          outcome = env_lib.Outcome(int(games.outcome[number])).name.lower()
          bar.update()
          if not row_kinds.tally(counts, outcome, self.keep):
            continue
          turns = expert_games.turns(games, number, self.thoughts)
          agent = text_formats.MARK_NAMES[int(games.agent[number])]
          for row in game_turns.of_game(turns, text_format, self.context):
            yield {**row, "agent": agent, "outcome": outcome}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions(_TextKind):
  """Distinct positions, labelled by the solver.

  Attributes:
    labels: `all` for a row per optimal move, `one` for the preferred move.
  """

  thoughts: str = "tactics"
  labels: Literal["all", "one"] = "one"

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` positions."""
    boards = rules.positions()
    if count > len(boards):
      raise errors.UserError(
        f"--count: {count} is too many; there are {len(boards)} positions"
      )
    explain, text_format = text_formats.STYLES[self.thoughts], self.text_format
    rng = streams.generator(seed, streams.Stream.POSITION_ROWS)
    drawn = board_positions.endless(rng, boards)
    preferred = solver.solve().preferred
    for _ in progress.bar(range(count), total=count, unit="position"):
      board, last_move = next(drawn)
      counts["positions"] += 1
      cells = (int(preferred[board]),)
      if self.labels == "all":
        cells = solver.optimal_cells(board)
      for cell in cells:
        turn = game_turns.Turn(board, last_move, cell, explain(board, cell))
        yield from game_turns.of_game([turn], text_format, "board")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(_TextKind):
  """Preference pairs for DPO.

  Attributes:
    rejected: Relative frequency of each kind in `row_kinds.REJECTED`.
  """

  rejected: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: {"worse": 1.0}
  )

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` distinct pairs, or all that exist."""
    rng = streams.generator(seed, streams.Stream.PAIR_ROWS)
    pairs = board_positions.pairs(
      rng, self.text_format, self.thoughts, self.rejected
    )
    for row in row_kinds.distinct(pairs, count, "pair", counts):
      counts[row["rejected_is"]] += 1
      yield row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(_TextKind):
  """Prompts with the optimal moves, for GRPO."""

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` distinct prompts, or all that exist."""
    text_format = self.text_format
    rng = streams.generator(seed, streams.Stream.PROMPT_ROWS)
    drawn = board_positions.endless(rng, rules.positions())
    rows = (board_positions.prompt_row(each, text_format) for each in drawn)
    yield from row_kinds.distinct(rows, count, "prompt", counts)


KINDS: Mapping[str, type[row_kinds.Kind]] = {
  "games": Games,
  "positions": Positions,
  "dpo": Pairs,
  "prompts": Prompts,
}
