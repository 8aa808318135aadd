"""Makes rows of a model's own games: filtered games, or pairs of its mistakes."""

from collections import Counter
from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import model_player
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game_rows
from tunix_ttt.games import position_reader
from tunix_ttt.games import row_kinds
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import progress

Row = dict[str, Any]
_ENDINGS = {
  trajectory_lib.Ending.WIN: "win",
  trajectory_lib.Ending.DRAW: "draw",
  trajectory_lib.Ending.LOSS: "loss",
  trajectory_lib.Ending.ILLEGAL: "illegal",
  trajectory_lib.Ending.PARSE_ERROR: "parse error",
  trajectory_lib.Ending.LENGTH: "cut",
  trajectory_lib.Ending.UNFINISHED: "unfinished",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ModelGames:
  """Games of a model.

  Attributes:
    name: Name of the model.
    model: Model that plays.
    config: Settings of play; an unreadable answer always ends a game.
    sides: Seat that the model plays, or `mixed` for each in turn.
  """

  name: str
  model: checkpoints.Model
  config: config_lib.SFTConfig
  sides: str = "mixed"

  def settings(self) -> dict[str, Any]:
    """Returns the name and revision of the model, and all settings."""
    names = sorted(vars(self).keys() - {"name", "model", "config"})
    return {
      "model": self.name,
      "revision": self.model.revision,
      **{name: getattr(self, name) for name in names},
      "config": config_lib.to_dict(self.config),
    }

  def play(
    self, seed: int
  ) -> Iterator[tuple[trajectory_lib.Trajectory, int, float]]:
    """Yields games without end: a batch of games, an index there and a return."""
    play = dataclasses.replace(self.config.play, on_parse_error="end")
    config = dataclasses.replace(self.config, play=play)
    player = model_player.Player(self.model, config)
    game = player.game
    # An even size, so that sides also alternate across batches.
    size = play.batch_size + play.batch_size % 2
    seats = jnp.arange(size) % len(game.seats)
    if self.sides != "mixed":
      seats = jnp.full(size, game.seat_number(self.sides, "--sides"))
    for first in itertools.count(step=size):
      numbers = jnp.arange(first, first + size)
      game_keys = streams.keys(
        seed, streams.Stream.REJECTION_OPPONENTS, last=numbers
      )
      states = player.begin(game_keys, seats)
      token_keys = streams.keys(
        seed, streams.Stream.REJECTION_TOKENS, last=numbers
      )
      games = jax.device_get(player(token_keys, states))
      values = game.returns(games.state, games.ending).tolist()
      for number, value in enumerate(values):
        yield games, number, value

  def turns(
    self, games: trajectory_lib.Trajectory, number: int
  ) -> list[game_rows.ModelTurn]:
    """Returns the turns of a game."""
    turns = []
    for t in np.flatnonzero(games.turn_mask[number]):
      mask = games.action_mask[number, t]
      tokens = np.asarray(games.actions[number, t])[mask]
      turns.append(
        game_rows.ModelTurn(
          jax.tree.map(lambda leaf, t=t: leaf[number, t], games.states),
          int(games.moves[number, t]),
          self.model.tokenizer.decode(tokens.tolist()),
        )
      )
    return turns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection(_ModelGames):
  """Games of a model, filtered by their ending.

  Attributes:
    keep: Outcomes to keep, a key of `row_kinds.KEPT`; games that end in an
      illegal move, an unreadable answer or a cut are always dropped.
    transform: Whether a conversation becomes a row per turn with past thoughts
      replaced, instead of one row per game.
  """

  keep: row_kinds.Keep = "won"
  transform: bool = True

  def __post_init__(self):
    rows = catalog.of(self.config).rows
    rows.check_context(self.config.play.context)

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games."""
    rows, context = catalog.of(self.config).rows, self.config.play.context
    if context != "board":
      context = "truncated" if self.transform else "full"
    for ending in _ENDINGS.values():
      # The manifest lists all endings.
      row_kinds.tally(counts, ending, self.keep, games=0)
    games_played = itertools.islice(self.play(seed), count)
    bar = progress.bar(games_played, total=count, unit="game")
    for games, number, value in bar:
      ending = _ENDINGS[trajectory_lib.Ending(int(games.ending[number]))]
      if not row_kinds.tally(counts, ending, self.keep):
        continue
      turns = self.turns(games, number)
      yield from rows.of_model(turns, ending, value, context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistakes(_ModelGames):
  """Preference pairs: a model's mistakes, verbatim, and better answers.

  Attributes:
    rejected: Kinds of mistakes, of `row_kinds.REJECTED`, with equal weights.
    thoughts: Style of the chosen answers' thoughts, a style of the game's.
  """

  rejected: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: dict.fromkeys(row_kinds.REJECTED, 1.0)
  )
  thoughts: str = "template"

  def __post_init__(self):
    self._reader()
    if self.config.play.context != "board":
      raise errors.UserError(
        "play.context: pairs need single boards, found"
        f" {self.config.play.context}; set it to board"
      )
    if len({*self.rejected.values()}) > 1:
      raise errors.UserError(
        "rejected: a model's mistakes cannot be weighted; name kinds without"
        " weights, such as worse,illegal"
      )

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` distinct pairs, or all that are found."""
    pairs = self._pairs(seed, counts)
    yield from row_kinds.distinct(pairs, count, "pair", counts)

  def _pairs(self, seed: int, counts: Counter[str]) -> Iterator[Row | None]:
    """Yields a pair for each turn, None for a turn without a mistake."""
    rng = streams.generator(seed, streams.Stream.BETTER_MOVES)
    game, reader = self._reader()
    for games, number, _ in self.play(seed):
      counts["games"] += 1
      for turn in self.turns(games, number):
        kind = "format"
        if turn.action >= 0:
          position = int(game.position_numbers(turn.state))
          kind = reader.grade(position, turn.action)
        counts[f"turns: {kind}"] += 1
        if kind not in self.rejected:
          yield None
          continue
        yield reader.pair_row(turn.state, turn.answer, kind, rng, self.thoughts)

  def _reader(self) -> tuple[definition.Definition, position_reader.Reader]:
    game = catalog.of(self.config, thoughts=self.thoughts != "none")
    return game, position_reader.require(game, "pairs of mistakes")
