"""Games of a saved model: played, judged and written down."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as play_lib
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.rollout import build
from tunix_ttt.rollout import trajectory
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import progress

Trajectory = trajectory_lib.Trajectory


class Match(NamedTuple):
  """A model's games with one mark.

  Attributes:
    agent: the mark.
    games: on the host.
    result: what they are worth.
  """

  agent: int
  games: Trajectory
  result: play_lib.Exact | play_lib.Sampled


class Player:
  """A model that plays in an environment, compiled on its first call.

  Attributes:
    params: its values; those of the same model after more training will do.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig,
    env: env_lib.TicTacToe,
    play: config_lib.PlayConfig | None = None,
  ):
    """Takes a model and the settings of its play.

    Args:
      model: who plays.
      config: the settings.
      env: in which it plays.
      play: in place of the config's.

    Raises:
      errors.UserError: if the model's tokenizer cannot spell the answers, or
        the limits leave no room for one, or games need far more memory than
        there is.
    """
    policy = policy_lib.ModelPolicy(model.module, model.spec)
    tables = build.make_tables(config, model.tokenizer)
    self.params = policy.params
    play = play or config.play
    shown = int(tables.observations.begin.lengths.max())
    memory.check_play(model.spec, play, shown)
    self._sample = build.make_sampler(policy, env, tables, play)

  def __call__(self, keys: jax.Array, states: env_lib.State) -> Trajectory:
    """Returns games played to their end, on the host.

    See `rollout.sampler.Sampler`.
    """
    return meshes.fetch(self._sample(self.params, keys, states))


def play_all_lines(
  model: checkpoints.Model, config: config_lib.SFTConfig
) -> Iterator[Match]:
  """Yields a greedy model's games on every line, as X and as O.

  Raises:
    errors.UserError: if the config's temperature is not 0.
  """
  if config.play.temperature != 0:
    raise errors.UserError(
      f"play.temperature: {config.play.temperature} is not greedy; playing"
      " every line says everything about a policy only at temperature 0"
    )
  player = Player(model, config, env_lib.TicTacToe())
  yield from exact_matches(player, config.play.batch_size)


def exact_matches(
  play: play_lib.Play, batch_size: int, *, leave: bool = True
) -> Iterator[Match]:
  """Yields a greedy player's games on every line, as X and as O.

  Args:
    play: who plays, against a random opponent.
    batch_size: games at a time.
    leave: whether the progress bars stay when they are full.
  """
  for agent in (rules.X, rules.O):
    total = len(opponents.enumerate_opponent_seeds(agent))
    with _bar(agent, total, leave) as bar, _stage(agent, leave):
      games = play_lib.play_every_line(_watched(play, bar), agent, batch_size)
    yield Match(agent, games, play_lib.exact(games))


def environment(config: config_lib.PlayConfig) -> env_lib.TicTacToe:
  """Returns the environment with a config's opponent.

  Raises:
    errors.UserError: if there is no such opponent.
  """
  try:
    opponent = opponents.from_name(config.opponent)
  except ValueError as error:
    raise errors.UserError(f"play.opponent: {error}") from None
  return env_lib.TicTacToe(opponent=opponent)


def play_games(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  seed: int | None = None,
  *,
  opponent: opponents.Opponent | None = None,
) -> Iterator[Match]:
  """Yields sampled games, as X and as O.

  Args:
    model: who plays.
    config: the settings.
    seed: Random seed of games and sampling; None for the config's. A game
      depends on the seed and its number.
    opponent: against whom; None for `play.opponent`.

  Raises:
    errors.UserError: if there is no such opponent.
  """
  seed = config.seed if seed is None else seed
  env = environment(config.play)
  if opponent is not None:
    env = env_lib.TicTacToe(opponent=opponent)
  yield from sampled_matches(Player(model, config, env), env, config.play, seed)


def sampled_matches(
  play: play_lib.Play,
  env: env_lib.TicTacToe,
  config: config_lib.PlayConfig,
  seed: int,
  *,
  in_training: bool = False,
  leave: bool = True,
) -> Iterator[Match]:
  """Yields sampled games, as X and as O.

  Args:
    play: who plays.
    env: against whom, the player's own.
    config: how many games, and how many of them at a time.
    seed: see `play_games`.
    in_training: Whether the games choose a checkpoint. They differ from those
      that a trained model is judged on, whose results they leave unbiased.
    leave: whether the progress bars stay when they are full.
  """
  init = jax.jit(jax.vmap(env.init))
  names = streams.Stream
  opponent_stream, token_stream = names.MATCH_OPPONENTS, names.MATCH_TOKENS
  if in_training:
    opponent_stream = names.VALIDATION_OPPONENTS
    token_stream = names.VALIDATION_TOKENS
  for agent in (rules.X, rules.O):
    batches, size = [], config.batch_size
    with _bar(agent, config.num_games, leave) as bar, _stage(agent, leave):
      for first in range(0, config.num_games, size):
        numbers = jnp.arange(first, first + size)
        marks = jnp.full(size, agent, jnp.int8)
        keys = streams.keys(seed, opponent_stream, agent, last=numbers)
        states = init(jax.vmap(jax.random.bits)(keys), marks)
        keys = streams.keys(seed, token_stream, agent, last=numbers)
        played = _watched(play, bar)(keys, states)
        batches.append(jax.device_get(played))
    games = jax.tree.map(
      lambda *rows: np.concatenate(rows)[: config.num_games], *batches
    )
    yield Match(agent, games, play_lib.sampled(games))


def write(
  output: pathlib.Path,
  played: Sequence[Match],
  model: checkpoints.Model,
  name: str,
  config: config_lib.SFTConfig,
  openings: game_files.Openings | None = None,
) -> None:
  """Writes every different game as a line of JSON, and their summary.

  Args:
    output: where the games go.
    played: the games.
    model: who played.
    name: what it is called in the summary.
    config: the settings of play.
    openings: its first moves, where they were sampled.

  Raises:
    errors.UserError: if one of the files exists.
  """
  game_files.check_absent(output)
  rows: list[dict[str, Any]] = []
  for match in played:
    games = match.games
    if isinstance(match.result, play_lib.Exact):
      once = play_lib.games_once(games)
      games = jax.tree.map(lambda leaf, rows=once: leaf[rows], games)
    rows += trajectory.describe(games, model.tokenizer.decode)
  found = {
    "model": name,
    "revision": model.revision,
    "play": config_lib.to_dict(config)["play"],
    "results": results(played),
    "openings": None if openings is None else dataclasses.asdict(openings),
  }
  files.write_text(output, "".join(files.to_json(row) + "\n" for row in rows))
  try:
    files.write_text(
      game_files.summary_path(output), files.to_json(found) + "\n"
    )
  except errors.UserError:
    # Games without their summary would stand in the way of another attempt.
    output.unlink()
    raise


def results(played: Sequence[Match]) -> dict[str, Any]:
  """Returns what games are worth by the model's mark, as plain data."""
  return {
    prompts.MARK_NAMES[match.agent]: dataclasses.asdict(match.result)
    for match in played
  }


def table(matches: list[Match]) -> str:
  """Returns the results as lines of text."""
  lines = []
  for match in matches:
    name, result = prompts.MARK_NAMES[match.agent], match.result
    if isinstance(result, play_lib.Exact):
      lines += [
        f"as {name}: {result.lines} lines, {result.lines_lost} lost; at worst"
        f" {result.worst}",
        f"  against random   {_percent(result.random)}",
        f"  against optimal  {_percent(result.optimal)}",
      ]
    else:
      low, high = result.intervals["win_rate"]
      lines += [
        f"as {name}: {result.games} games",
        f"  {_percent(result.rates)}, wins within {low:.1%} to {high:.1%}",
      ]
    lines.append(f"  optimal moves    {result.optimal_move_rate:.2%}")
  return "\n".join(lines)


def _percent(rates: dict[str, float]) -> str:
  """Names wins, draws and losses, and whatever else happened."""
  always = ("win_rate", "draw_rate", "loss_rate")
  return ", ".join(
    f"{name.removesuffix('_rate').replace('_', ' ')} {rate:.2%}"
    for name, rate in rates.items()
    if rate or name in always
  )


def _bar(agent: int, total: int, leave: bool) -> tqdm.tqdm:
  name = prompts.MARK_NAMES[agent]
  return progress.bar(total=total, desc=f"as {name}", unit="game", leave=leave)


def _stage(agent: int, leave: bool) -> contextlib.AbstractContextManager[None]:
  """Returns what says so without a terminal, where nothing else does."""
  if not leave:
    return contextlib.nullcontext()
  return progress.stage(f"playing as {prompts.MARK_NAMES[agent]}", has_bar=True)


def _watched(play: play_lib.Play, bar: tqdm.tqdm) -> play_lib.Play:
  """Returns `play`, telling a progress bar how many games are done."""

  def watched(keys: jax.Array, states: env_lib.State) -> Trajectory:
    games = jax.block_until_ready(play(keys, states))
    bar.update(min(len(keys), bar.total - bar.n))
    return games

  return watched


TEMPERATURE = 1.0
NUM_GAMES = 1024


def sample(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  seed: int,
  num_games: int = NUM_GAMES,
) -> game_files.Openings:
  """Asks a model for first moves, as X and as O after each move of X.

  Args:
    model: who is asked.
    config: the settings of its play, but for the temperature, which is 1.
    seed: Random seed for sampling.
    num_games: how often it is asked as X, and as O.

  Raises:
    errors.UserError: see `matches.Player`.
  """
  play = dataclasses.replace(
    config.play, max_turns=1, on_parse_error="end", temperature=TEMPERATURE
  )
  env = env_lib.TicTacToe()
  player = Player(model, config, env, play)
  size = min(play.batch_size, num_games)
  counts = np.zeros((rules.NUM_CELLS + 1, rules.NUM_CELLS + 1), int)
  init = jax.jit(jax.vmap(env.init))
  with progress.stage("asking for openings"):
    for agent in (rules.X, rules.O):
      for first in range(0, num_games, size):
        numbers = jnp.arange(first, first + size)
        keys = streams.keys(
          seed, streams.Stream.OPENING_TOKENS, agent, last=numbers
        )
        marks = jnp.full(size, agent, jnp.int8)
        games = player(keys, init(_opponent_seeds(numbers), marks))
        kept = slice(num_games - first)
        before = np.asarray(games.last_moves)[kept, 0]
        moves = np.asarray(games.moves)[kept, 0]
        # -1, for no cell, is the last row and the last column.
        np.add.at(counts, (before, np.where(moves == before, -1, moves)), 1)
  return game_files.Openings(
    temperature=TEMPERATURE,
    x=counts[-1].tolist(),
    o={
      prompts.coordinate(cell): counts[cell].tolist()
      for cell in range(rules.NUM_CELLS)
    },
  )


def _opponent_seeds(numbers: jax.Array) -> jax.Array:
  """Returns opponent seeds; nine in a row open with the nine cells."""
  openings = np.arange(rules.NUM_CELLS, dtype=np.uint64)
  middles = (2 * openings + 1) * 2**31 // rules.NUM_CELLS
  return jnp.asarray(middles.astype(np.uint32))[numbers % rules.NUM_CELLS]
