"""A model as a player of whole games, in batches."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.runs import progress
from tunix_ttt.text import tokenizers

Trajectory = trajectory_lib.Trajectory
# (keys [B], initial states of B games) -> trajectories of B games.
Play = Callable[[jax.Array, Any], Trajectory]


class GamePlayer(Protocol):
  """A player of whole games; see `Player`."""

  game: definition.Definition

  @property
  def decode(self) -> Callable[[list[int]], str]:
    """Function from the token ids of an answer to its text."""
    ...

  def begin(self, keys: jax.Array, seats: jax.Array) -> Any:
    """Returns the first states of B games."""
    ...

  def __call__(self, keys: jax.Array, states: Any) -> Trajectory:
    """Plays a game from each of B states; returns them on the host."""
    ...


class RemoteModel(Protocol):
  """A model that is computed elsewhere; see `service_games.ServedModel`."""

  @property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Its tokenizer."""
    ...

  @property
  def revision(self) -> str:
    """Digest of the weights; "" if these are not here."""
    ...

  def player(
    self,
    config: config_lib.SFTConfig,
    env: Any = None,
    play: config_lib.PlayConfig | None = None,
  ) -> "RemotePlayer":
    """Returns the model as a player, by the arguments of `Player`."""
    ...

  def answers(
    self,
    prompts: Sequence[list[int]],
    settings: config_lib.EvalConfig,
    seed: int,
  ) -> Iterator[str]:
    """Yields an answer to each prompt."""
    ...


class RemotePlayer(GamePlayer, Protocol):
  """A `GamePlayer` whose parameters are elsewhere."""

  params: Any


# A model here or elsewhere.
Model = checkpoints.Model | RemoteModel


def of(
  model: Model,
  config: config_lib.SFTConfig,
  env: Any = None,
  play: config_lib.PlayConfig | None = None,
) -> "Player | RemotePlayer":
  """Returns a model as a player of games; see `Player`."""
  if isinstance(model, checkpoints.Model):
    return Player(model, config, env, play)
  return model.player(config, env, play)


class Player:
  """A model that plays in an environment, compiled on the first call.

  Training replaces the model's parameters, `params`, as it updates them;
  `decode` turns token ids into text.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig,
    env: Any = None,
    play: config_lib.PlayConfig | None = None,
  ):
    """Builds the sampler.

    Args:
      model: Model that plays.
      config: Settings.
      env: Environment of the config's game; None for one with the opponent
        `play.opponent`.
      play: Settings that replace the config's `play`.

    Raises:
      errors.UserError: If the tokenizer cannot encode the answers, the limits
        leave no room for an answer, or the games do not fit in memory.
    """
    self.game = catalog.of(config)
    self.env = environment(config) if env is None else env
    policy = policy_lib.ModelPolicy(model.module, model.spec)
    tables = sampler.make_tables(config, model.tokenizer)
    self.params = policy.params
    self.decode = model.tokenizer.decode
    play = play or config.play
    longest_prompt = tables.observations.max_begin
    memory.check_play(model.spec, play, longest_prompt)
    self._sample = sampler.Sampler(policy, self.env, tables, play)
    begin, env = self.game.begin, self.env
    self._begin = jax.jit(jax.vmap(lambda key, seat: begin(env, key, seat)))

  def begin(self, keys: jax.Array, seats: jax.Array) -> Any:
    """Returns the first states of B games, given keys [B] and seats int [B]."""
    return self._begin(keys, seats)

  def __call__(self, keys: jax.Array, states: Any) -> Trajectory:
    """Plays a game from each of B states with B keys; returns it on the host."""
    return meshes.fetch(self._sample(self.params, keys, states))


def environment(config: config_lib.SFTConfig) -> Any:
  """Returns the environment of a config's game with its opponent.

  Raises:
    errors.UserError: If the opponent does not exist.
  """
  game = catalog.of(config)
  return game.environment(game.player(config.play.opponent, "play.opponent"))


def play_batches(
  play: Play,
  draw: Callable[[jax.Array], tuple[jax.Array, Any]],
  num_games: int,
  batch_size: int,
  *,
  name: str,
  leave: bool = True,
) -> Trajectory:
  """Plays games in one seat in batches; returns them on the host.

  Args:
    play: Function from keys and initial states to games.
    draw: Function from the numbers of games, int [B], to the keys of their tokens
      and their initial states.
    num_games: Number of games.
    batch_size: Number of games in a batch, of which the last is filled up. Others than
      compiled players get no more games than `num_games`.
    name: Name of the seat for the progress bar.
    leave: Whether the progress bar stays at the end.
  """
  if not isinstance(play, Player):
    batch_size = min(batch_size, num_games)
  batches, stage = [], contextlib.nullcontext()
  if leave:
    stage = progress.stage(f"playing as {name}", has_bar=True)
  bar = progress.bar(
    total=num_games, desc=f"as {name}", unit="game", leave=leave
  )
  with bar, stage:
    for first in range(0, num_games, batch_size):
      games = play(*draw(jnp.arange(first, first + batch_size)))
      batches.append(jax.device_get(games))
      bar.update(min(batch_size, num_games - first))
  return jax.tree.map(lambda *rows: np.concatenate(rows)[:num_games], *batches)
