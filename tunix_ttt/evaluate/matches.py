"""Plays games of a model on every line or by sampling, and writes them."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import progress

Trajectory = trajectory_lib.Trajectory

OPENINGS_TEMPERATURE = 1.0
NUM_OPENINGS = 1024


class Match(NamedTuple):
  """A model's games with one mark.

  Attributes:
    agent: Mark of the model.
    games: Games, on the host.
    result: Results of the games.
  """

  agent: int
  games: Trajectory
  result: rates_lib.Exact | rates_lib.Sampled


class Player:
  """A model that plays in an environment, compiled on the first call.

  Attributes:
    params: Parameters of the model; may be replaced, as training updates them.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig,
    env: env_lib.TicTacToe,
    play: config_lib.PlayConfig | None = None,
  ):
    """Builds the sampler; `play` replaces the config's `play` section.

    Raises:
      errors.UserError: If the tokenizer cannot encode the answers, the limits
        leave no room for an answer, or the games do not fit in memory.
    """
    policy = policy_lib.ModelPolicy(model.module, model.spec)
    tables = sampler.make_tables(config, model.tokenizer)
    self.params = policy.params
    play = play or config.play
    longest_prompt = int(tables.observations.begin.lengths.max())
    memory.check_play(model.spec, play, longest_prompt)
    self._sample = sampler.make_sampler(policy, env, tables, play)

  def __call__(self, keys: jax.Array, states: env_lib.State) -> Trajectory:
    """Plays a game from each of B states with B keys; returns it on the host."""
    return meshes.fetch(self._sample(self.params, keys, states))


def play_all_lines(
  model: checkpoints.Model, config: config_lib.SFTConfig | config_lib.Settings
) -> Iterator[Match]:
  """Yields a greedy policy's games on every line, as X and as O.

  Raises:
    errors.UserError: If the config's temperature is not 0.
  """
  config = config_lib.load_any(config)
  if config.play.temperature != 0:
    raise errors.UserError(
      f"play.temperature: {config.play.temperature} is not greedy; set it to 0"
      " to play every line"
    )
  player = Player(model, config, env_lib.TicTacToe())
  yield from exact_matches(player, config.play.batch_size)


def play_games(
  model: checkpoints.Model,
  config: config_lib.SFTConfig | config_lib.Settings,
  seed: int | None = None,
  *,
  opponent: opponents.Opponent | None = None,
) -> Iterator[Match]:
  """Yields sampled games, as X and as O.

  The seed (the config's if None) and a game's number determine the game. The
  opponent defaults to `play.opponent`.

  Raises:
    errors.UserError: If `play.opponent` does not exist.
  """
  config = config_lib.load_any(config)
  seed = config.seed if seed is None else seed
  env = environment(config.play)
  if opponent is not None:
    env = env_lib.TicTacToe(opponent=opponent)
  yield from sampled_matches(Player(model, config, env), env, config.play, seed)


def environment(config: config_lib.PlayConfig) -> env_lib.TicTacToe:
  """Returns the environment with a config's opponent.

  Raises:
    errors.UserError: If the opponent does not exist.
  """
  try:
    opponent = opponents.from_name(config.opponent)
  except ValueError as error:
    raise errors.UserError(f"play.opponent: {error}") from None
  return env_lib.TicTacToe(opponent=opponent)


def exact_matches(
  play: rates_lib.Play, batch_size: int, *, leave: bool = True
) -> Iterator[Match]:
  """Yields a greedy player's games on every line, as X and as O.

  `play` must have a uniformly random opponent. If `leave`, full progress bars
  stay on the terminal.
  """
  for agent in (rules.X, rules.O):
    total = len(opponents.enumerate_opponent_seeds(agent))
    with _progress(play, agent, total, leave) as watched:
      games = rates_lib.play_every_line(watched, agent, batch_size)
    yield Match(agent, games, rates_lib.exact(games))


def sampled_matches(
  play: rates_lib.Play,
  env: env_lib.TicTacToe,
  config: config_lib.PlayConfig,
  seed: int,
  *,
  in_training: bool = False,
  leave: bool = True,
) -> Iterator[Match]:
  """Yields sampled games in the environment of `play`, as X and as O.

  Games `in_training` choose a checkpoint. They have random streams of their
  own, so that later games are an unbiased evaluation. If `leave`, full progress
  bars stay on the terminal.
  """
  init = jax.jit(jax.vmap(env.init))
  names = streams.Stream
  opponent_stream, token_stream = names.MATCH_OPPONENTS, names.MATCH_TOKENS
  if in_training:
    opponent_stream = names.VALIDATION_OPPONENTS
    token_stream = names.VALIDATION_TOKENS
  for agent in (rules.X, rules.O):
    batches, size = [], config.batch_size
    with _progress(play, agent, config.num_games, leave) as watched:
      for first in range(0, config.num_games, size):
        numbers = jnp.arange(first, first + size)
        marks = jnp.full(size, agent, jnp.int8)
        keys = streams.keys(seed, opponent_stream, agent, last=numbers)
        states = init(jax.vmap(jax.random.bits)(keys), marks)
        keys = streams.keys(seed, token_stream, agent, last=numbers)
        batches.append(jax.device_get(watched(keys, states)))
    games = jax.tree.map(
      lambda *rows: np.concatenate(rows)[: config.num_games], *batches
    )
    yield Match(agent, games, rates_lib.sampled(games))


@contextlib.contextmanager
def _progress(
  play: rates_lib.Play, agent: int, total: int, leave: bool
) -> Iterator[rates_lib.Play]:
  """Yields `play`, wrapped to advance a progress bar."""
  name = text_formats.MARK_NAMES[agent]

  def watched(keys: jax.Array, states: env_lib.State) -> Trajectory:
    games = jax.block_until_ready(play(keys, states))
    bar.update(min(len(keys), bar.total - bar.n))
    return games

  stage = contextlib.nullcontext()
  if leave:
    stage = progress.stage(f"playing as {name}", has_bar=True)
  bar = progress.bar(total=total, desc=f"as {name}", unit="game", leave=leave)
  with bar, stage:
    yield watched


def sample_openings(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  seed: int,
  num_games: int = NUM_OPENINGS,
) -> game_files.Openings:
  """Samples first moves at temperature 1, as X and as O after each move of X.

  Raises:
    errors.UserError: If the model cannot play with this config.
  """
  play = dataclasses.replace(
    config.play,
    max_turns=1,
    on_parse_error="end",
    temperature=OPENINGS_TEMPERATURE,
  )
  env = env_lib.TicTacToe()
  player = Player(model, config, env, play)
  size = min(play.batch_size, num_games)
  counts = np.zeros((rules.NUM_CELLS + 1, rules.NUM_CELLS + 1), int)
  init = jax.jit(jax.vmap(env.init))
  with progress.stage("sampling openings"):
    for agent in (rules.X, rules.O):
      for first in range(0, num_games, size):
        numbers = jnp.arange(first, first + size)
        keys = streams.keys(
          seed, streams.Stream.OPENING_TOKENS, agent, last=numbers
        )
        marks = jnp.full(size, agent, jnp.int8)
        games = player(keys, init(_opening_seeds(numbers), marks))
        kept = slice(num_games - first)
        before = np.asarray(games.last_moves)[kept, 0]
        moves = np.asarray(games.moves)[kept, 0]
        # -1, for no cell, indexes the last row and the last column.
        np.add.at(counts, (before, np.where(moves == before, -1, moves)), 1)
  return game_files.Openings(
    temperature=OPENINGS_TEMPERATURE,
    x=counts[-1].tolist(),
    o={
      text_formats.coordinate(cell): counts[cell].tolist()
      for cell in range(rules.NUM_CELLS)
    },
  )


def _opening_seeds(numbers: jax.Array) -> jax.Array:
  """Returns opponent seeds that open with the nine cells in turn."""
  openings = np.arange(rules.NUM_CELLS, dtype=np.uint64)
  middles = (2 * openings + 1) * 2**31 // rules.NUM_CELLS
  return jnp.asarray(middles.astype(np.uint32))[numbers % rules.NUM_CELLS]


class Evaluator:
  """Evaluates a model's current parameters during training; compiled once."""

  def __init__(self, model: checkpoints.Model, config: config_lib.GRPOConfig):
    """Takes the model in training and its config.

    Raises:
      errors.UserError: If the opponent does not exist, or the limits leave no
        room for an answer.
    """
    self._config = config
    self._env = env_lib.TicTacToe()
    if not config.exhaustive_eval:
      self._env = environment(config.play)
    self._player = Player(model, config, self._env)

  def __call__(self, params: Any) -> dict[str, float]:
    """Returns the rates for each mark and the `score`.

    The score is the win rate plus half the draw rate, averaged over both marks
    and, if every line is played, over a random and an optimal opponent.
    """
    self._player.params = params
    play, config = self._config.play, self._config
    if config.exhaustive_eval:
      matches = exact_matches(self._player, play.batch_size, leave=False)
    else:
      matches = sampled_matches(
        self._player,
        self._env,
        play,
        config.seed,
        in_training=True,
        leave=False,
      )
    metrics, scores = {}, []
    for match in matches:
      mark, result = text_formats.MARK_NAMES[match.agent], match.result
      if isinstance(result, rates_lib.Exact):
        against = {"random": result.random, "optimal": result.optimal}
        metrics[f"{mark}/lines_lost"] = float(result.lines_lost)
      else:
        against = {play.opponent: result.rates}
      for opponent, rates in against.items():
        metrics |= {f"{mark}/{opponent}/{k}": v for k, v in rates.items()}
        scores.append(rates["win_rate"] + rates["draw_rate"] / 2)
      metrics[f"{mark}/optimal_move_rate"] = result.optimal_move_rate
    return metrics | {"score": float(np.mean(scores))}


def write(
  output: pathlib.Path,
  matches: Sequence[Match],
  model: checkpoints.Model,
  name: str,
  config: config_lib.SFTConfig,
  openings: game_files.Openings | None = None,
) -> None:
  """Writes each distinct game as a line of JSON, and a summary beside it.

  Raises:
    errors.UserError: If one of the files exists.
  """
  game_files.check_absent(output)
  rows: list[dict[str, Any]] = []
  for match in matches:
    games = match.games
    if isinstance(match.result, rates_lib.Exact):
      distinct = rates_lib.distinct_games(games)
      games = jax.tree.map(lambda leaf, rows=distinct: leaf[rows], games)
    rows += trajectory_lib.describe(games, model.tokenizer.decode)
  summary = {
    "model": name,
    "revision": model.revision,
    "play": config_lib.to_dict(config)["play"],
    "results": results(matches),
    "openings": None if openings is None else dataclasses.asdict(openings),
  }
  files.write_text(output, "".join(files.to_json(row) + "\n" for row in rows))
  try:
    files.write_text(
      game_files.summary_path(output), files.to_json(summary) + "\n"
    )
  except errors.UserError:
    # Games without a summary would block another attempt.
    output.unlink()
    raise


def results(matches: Sequence[Match]) -> dict[str, Any]:
  """Returns the results by the model's mark, as plain data."""
  return {
    text_formats.MARK_NAMES[match.agent]: dataclasses.asdict(match.result)
    for match in matches
  }


def table(matches: Sequence[Match]) -> str:
  """Formats the results of games as lines of text."""
  lines = []
  for match in matches:
    name, result = text_formats.MARK_NAMES[match.agent], match.result
    if isinstance(result, rates_lib.Exact):
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
  """Formats the rates of wins, draws, losses and other endings that occurred."""
  always = ("win_rate", "draw_rate", "loss_rate")
  return ", ".join(
    f"{name.removesuffix('_rate').replace('_', ' ')} {rate:.2%}"
    for name, rate in rates.items()
    if rate or name in always
  )
