"""Plays games of a model on every line or by sampling, and writes them."""

from collections.abc import Callable, Iterator, Sequence
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
# (keys [B], initial states of B games) -> trajectories of B games.
Play = Callable[[jax.Array, env_lib.State], Trajectory]
# (mark of the model, game numbers [B]) -> opponent seeds [B], keys [B].
_Draw = Callable[[int, jax.Array], tuple[jax.Array, jax.Array]]

OPENINGS_TEMPERATURE = 1.0
NUM_OPENINGS = 1024


class Match(NamedTuple):
  """A model's games with one mark, on the host, and their results."""

  agent: int
  games: Trajectory
  result: rates_lib.Exact | rates_lib.Sampled


class Player:
  """A model that plays in an environment, compiled on the first call.

  Training replaces the model's parameters, `params`, as it updates them.
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
    self.params, self.env = policy.params, env
    play = play or config.play
    longest_prompt = tables.observations.max_begin
    memory.check_play(model.spec, play, longest_prompt)
    self._sample = sampler.Sampler(policy, env, tables, play)

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
  env = (
    environment(config.play)
    if opponent is None
    else env_lib.TicTacToe(opponent=opponent)
  )
  yield from sampled_matches(Player(model, config, env), config.play, seed)


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
  play: Play, batch_size: int, *, in_training: bool = False
) -> Iterator[Match]:
  """Yields a greedy player's games on every line, as X and as O.

  `play` must have a uniformly random opponent. In training, progress bars are
  removed at their end.
  """
  seeds = {
    agent: jnp.asarray(opponents.enumerate_opponent_seeds(agent))
    for agent in (rules.X, rules.O)
  }

  def draw(agent: int, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Repeated games fill the last batch.
    numbers = numbers % len(seeds[agent])
    # Greedy decoding ignores the keys, but `play` requires them.
    keys = streams.keys(0, streams.Stream.GREEDY, last=numbers)
    return seeds[agent][numbers], keys

  env, leave = env_lib.TicTacToe(), not in_training
  for agent, lines in seeds.items():
    games = _play(play, env, agent, len(lines), batch_size, draw, leave=leave)
    yield Match(agent, games, rates_lib.exact(games))


def sampled_matches(
  player: Player,
  config: config_lib.PlayConfig,
  seed: int,
  *,
  in_training: bool = False,
) -> Iterator[Match]:
  """Yields a player's sampled games, as X and as O.

  Games in training choose a checkpoint. They have random streams of their own,
  so that later games are an unbiased evaluation, and their progress bars are
  removed at their end.
  """
  names = streams.Stream
  opponent_stream, token_stream = names.MATCH_OPPONENTS, names.MATCH_TOKENS
  if in_training:
    opponent_stream = names.VALIDATION_OPPONENTS
    token_stream = names.VALIDATION_TOKENS

  def draw(agent: int, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = streams.keys(seed, opponent_stream, agent, last=numbers)
    opponent_seeds = jax.vmap(jax.random.bits)(keys)
    return opponent_seeds, streams.keys(seed, token_stream, agent, last=numbers)

  env, leave = player.env, not in_training
  total, size = config.num_games, config.batch_size
  for agent in (rules.X, rules.O):
    games = _play(player, env, agent, total, size, draw, leave=leave)
    yield Match(agent, games, rates_lib.sampled(games))


def _play(
  play: Play,
  env: env_lib.TicTacToe,
  agent: int,
  num_games: int,
  batch_size: int,
  draw: _Draw,
  *,
  leave: bool,
) -> Trajectory:
  name = text_formats.MARK_NAMES[agent]
  return play_batches(
    play, env, agent, num_games, batch_size, draw, name=name, leave=leave
  )


def play_batches(
  play: Callable[[jax.Array, Any], Trajectory],
  env: Any,
  agent: int,
  num_games: int,
  batch_size: int,
  draw: _Draw,
  *,
  name: str,
  leave: bool = True,
) -> Trajectory:
  """Plays games of one agent in batches; returns them on the host.

  Args:
    play: Function from keys and initial states to games.
    env: Environment; `init` takes a seed or key of a game and the agent.
    agent: Mark or seat of the agent.
    num_games: Number of games.
    batch_size: Number of games in a batch.
    draw: Function from the agent and the numbers of games to the seeds or keys
      of games and to the keys of tokens.
    name: Name of the agent's mark or seat for the progress bar.
    leave: Whether the progress bar stays at the end.
  """
  init, batches = jax.jit(jax.vmap(env.init, (0, None))), []
  stage = contextlib.nullcontext()
  if leave:
    stage = progress.stage(f"playing as {name}", has_bar=True)
  bar = progress.bar(
    total=num_games, desc=f"as {name}", unit="game", leave=leave
  )
  with bar, stage:
    for first in range(0, num_games, batch_size):
      opponent_seeds, keys = draw(agent, jnp.arange(first, first + batch_size))
      games = play(keys, init(opponent_seeds, agent))
      batches.append(jax.device_get(games))
      bar.update(min(batch_size, num_games - first))
  return jax.tree.map(lambda *rows: np.concatenate(rows)[:num_games], *batches)


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
  # One line for each move of X, in the order of the cells.
  lines = opponents.enumerate_opponent_seeds(rules.O)
  opponent_seeds = jnp.asarray(lines[:: len(lines) // rules.NUM_CELLS])

  def draw(agent: int, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    stream = streams.Stream.OPENING_TOKENS
    keys = streams.keys(seed, stream, agent, last=numbers)
    return opponent_seeds[numbers % rules.NUM_CELLS], keys

  size = min(play.batch_size, num_games)
  counts = np.zeros((rules.NUM_CELLS + 1, rules.NUM_CELLS + 1), int)
  with progress.stage("sampling openings"):
    for agent in (rules.X, rules.O):
      games = _play(player, env, agent, num_games, size, draw, leave=False)
      before, moves = games.states.last_move[:, 0], games.moves[:, 0]
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


class Evaluator:
  """Evaluates a model's current parameters during training; compiled once."""

  def __init__(self, model: checkpoints.Model, config: config_lib.GRPOConfig):
    """Compiles on the first call.

    Raises:
      errors.UserError: If the opponent does not exist, or the limits leave no
        room for an answer.
    """
    self._config = config
    is_exact = config.exhaustive_eval
    env = env_lib.TicTacToe() if is_exact else environment(config.play)
    self._player = Player(model, config, env)

  def __call__(self, params: Any) -> dict[str, float]:
    """Returns the rates for each mark and the `score`.

    The score is the win rate plus half the draw rate, averaged over both marks
    and, if every line is played, over a random and an optimal opponent.
    """
    player, play = self._player, self._config.play
    player.params = params
    if self._config.exhaustive_eval:
      matches = exact_matches(player, play.batch_size, in_training=True)
    else:
      seed = self._config.seed
      matches = sampled_matches(player, play, seed, in_training=True)
    metrics, scores = {}, []
    for match in matches:
      mark, result = text_formats.MARK_NAMES[match.agent], match.result
      if isinstance(result, rates_lib.Exact):
        metrics[f"{mark}/lines_lost"] = float(result.lines_lost)
      for opponent, rates in result.against(play.opponent).items():
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
  marks = text_formats.MARK_NAMES
  summary = game_files.Summary.model_validate(
    {
      "model": name,
      "revision": model.revision,
      "play": config_lib.to_dict(config)["play"],
      "results": {marks[match.agent]: match.result for match in matches},
      "openings": openings,
    }
  )
  text = files.to_json(summary.model_dump()) + "\n"
  files.write_text(output, "".join(files.to_json(row) + "\n" for row in rows))
  try:
    files.write_text(game_files.summary_path(output), text)
  except errors.UserError:
    # Games without a summary would block another attempt.
    output.unlink()
    raise


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
