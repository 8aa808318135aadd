"""Files of generated rows: what kinds there are, and how one is written.

Each kind is its settings and a method `rows`, which yields row after row and
counts what it does; nothing is kept in memory but a batch of games. The same
settings and seed give the same rows, and a smaller count the first of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import pathlib
from typing import Any, Literal, Protocol

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.data import manifests
from tunix_ttt.data import positions
from tunix_ttt.data import rows as rows_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thoughts as thoughts_lib
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

Row = dict[str, Any]
Format = Literal["grid", "token_board"]
Context = Literal["board", "full", "truncated"]
Keep = Literal["won", "drawn", "not-lost", "all"]

# The endings of games that each choice keeps; the others are dropped.
KEPT: Mapping[str, tuple[str, ...]] = {
  "won": ("win",),
  "drawn": ("draw",),
  "not-lost": ("win", "draw"),
  "all": ("win", "draw", "loss"),
}
_BATCH = 2048


class Kind(Protocol):
  """A generator of rows."""

  def settings(self) -> dict[str, Any]:
    """Returns what a manifest says of it."""
    ...

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields rows.

    Args:
      count: Number of games, positions, pairs or prompts.
      seed: Random seed.
      counts: where what was made and dropped is counted.
    """
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InText:
  """Settings common to all kinds.

  Attributes:
    format: Text format.
    thoughts: how moves are explained, a key of `thoughts.STYLES`.
  """

  format: Format = "grid"
  thoughts: str = "template"

  @property
  def text_format(self) -> text_formats.TextFormat:
    """The format."""
    return text_formats.named(self.format, thoughts=self.thoughts != "none")

  def settings(self) -> dict[str, Any]:
    """Returns all settings."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Games(_InText):
  """Games of the solver, or of a worse player, against a random opponent.

  Attributes:
    context: see `rows.of_game`.
    mistakes: probability that a move is any legal one instead.
    keep: which games, by how they ended.
    random_starts: share of games that start on a random position.
  """

  context: Context = "board"
  mistakes: float = 0.0
  keep: Keep = "all"
  random_starts: float = 0.0

  def __post_init__(self):
    rows_lib.check_context(self.context, self.format)

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games; see `Kind`."""
    # Here, because the other kinds need no JAX.
    from tunix_ttt.data import solver_games as games_lib
    from tunix_ttt.games.tictactoe import env as env_lib

    text_format = self.text_format
    announce(counts, KEPT["all"], self.keep)
    with progress.bar(total=count, unit="game") as bar:
      for first in range(0, count, _BATCH):
        games = games_lib.expert_games(
          seed, _BATCH, self.random_starts, self.mistakes, first
        )
        for number in range(min(_BATCH, count - first)):
          ending = env_lib.Outcome(int(games.outcome[number])).name.lower()
          bar.update()
          if not tally(counts, ending, self.keep):
            continue
          turns = games_lib.turns(games, number, self.thoughts)
          agent = prompts.MARK_NAMES[int(games.agent[number])]
          for row in rows_lib.of_game(turns, text_format, self.context):
            yield {**row, "agent": agent, "outcome": ending}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions(_InText):
  """Different positions, labelled by the solver.

  Attributes:
    labels: a row for each optimal move, or one row with the preferred one.
  """

  thoughts: str = "tactics"
  labels: Literal["all", "one"] = "one"

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` positions; see `Kind`."""
    every = rules.positions()
    if count > len(every):
      raise errors.UserError(
        f"--count: {count} is too many; there are {len(every)} positions"
      )
    explain = thoughts_lib.STYLES[self.thoughts]
    text_format = self.text_format
    rng = streams.generator(seed, streams.Stream.POSITION_ROWS)
    shown = positions.endless(rng, every)
    for _ in progress.bar(range(count), total=count, unit="position"):
      board, last_move = next(shown)
      counts["positions"] += 1
      for cell in positions.labels(board, every=self.labels == "all"):
        turn = rows_lib.Turn(board, last_move, cell, explain(board, cell))
        yield from rows_lib.of_game([turn], text_format, "board")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(_InText):
  """Preference pairs, for DPO.

  Attributes:
    rejected: how often each of `positions.REJECTED` is drawn.
  """

  rejected: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: {"worse": 1.0}
  )

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` different pairs, or all that are found; see `Kind`."""
    text_format = self.text_format
    rng = streams.generator(seed, streams.Stream.PAIR_ROWS)
    found = positions.pairs(rng, text_format, self.thoughts, self.rejected)
    for row in different(found, count, "pair", counts):
      counts[row["rejected_is"]] += 1
      yield row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(_InText):
  """Prompts with the optimal moves, for GRPO."""

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` different prompts, or all there are; see `Kind`."""
    text_format = self.text_format
    rng = streams.generator(seed, streams.Stream.PROMPT_ROWS)
    shown = positions.endless(rng, rules.positions())
    found = (positions.prompt_row(each, text_format) for each in shown)
    yield from different(found, count, "prompt", counts)


KINDS: Mapping[str, type[Kind]] = {
  "games": Games,
  "positions": Positions,
  "dpo": Pairs,
  "prompts": Prompts,
}


def announce(counts: Counter[str], endings: Iterable[str], keep: Keep) -> None:
  """Counts no game of any ending, so that all are named."""
  for ending in endings:
    counts[_name(ending, keep)] = 0


def tally(counts: Counter[str], ending: str, keep: Keep) -> bool:
  """Counts a game, and returns whether it is kept."""
  counts[_name(ending, keep)] += 1
  return ending in KEPT[keep]


def _name(ending: str, keep: Keep) -> str:
  return f"{'kept' if ending in KEPT[keep] else 'dropped'} {ending}"


def different(
  rows: Iterator[Row | None], count: int, unit: str, counts: Counter[str]
) -> Iterator[Row]:
  """Yields different rows, and counts those that were not found.

  Args:
    rows: see `positions.different`.
    count: how many to find.
    unit: what they are, for the progress bar.
    counts: where they are counted.
  """
  missing = count
  for row in progress.bar(
    positions.different(rows, count), total=count, unit=unit
  ):
    missing -= 1
    yield row
  if missing:
    counts["not found, as there are no more different ones"] = missing


def parse_weights(text: str) -> dict[str, float]:
  """Reads `worse`, or `worse=0.7,illegal=0.3`.

  Raises:
    ValueError: if it is neither.
  """
  weights = {}
  for part in text.split(","):
    name, _, weight = part.partition("=")
    if name not in positions.REJECTED or name in weights:
      raise ValueError(
        f"{name!r} is not one of {', '.join(positions.REJECTED)}, or is there"
        " twice"
      )
    weights[name] = float(weight or 1)
    if not 0 < weights[name] < float("inf"):
      raise ValueError(f"the weight of {name} must be above 0")
  return weights


def write(
  output: pathlib.Path,
  generator: str,
  kind: Kind,
  count: int,
  seed: int,
) -> manifests.Generated:
  """Writes rows, and the manifest beside them; both are there at the end, or none.

  Args:
    output: the file, which must not exist, nor its manifest.
    generator: the name of the kind.
    kind: makes the rows.
    count: see `Kind.rows`.
    seed: see `Kind.rows`.

  Raises:
    errors.UserError: if a file exists, or no row was made.
  """
  counts: Counter[str] = Counter()
  digest, written = hashlib.sha256(), 0
  with (
    files.new_file(manifests.beside(output)) as beside,
    files.new_file(output) as file,
    progress.stage("making rows", has_bar=True),
  ):
    for row in kind.rows(count, seed, counts):
      line = files.to_json(row).encode() + b"\n"
      digest.update(line)
      file.write(line)
      written += 1
    if not written:
      found = ", ".join(f"{name} {n}" for name, n in counts.items())
      raise errors.UserError(
        f"{output}: not written, because no row was kept ({found or 'nothing'});"
        " ask for more, or keep others"
      )
    manifest = manifests.Generated(
      created_at=run_directory.now(),
      digest=digest.hexdigest(),
      rows=written,
      generator=generator,
      settings={"count": count, **kind.settings()},
      seed=seed,
      counts=dict(counts),
    )
    beside.write(manifest.to_bytes())
  return manifest
