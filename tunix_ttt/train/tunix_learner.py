"""Adapts Tunix's `GRPOLearner` to whole games.

It is an example for users of `GRPOLearner` and `RLCluster`, with the rollout,
rewards and advantages of this library. Runs of `train.grpo` do not use it.
"""

import itertools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
from tunix.rl import rl_cluster as rl_cluster_lib
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import advantages as advantages_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.train import game_batches
from tunix_ttt.train import game_rollout
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import optimizers

_ROLES = rl_cluster_lib.Role


class _Engine(base_rollout.BaseRollout):
  """A rollout engine that only provides token ids."""

  def __init__(self, rollout_actor: Any, tokenizer: Any, **_: Any):
    self._actor, self._tokenizer = rollout_actor, tokenizer

  def generate(self, *_: Any, **__: Any) -> Any:
    """Is not supported: batches have games and their log-probabilities."""
    raise NotImplementedError("games are played by `GameRollout`")

  get_per_token_logps = generate

  def update_params(self, params: Any, filter_types: Any = None) -> None:
    """Does nothing, because the sampler shares the actor's arrays."""

  def pad_id(self) -> int:
    """Returns the tokenizer's pad token."""
    return self._tokenizer.pad_id()

  def eos_id(self) -> int:
    """Returns the tokenizer's end token."""
    return self._tokenizer.eos_id()

  def model(self) -> Any:
    """Returns the model that is trained."""
    return self._actor


class GameLearner(grpo_learner.GRPOLearner):
  """Tunix's learner on batches of games from `GameRollout`."""

  def __init__(self, model: checkpoints.Model, config: config_lib.GRPOConfig):
    """Makes a cluster of one device, for models without adapters."""
    if (
      config.episodes.has_mistakes
      or config.opponents.has_past_weights
      or config.stop_at_no_loss
    ):
      raise errors.UserError(
        "Tunix's learner has no mistakes, past weights or stop at no loss; remove"
        " these settings"
      )
    groups = config.training.batch_size // config.grpo.num_generations
    mesh = meshes.make(config.mesh) or Mesh(np.empty((), dtype=object), ())
    cluster = rl_cluster_lib.RLCluster(
      actor=model.module,
      tokenizer=model.tokenizer,
      cluster_config=rl_cluster_lib.ClusterConfig(
        role_to_mesh=dict.fromkeys((_ROLES.ACTOR, _ROLES.ROLLOUT), mesh),
        rollout_engine=_Engine,
        training_config=rl_cluster_lib.RLTrainingConfig(
          actor_optimizer=optimizers.make(optimizers.in_updates(config)),
          eval_every_n_steps=config.training.max_steps + 1,
          max_steps=config.training.max_steps * config.grpo.num_iterations,
          mini_batch_size=groups,
          rollout_micro_batch_size=groups,
          compute_logps_micro_batch_size=groups,
        ),
        rollout_config=base_rollout.RolloutConfig(
          max_tokens_to_generate=config.play.max_new_tokens,
          temperature=config.rollout.temperature,
        ),
      ),
    )
    algorithm = grpo_loss.algorithm_config(config)
    super().__init__(cluster, algorithm, reward_fns=[_no_text_reward])
    self._config = config
    self._pool = opponent_pool.OpponentPool(config, pathlib.Path())
    self._rollout = game_rollout.GameRollout(model, config, self._pool)
    self._step = 0

  def fit(self) -> None:
    """Trains to `training.max_steps`."""
    training = self._config.training
    groups = training.batch_size // self._config.grpo.num_generations
    prompts: Any = {"prompts": np.arange(groups)}
    self.train(itertools.repeat(prompts, training.max_steps))

  def _generate_and_compute_advantage(
    self, training_input: Any, mode: Any = rl_cluster_lib.Mode.TRAIN
  ) -> grpo_loss.GameExample:
    """Plays the games of the next step; the prompts are ignored."""
    config = self._config
    games, sequences = self._rollout.play(self._step)
    self._step += 1
    game = catalog.of(config)
    rewards = rewards_lib.components(
      game, games, config.rewards, config.play.max_new_tokens
    )
    advantages, is_trained = advantages_lib.advantages(
      rewards_lib.total(games, rewards),
      np.asarray(games.turn_mask),
      game.position_numbers(games.states),
      game.seat_numbers(games.states),
      config.grpo,
    )
    is_trained = advantages_lib.without_worse(
      is_trained, advantages, games.tried
    )
    batch, _ = game_batches.make(sequences, advantages, is_trained, config)
    # Tunix counts games.
    size = config.training.batch_size
    return jax.tree.map(
      lambda leaf: leaf.reshape(size, -1, leaf.shape[-1]), batch
    )


def _no_text_reward(prompts: Any, completions: Any, **_: Any) -> Any:
  """Satisfies Tunix's requirement of a reward function; it is never called."""
  raise NotImplementedError("rewards are functions of games")
