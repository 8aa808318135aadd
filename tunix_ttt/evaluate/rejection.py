"""Rejection sampling: a model's own games, of which the good ones are kept."""

from collections import Counter
from collections.abc import Iterator
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tunix_ttt import config as config_lib
from tunix_ttt.data import generate
from tunix_ttt.data import rows as rows_lib
from tunix_ttt.evaluate import matches
from tunix_ttt.game import env as env_lib
from tunix_ttt.language import formats
from tunix_ttt.language import prompts
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory as trajectory_lib

Row = dict[str, Any]
_ENDINGS = {
  trajectory_lib.Ending.WIN: "win",
  trajectory_lib.Ending.DRAW: "draw",
  trajectory_lib.Ending.LOSS: "loss",
  trajectory_lib.Ending.ILLEGAL: "illegal",
  trajectory_lib.Ending.PARSE_ERROR: "parse error",
  trajectory_lib.Ending.LENGTH: "cut",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection:
  """Games of a model.

  Attributes:
    name: the model's.
    model: who plays.
    config: how; an unreadable answer always ends a game.
    sides: the model's marks.
    keep: which games, by how they ended; those that ended with an illegal move,
      an unreadable answer or a cut are dropped in any case.
    transform: in conversations, whether past thoughts are replaced, with a row
      for each turn; else a row is a whole game, thoughts as they are.
  """

  name: str
  model: checkpoints.Model
  config: config_lib.SFTConfig
  sides: Literal["x", "o", "mixed"] = "mixed"
  keep: generate.Keep = "won"
  transform: bool = True

  def __post_init__(self):
    play = self.config.play
    rows_lib.check_context(play.context, play.format)

  def settings(self) -> dict[str, Any]:
    """Returns the model's name and revision, and all settings."""
    return {
      "model": self.name,
      "revision": self.model.revision,
      "sides": self.sides,
      "keep": self.keep,
      "transform": self.transform,
      "config": config_lib.to_dict(self.config),
    }

  def rows(self, count: int, seed: int, counts: Counter[str]) -> Iterator[Row]:
    """Yields the rows of `count` games; see `generate.Kind`.

    Raises:
      errors.UserError: if there is no such opponent, or the limits leave no
        room for an answer.
    """
    play = dataclasses.replace(self.config.play, on_parse_error="end")
    config = dataclasses.replace(self.config, play=play)
    env = matches.environment(play)
    player = matches.Player(self.model, config, env)
    text_format = formats.named(
      play.format, thoughts=config.data.games.thoughts == "template"
    )
    context = play.context
    if context != "board":
      context = "truncated" if self.transform else "full"
    init = jax.jit(jax.vmap(env.init))
    fold = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))
    draw = jax.jit(jax.vmap(jax.random.bits))
    luck_key, token_key = jax.random.split(jax.random.key(seed))
    # Of even size, so that sides alternate from batch to batch, too.
    size = play.batch_size + play.batch_size % 2
    marks = env_lib.starting_marks(self.sides, size)
    generate.announce(counts, _ENDINGS.values(), self.keep)
    with tqdm.tqdm(total=count, unit="game", disable=None) as bar:
      for first in range(0, count, size):
        numbers = jnp.arange(first, first + size)
        states = init(draw(fold(luck_key, numbers)), marks)
        games = jax.device_get(player(fold(token_key, numbers), states))
        for number in range(min(size, count - first)):
          ending = _ENDINGS[trajectory_lib.Ending(int(games.ending[number]))]
          bar.update()
          if not generate.tally(counts, ending, self.keep):
            continue
          turns = _turns(games, number, self.model)
          agent = prompts.MARK_NAMES[int(games.agent[number])]
          for row in rows_lib.of_game(turns, text_format, context):
            yield {**row, "agent": agent, "outcome": ending}


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
