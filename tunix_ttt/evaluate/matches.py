"""Plays games of a model on every line or by sampling, and writes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import streams
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import policy_judge
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.evaluate import state_judge
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import progress

Trajectory = trajectory_lib.Trajectory
Model = model_player.Model

OPENINGS_TEMPERATURE = 1.0
NUM_OPENINGS = 1024
# Number of games in each seat that illustrate an exact result.
NUM_EXAMPLES = 16


class Match(NamedTuple):
  """A model's games in one seat, on the host, and its results.

  Attributes:
    game: The game.
    seat: Name of the seat.
    games: Games; all that there are, or examples.
    result: Results of these games, or of all that there are.
    answers: Games of one turn, one for each distinct observation, if the result
      is from these.
  """

  game: definition.Definition
  seat: str
  games: Trajectory
  result: rates_lib.Exact | rates_lib.Stochastic | rates_lib.Sampled
  answers: Trajectory | None = None


def play_all_lines(
  model: Model, config: config_lib.SFTConfig | config_lib.Settings
) -> Iterator[Match]:
  """Yields a policy's games and exact results, in each seat.

  A greedy policy plays every line of a game with `lines`. Other games, and
  policies with a temperature, are judged by the game's states, which needs the
  context `board`; the games are then examples against a random opponent.

  Raises:
    errors.UserError: If the game cannot be judged exactly.
  """
  config = config_lib.load_any(config)
  game, is_greedy = catalog.of(config), config.play.temperature == 0
  if game.lines is not None and is_greedy:
    play, player, size = player_of_lines(model, config)
    yield from exact_matches(play, game, size, decode=player.decode)
    return
  # The judge needs no games; these show how the model plays.
  play = dataclasses.replace(
    config.play, opponent="random", num_games=NUM_EXAMPLES
  )
  player = model_player.of(model, dataclasses.replace(config, play=play))
  examples = sampled_matches(player, play, config.seed)
  if not is_greedy:
    judge = policy_judge.PolicyJudge(model, config)
    for match, (_, result) in zip(examples, judge(), strict=True):
      yield match._replace(result=result)
    return
  judge = state_judge.StateJudge(model, config)
  for match, (_, result, answers) in zip(examples, judge(), strict=True):
    yield match._replace(result=result, answers=answers)


def can_play_all_lines(config: config_lib.SFTConfig) -> bool:
  """Returns whether `play_all_lines` can judge the config's game and context."""
  game = catalog.of(config)
  by_states = game.is_enumerable and config.play.context == "board"
  return by_states or game.lines is not None


def play_games(
  model: Model,
  config: config_lib.SFTConfig | config_lib.Settings,
  seed: int | None = None,
  *,
  opponent: Any = None,
) -> Iterator[Match]:
  """Yields sampled games, in each seat.

  The seed (the config's if None) and a game's number determine the game. The
  opponent, a player of the game, defaults to `play.opponent`.

  Raises:
    errors.UserError: If `play.opponent` does not exist.
  """
  config = config_lib.load_any(config)
  seed = config.seed if seed is None else seed
  env = catalog.of(config).environment(opponent) if opponent else None
  yield from sampled_matches(
    model_player.of(model, config, env), config.play, seed
  )


def exact_matches(
  play: model_player.Play,
  game: definition.Definition,
  batch_size: int | None,
  *,
  decode: trajectory_lib.Decode | None = None,
  in_training: bool = False,
) -> Iterator[Match]:
  """Yields a greedy player's games on every line, in each seat.

  `play` must have a uniformly random opponent; it gets batches of `batch_size`
  lines, or all at once if None. `decode` turns token ids into text, to judge
  thoughts. In training, progress bars are removed at their end.
  """
  assert game.lines is not None
  for seat, name in enumerate(game.seats):
    starts = game.lines.starts(seat)
    total = len(jax.tree.leaves(starts)[0])

    def draw(
      numbers: jax.Array, starts: Any = starts, total: int = total
    ) -> tuple[jax.Array, Any]:
      # Repeated games fill the last batch.
      numbers = numbers % total
      # Greedy decoding ignores the keys, but `play` requires them.
      keys = streams.keys(0, streams.Stream.GREEDY, last=numbers)
      return keys, jax.tree.map(lambda leaf: leaf[numbers], starts)

    leave = not in_training
    games = model_player.play_batches(
      play, draw, total, batch_size or total, name=name, leave=leave
    )
    result = rates_lib.exact_of_lines(game, games, decode)
    yield Match(game, name, games, result)


def player_of_lines(
  model: Model, config: config_lib.SFTConfig
) -> tuple[
  model_player.Play,
  model_player.Player | model_player.RemotePlayer,
  int | None,
]:
  """Returns a greedy player of games, with the model and `batch_size` of lines."""
  play, game = config.play, catalog.of(config)
  size: int | None = play.batch_size
  if not isinstance(model, checkpoints.Model):
    # It asks for all answers at once.
    size = None
  elif play.context == "board" and play.on_parse_error == "end":
    by_turns, answers = turn_player.of_model(model, config)
    return by_turns, answers.player, None
  player = model_player.of(model, config, game.environment())
  return player, player, size


def sampled_matches(
  player: model_player.GamePlayer,
  config: config_lib.PlayConfig,
  seed: int,
  *,
  in_training: bool = False,
) -> Iterator[Match]:
  """Yields a player's sampled games, in each seat.

  Games in training choose a checkpoint. They have random streams of their own,
  so that later games are an unbiased evaluation, and their progress bars are
  removed at their end.
  """
  names = streams.Stream
  game_stream, token_stream = names.MATCH_OPPONENTS, names.MATCH_TOKENS
  if in_training:
    game_stream = names.VALIDATION_OPPONENTS
    token_stream = names.VALIDATION_TOKENS
  game = player.game
  for seat, name in enumerate(game.seats):

    def draw(numbers: jax.Array, seat: int = seat) -> tuple[jax.Array, Any]:
      # Seats are counted from 1 in streams.
      game_keys = streams.keys(seed, game_stream, seat + 1, last=numbers)
      keys = streams.keys(seed, token_stream, seat + 1, last=numbers)
      return keys, player.begin(game_keys, jnp.full(len(numbers), seat))

    games = model_player.play_batches(
      player,
      draw,
      config.num_games,
      config.batch_size,
      name=name,
      leave=not in_training,
    )
    result = rates_lib.sampled(game, games, player.decode)
    yield Match(game, name, games, result)


def sample_openings(
  model: Model,
  config: config_lib.SFTConfig,
  seed: int,
  num_games: int = NUM_OPENINGS,
) -> dict[str, Any] | None:
  """Samples first moves at temperature 1 in each seat; None if not pictured.

  Raises:
    errors.UserError: If the model cannot play with this config.
  """
  game = catalog.of(config)
  lines = game.lines
  if lines is None:
    return None
  play = dataclasses.replace(
    config.play,
    max_turns=1,
    on_parse_error="end",
    temperature=OPENINGS_TEMPERATURE,
  )
  player = model_player.of(model, config, game.environment(), play)
  size, every = min(play.batch_size, num_games), []
  with progress.stage("sampling openings"):
    for seat, name in enumerate(game.seats):

      def draw(numbers: jax.Array, seat: int = seat) -> tuple[jax.Array, Any]:
        stream = streams.Stream.OPENING_TOKENS
        keys = streams.keys(seed, stream, seat + 1, last=numbers)
        return keys, lines.opening_states(seat, numbers)

      every.append(
        model_player.play_batches(
          player, draw, num_games, size, name=name, leave=False
        )
      )
  counts = lines.count_openings(every)
  return {"temperature": OPENINGS_TEMPERATURE, **counts}


def write(
  output: pathlib.Path,
  matches: Sequence[Match],
  model: Model,
  name: str,
  config: config_lib.SFTConfig,
  openings: dict[str, Any] | None = None,
) -> None:
  """Writes the games of a model; see `write_games`."""
  write_games(
    output,
    matches,
    model.tokenizer.decode,
    {
      "model": name,
      "revision": model.revision,
      "play": config_lib.to_dict(config)["play"],
      "openings": openings,
    },
  )


def write_games(
  output: pathlib.Path,
  matches: Sequence[Match],
  decode: Callable[[list[int]], str],
  fields: Mapping[str, Any],
) -> None:
  """Writes each distinct game as a line of JSON, and a summary beside it.

  Args:
    output: Path of the games.
    matches: Games in each seat.
    decode: Function from token ids to text.
    fields: Fields of `game_files.Summary` besides the results.

  Raises:
    errors.UserError: If one of the files exists.
  """
  game_files.check_absent(output)
  rows = [row for match in matches for row in describe(match, decode)]
  summary = game_files.Summary.model_validate(
    {
      **fields,
      "results": {match.seat: match.result for match in matches},
      "policy": {
        match.seat: _policy(match.game, match.answers, decode)
        for match in matches
        if match.answers is not None
      },
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


def describe(
  match: Match, decode: Callable[[list[int]], str]
) -> Iterator[dict[str, Any]]:
  """Yields each distinct game as a human-readable record.

  `decode` turns token ids into text.
  """
  games, lines = match.games, match.game.lines
  if isinstance(match.result, rates_lib.Exact) and lines is not None:
    distinct = lines.distinct(games)
    games = jax.tree.map(lambda leaf: leaf[distinct], games)
  yield from trajectory_lib.describe(match.game, games, decode)


def _policy(
  game: definition.Definition,
  answers: Trajectory,
  decode: Callable[[list[int]], str],
) -> list[tuple[str, str, str | None]]:
  """Returns each observation with the model's response and move."""
  return [
    (turn["observation"], turn["response"], turn["move"])
    for record in trajectory_lib.describe(game, answers, decode)
    for turn in record["turns"]
  ]


def table(matches: Sequence[Match]) -> str:
  """Formats the results of games as lines of text."""
  lines = []
  for match in matches:
    name, result = match.seat, match.result
    if isinstance(result, rates_lib.Exact):
      lines += [
        f"as {name}: {result.lines} lines, {result.lines_lost} lost; at worst"
        f" {result.worst}",
        *(
          f"  against {opponent:<8} {_percent(rates)}"
          for opponent, rates in result.against("").items()
        ),
      ]
    elif isinstance(result, rates_lib.Stochastic):
      way = "computed"
      if result.num_answers:
        way = f"from {result.num_answers} answers an observation"
      lines.append(f"as {name}: at temperature {result.temperature:g}, {way}")
      for opponent, rates in result.against("").items():
        line = f"  against {opponent:<8} {_percent(rates)}"
        if opponent in result.intervals:
          low, high = result.intervals[opponent]["win_rate"]
          line += f", wins within {low:.1%} to {high:.1%}"
        lines.append(line)
    else:
      low, high = result.intervals["win_rate"]
      lines += [
        f"as {name}: {result.games} games",
        f"  {_percent(result.rates)}, wins within {low:.1%} to {high:.1%}",
      ]
    if result.optimal_move_rate is not None:
      lines.append(f"  optimal moves    {result.optimal_move_rate:.2%}")
    if result.thought_true_rate is not None:
      lines.append(f"  true thoughts    {result.thought_true_rate:.2%}")
    if result.thought_no_claim_rate:
      lines.append(f"  without a claim  {result.thought_no_claim_rate:.2%}")
  return "\n".join(lines)


def _percent(rates: dict[str, float]) -> str:
  """Formats the rates of wins, draws, losses and other endings that occurred."""
  always = ("win_rate", "draw_rate", "loss_rate")
  return ", ".join(
    f"{name.removesuffix('_rate').replace('_', ' ')} {rate:.2%}"
    for name, rate in rates.items()
    if rate or name in always
  )
