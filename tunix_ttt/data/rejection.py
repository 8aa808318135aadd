"""Rows from a model's own games: the good ones, or pairs of its mistakes."""

from collections import Counter
from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.data import generate
from tunix_ttt.data import positions
from tunix_ttt.data import rows as rows_lib
from tunix_ttt.evaluate import matches
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thoughts as thoughts_lib
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
class _OwnGames:
  """Games of a model.

  Attributes:
    name: the model's.
    model: who plays.
    config: how; an unreadable answer always ends a game.
    sides: the model's marks.
  """

  name: str
  model: checkpoints.Model
  config: config_lib.SFTConfig
  sides: Literal["x", "o", "mixed"] = "mixed"

  def settings(self) -> dict[str, Any]:
    """Returns the model's name and revision, and all settings."""
    own = {field.name for field in dataclasses.fields(self)}
    own -= {"name", "model", "config"}
    return {
      "model": self.name,
      "revision": self.model.revision,
      **{name: getattr(self, name) for name in sorted(own)},
      "config": config_lib.to_dict(self.config),
    }

  def text_format(self, *, thoughts: bool) -> text_formats.TextFormat:
    """Returns the format that the model plays in."""
    return text_formats.named(self.config.play.format, thoughts=thoughts)

  def play(self, seed: int) -> Iterator[tuple[trajectory_lib.Trajectory, int]]:
    """Yields games without end, each as some games and its number among them.

    Raises:
      errors.UserError: if there is no such opponent, or the limits leave no
        room for an answer.
    """
    play = dataclasses.replace(self.config.play, on_parse_error="end")
    config = dataclasses.replace(self.config, play=play)
    env = matches.environment(play)
    player = matches.Player(self.model, config, env)
    init = jax.jit(jax.vmap(env.init))
    # Of even size, so that sides alternate from batch to batch, too.
    size = play.batch_size + play.batch_size % 2
    marks = env_lib.starting_marks(self.sides, size)
    for first in itertools.count(step=size):
      numbers = jnp.arange(first, first + size)
      opponent_keys = streams.keys(
        seed, streams.Stream.REJECTION_OPPONENTS, last=numbers
      )
      states = init(jax.vmap(jax.random.bits)(opponent_keys), marks)
      token_keys = streams.keys(
        seed, streams.Stream.REJECTION_TOKENS, last=numbers
      )
      games = jax.device_get(player(token_keys, states))
      for number in range(size):
        yield games, number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection(_OwnGames):
  """Games of a model, as they are.

  Attributes:
    keep: which games, by how they ended; those that ended with an illegal move,
      an unreadable answer or a cut are dropped in any case.
    transform: in conversations, whether past thoughts are replaced, with a row
      for each turn; else a row is a whole game, thoughts as they are.
  """

  keep: generate.Keep = "won"
  transform: bool = True

  def __post_init__(self):
    play = self.config.play
    rows_lib.check_context(play.context, play.format)

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games; see `generate.Kind` and `play`."""
    thoughts = self.config.data.games.thoughts == "template"
    text_format = self.text_format(thoughts=thoughts)
    context = self.config.play.context
    if context != "board":
      context = "truncated" if self.transform else "full"
    generate.announce(counts, _ENDINGS.values(), self.keep)
    played = itertools.islice(self.play(seed), count)
    for games, number in progress.bar(played, total=count, unit="game"):
      ending = _ENDINGS[trajectory_lib.Ending(int(games.ending[number]))]
      if not generate.tally(counts, ending, self.keep):
        continue
      turns = _turns(games, number, self.model)
      agent = prompts.MARK_NAMES[int(games.agent[number])]
      for row in rows_lib.of_game(turns, text_format, context):
        yield {**row, "agent": agent, "outcome": ending}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistakes(_OwnGames):
  """Preference pairs of a model's mistakes, in its own words, and better answers.

  Attributes:
    rejected: which mistakes, of `positions.REJECTED`: moves that are worse by
      the solver or not legal, answers that cannot be read.
    thoughts: how chosen moves are explained, a key of `thoughts.STYLES`.
  """

  rejected: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: dict.fromkeys(positions.REJECTED, 1.0)
  )
  thoughts: str = "template"

  def __post_init__(self):
    if self.config.play.context != "board":
      raise errors.UserError(
        f"play.context: pairs are of single boards, and this is"
        f" {self.config.play.context}; set it to board"
      )
    if len({*self.rejected.values()}) > 1:
      raise errors.UserError(
        "rejected: a model makes its mistakes as often as it does; name kinds"
        " without weights, such as worse,illegal"
      )

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields `count` different pairs, or all that are found; see `play`."""
    found = self._pairs(seed, counts)
    yield from generate.different(found, count, "pair", counts)

  def _pairs(self, seed: int, counts: Counter[str]) -> Iterator[Row | None]:
    """Yields for each turn a pair, or None where there is none."""
    rng = streams.generator(seed, streams.Stream.BETTER_MOVES)
    text_format = self.text_format(thoughts=self.thoughts != "none")
    for games, number in self.play(seed):
      counts["games"] += 1
      for turn in _turns(games, number, self.model):
        kind = _mistake(turn)
        counts[f"turns: {kind or 'optimal'}"] += 1
        if kind not in self.rejected:
          yield None
          continue
        assert kind is not None and turn.answer is not None
        chosen = text_format.render_answer(
          *self._better(turn.board, turn.answer, rng)
        )
        shown = positions.Shown(turn.board, turn.last_move)
        yield positions.pair_row(shown, text_format, chosen, turn.answer, kind)

  def _better(
    self, board: int, answer: str, rng: np.random.Generator
  ) -> tuple[int, str | None]:
    """Draws an optimal move; its thought is not the answer's, if possible.

    Where every thought of the style is, the moves alone tell the answers apart:
    words of another style would be unlike all that the model says.
    """
    explain = thoughts_lib.STYLES[self.thoughts]
    cells = rng.permutation(solver.optimal_cells(board)).tolist()
    found = [(cell, explain(board, cell)) for cell in cells]
    differing = (each for each in found if (each[1] or "") not in answer)
    return next(differing, found[0])


def _mistake(turn: rows_lib.Turn) -> str | None:
  """Returns which of `positions.REJECTED` a turn is; None for an optimal one."""
  if turn.cell < 0:
    return "format"
  if turn.cell in solver.optimal_cells(turn.board):
    return None
  is_legal = rules.legal_masks()[turn.board] >> turn.cell & 1
  return "worse" if is_legal else "illegal"


def _turns(
  games: trajectory_lib.Trajectory, number: int, model: checkpoints.Model
) -> list[rows_lib.Turn]:
  """Returns a game's turns, in the model's own words."""
  turns = []
  for t in np.flatnonzero(games.turn_mask[number]):
    said = np.asarray(games.actions[number, t])[games.action_mask[number, t]]
    last_move = int(games.last_moves[number, t])
    turns.append(
      rows_lib.Turn(
        board=int(games.boards[number, t]),
        last_move=None if last_move < 0 else last_move,
        cell=int(games.moves[number, t]),
        answer=model.tokenizer.decode(said.tolist()),
      )
    )
  return turns
