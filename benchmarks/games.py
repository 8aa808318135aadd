"""Several games of one model in one program, and by Tunix's sampler from the host.

For each game a tiny model learns the format of moves from random games. Then it
plays the same games both ways, against a random player and greedily, on single
observations: in one compiled program, and by Tunix's sampler, called once a turn,
whose answers are parsed and played on the host.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import re
import statistics
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record
import sampler as sampler_benchmark

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import view as view_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.text import chat
from tunix_ttt.train import reference_log_probs

MAX_NEW_TOKENS = 16


# Options of each game; of tic-tac-toe pgx's, played without its own tables.
GAMES: dict[str, dict[str, Any]] = {
  "tic_tac_toe": {},
  "kuhn_poker": {},
  "frozen_lake": {"max_moves": 20},
  "connect_four": {},
}


class _Text:
  """The text of a game with longer rules."""

  def __init__(self, text: Any, rules: str):
    self._text, self.rules = text, rules

  def __getattr__(self, name: str) -> Any:
    return getattr(self._text, name)


class _Spelled(definition.Definition):
  """A game whose rules are not one token of a tokenizer that is trained."""

  def symbols(self, vocab_size: int) -> Sequence[str]:
    """See `definition.Definition`."""
    return super().symbols(vocab_size)[1:]


def with_rules(game: str, times: int) -> definition.Definition:
  """Returns a game with its rules as many times; 0 is once, as one token."""
  plain = catalog.load(game, **GAMES[game])
  if not times:
    return plain
  fields: dict[str, Any] = {
    field.name: getattr(plain, field.name)
    for field in dataclasses.fields(plain)
  }
  rules = "\n".join([plain.text.rules] * times)
  fields["text"] = _Text(plain.text, rules)
  return _Spelled(**fields)


def teach(
  name: str, times: int, num_games: int, steps: int
) -> checkpoints.Model:
  """Returns a tiny model that has learned the format from random games.

  See `with_rules` for `name` and `times`.
  """
  options = {"game": name, "times": times}
  with tempfile.TemporaryDirectory() as directory:
    run = recipes.train_sft(
      {
        "game": {"name": "games:with_rules", "options": options},
        "model": {"name": "tiny-qwen2.5"},
        "data": {
          "games": {
            "num_games": num_games,
            "expert": "random",
            "thoughts": "none",
          },
          "eval_fraction": 0,
        },
        "training": {
          "max_steps": steps,
          "optimizer": "muon",
          "learning_rate": 5e-3,
        },
        "logging": {"report": False},
      },
      pathlib.Path(directory) / "run",
    )
    return reference_log_probs.load(run)


class HostDriven:
  """Tunix's sampler, called once a turn."""

  def __init__(
    self, model: checkpoints.Model, view: view_lib.View, text: Any, longest: int
  ):
    """Takes a model, a game and the maximum length of a prompt."""
    self._view, self._text, self._tokenizer = view, text, model.tokenizer
    self._show = jax.jit(
      jax.vmap(lambda state: text.show(state.game, state.seat))
    )
    self._step = jax.jit(jax.vmap(view.step))
    self._actions = {
      spelling: action
      for action, spellings in enumerate(text.actions)
      for spelling in spellings
    }
    self._generate = sampler_benchmark.Generator(model, longest, MAX_NEW_TOKENS)

  def __call__(self, states: view_lib.ViewState) -> np.ndarray:
    """Plays games to their end; returns their endings."""
    count = len(states.seat)
    for _ in range(self._view.game.max_plies):
      ending = np.asarray(states.ending)
      ongoing = ending == view_lib.Ending.ONGOING
      if not ongoing.any():
        break
      prompts = []
      for show in np.asarray(self._show(states)).tolist():
        messages = [
          chat.message("system", self._text.rules),
          chat.message("user", game_lib.observation_text(self._text, show)),
        ]
        prompts.append(chat.encode_chat(messages, self._tokenizer).ids)
      actions = np.full(count, -1)
      for n, answer in enumerate(self._generate(prompts)):
        match = re.fullmatch(r"\s*<move>(.*)</move>\s*", answer)
        actions[n] = self._actions.get(match[1], -1) if match else -1
      states = self._step(states, jnp.asarray(actions))
    return np.asarray(states.ending)


def measure(
  name: str,
  times: int,
  model: checkpoints.Model,
  batch_size: int,
  repeats: int,
) -> dict[str, Any]:
  """Plays the same games both ways."""
  game = with_rules(name, times)
  view, text = game.environment(), game.text
  play = config_lib.PlayConfig(
    max_turns=view.game.max_plies, max_new_tokens=MAX_NEW_TOKENS
  )
  tables = tables_lib.build(game, model.tokenizer)
  policy = model_policy.ModelPolicy(model.module, model.spec)
  sampler = sampler_lib.Sampler(policy, view, tables, play)
  host = HostDriven(model, view, text, tables.observations.max_begin)
  keys = jax.random.split(jax.random.key(0), batch_size)
  seats = jnp.arange(batch_size) % view.game.num_seats
  states = jax.jit(jax.vmap(view.init))(keys, seats)

  def jitted(states: view_lib.ViewState) -> Any:
    return sampler(policy.params, keys, states)

  timed = sampler_benchmark.timed
  first = timed(jitted, states), timed(host, states)
  # Taken in turn, so that a change in the machine's speed meets both.
  seconds = [
    (timed(jitted, states), timed(host, states)) for _ in range(repeats)
  ]
  ours, peer = map(statistics.median, zip(*seconds, strict=True))
  ratios = [host_driven / compiled for compiled, host_driven in seconds]
  games = jax.device_get(jitted(states))
  return {
    "game": name,
    "prefix_tokens": len(tables.prefix),
    "batch_size": batch_size,
    "turns_per_game": round(float(games.turn_mask.sum() / batch_size), 2),
    "first_result_seconds": round(first[0], 2),
    "peer_first_result_seconds": round(first[1], 2),
    "games_per_second": round(batch_size / ours, 1),
    "peer_games_per_second": round(batch_size / peer, 1),
    "ratio": round(statistics.median(ratios), 1),
    "ratio_range": [round(min(ratios), 1), round(max(ratios), 1)],
  }


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/games.py --games kuhn_poker connect_four"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--games", nargs="+", choices=GAMES, default=[*GAMES])
  parser.add_argument(
    "--batch-sizes", type=cli.positive, nargs="+", default=[16, 64, 256]
  )
  parser.add_argument(
    "--rules",
    type=int,
    default=0,
    help="how many times prompts begin with the rules; 0 is once, as one token",
  )
  parser.add_argument("--repeats", type=cli.positive, default=5)
  parser.add_argument(
    "--train-games",
    type=cli.positive,
    default=500,
    help="random games that a model learns the format from",
  )
  parser.add_argument("--train-steps", type=cli.positive, default=150)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  rows = []
  for name in flags.games:
    model = teach(name, flags.rules, flags.train_games, flags.train_steps)
    for batch_size in flags.batch_sizes:
      row = measure(name, flags.rules, model, batch_size, flags.repeats)
      rows.append(row)
      print("  ".join(f"{key} {value}" for key, value in row.items()))
  record.write(flags.output, {"rows": rows})


if __name__ == "__main__":
  cli.run(main)
