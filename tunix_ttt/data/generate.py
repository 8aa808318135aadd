"""Generates files of rows: games, positions, preference pairs and prompts.

Each kind of rows is a dataclass of settings with a method `rows`, which yields
the rows one by one. The same settings and seed give the same rows; a smaller
count gives a prefix of the rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import pathlib
from typing import Any, Literal, Protocol

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import reading
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

Row = dict[str, Any]
Format = Literal["grid", "token_board"]
Context = Literal["board", "full", "truncated"]
Keep = Literal["won", "drawn", "not-lost", "all"]

# The outcomes of games that each choice keeps; other games are dropped.
KEPT: Mapping[str, tuple[str, ...]] = {
  "won": ("win",),
  "drawn": ("draw",),
  "not-lost": ("win", "draw"),
  "all": ("win", "draw", "loss"),
}
_BATCH = 2048
# Number of repeated rows in a row after which the search for new ones ends.
_PATIENCE = 50_000


class Kind(Protocol):
  """A generator of rows."""

  def settings(self) -> dict[str, Any]:
    """Returns the settings for a manifest."""
    ...

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` items; counts generated and dropped ones."""
    ...


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
    keep: Outcomes to keep, a key of `KEPT`.
    random_starts: Share of games that start on a random position.
  """

  context: Context = "board"
  mistakes: float = 0.0
  keep: Keep = "all"
  random_starts: float = 0.0

  def __post_init__(self):
    game_turns.check_context(self.context, self.format)

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games."""
    # Imported lazily: the other kinds need no JAX.
    from tunix_ttt.games.tictactoe import env as env_lib
    from tunix_ttt.games.tictactoe import expert_games

    text_format = self.text_format
    for outcome in KEPT["all"]:
      # The manifest lists all outcomes.
      tally(counts, outcome, self.keep, games=0)
    with progress.bar(total=count, unit="game") as bar:
      for first in range(0, count, _BATCH):
        games = expert_games.expert_games(
          seed, _BATCH, self.random_starts, self.mistakes, first
        )
        for number in range(min(_BATCH, count - first)):
          outcome = env_lib.Outcome(int(games.outcome[number])).name.lower()
          bar.update()
          if not tally(counts, outcome, self.keep):
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
    rejected: Relative frequency of each kind in `board_positions.REJECTED`.
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
    for row in distinct(pairs, count, "pair", counts):
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
    yield from distinct(rows, count, "prompt", counts)


KINDS: Mapping[str, type[Kind]] = {
  "games": Games,
  "positions": Positions,
  "dpo": Pairs,
  "prompts": Prompts,
}


def tally(
  counts: Counter[str], ending: str, keep: Keep, games: int = 1
) -> bool:
  """Counts games of an ending and returns whether they are kept."""
  is_kept = ending in KEPT[keep]
  counts[f"{'kept' if is_kept else 'dropped'} {ending}"] += games
  return is_kept


def distinct(
  rows: Iterator[Row | None], count: int, unit: str, counts: Counter[str]
) -> Iterator[Row]:
  """Yields `count` distinct rows, or fewer if no new row comes for long."""
  seen: set[bytes] = set()
  num_repeated = 0
  with progress.bar(total=count, unit=unit) as bar:
    while len(seen) < count and num_repeated < _PATIENCE:
      row = next(rows)
      num_repeated += 1
      if row is None:
        continue
      digest = hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
      if digest not in seen:
        seen.add(digest)
        num_repeated = 0
        bar.update()
        yield row
  if missing := count - len(seen):
    counts["not found, as there are no more different ones"] = missing


def parse_weights(text: str) -> dict[str, float]:
  """Parses weights by kind of `board_positions.REJECTED`: `worse=0.7,illegal=0.3`.

  Raises:
    ValueError: If a kind is unknown or repeated, or a weight is not above 0.
  """
  weights = {}
  for part in text.split(","):
    name, _, weight = part.partition("=")
    if name not in board_positions.REJECTED or name in weights:
      raise ValueError(
        f"{name!r} is not one of {', '.join(board_positions.REJECTED)}, or is"
        " repeated"
      )
    weights[name] = float(weight or 1)
    if not 0 < weights[name] < float("inf"):
      raise ValueError(f"the weight of {name} must be above 0")
  return weights


def write(
  output: pathlib.Path, generator: str, kind: Kind, count: int, seed: int
) -> reading.Generated:
  """Writes the rows and the manifest beside them; both files appear, or neither.

  `generator` is the name of the kind in the manifest.

  Raises:
    errors.UserError: If a file exists already, or no row is kept.
  """
  counts: Counter[str] = Counter()
  digest, num_rows = hashlib.sha256(), 0
  with (
    files.new_file(reading.beside(output)) as manifest_file,
    files.new_file(output) as file,
    progress.stage("making rows", has_bar=True),
  ):
    for row in kind.rows(count, seed, counts):
      line = files.to_json(row).encode() + b"\n"
      digest.update(line)
      file.write(line)
      num_rows += 1
    if not num_rows:
      summary = ", ".join(f"{name} {n}" for name, n in counts.items())
      raise errors.UserError(
        f"{output}: not written, because no row was kept"
        f" ({summary or 'nothing'}); raise the count, or keep other games"
      )
    manifest = reading.Generated(
      created_at=run_directory.now(),
      digest=digest.hexdigest(),
      rows=num_rows,
      generator=generator,
      settings={"count": count, **kind.settings()},
      seed=seed,
      counts=dict(counts),
    )
    manifest_file.write(manifest.to_bytes())
  return manifest
