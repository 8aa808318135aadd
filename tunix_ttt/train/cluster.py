"""Tunix's `RLCluster` with this library's rollout engine."""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
import numpy as np
from tunix.rl import rl_cluster as rl_cluster_lib
from tunix.rl.rollout import base_rollout
from tunix.sft import checkpoint_manager
from tunix.sft import metrics_logger

from tunix_ttt import config as config_lib
from tunix_ttt.data import positions
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.train import game_rollout as games_lib
from tunix_ttt.train import learner as learner_lib
from tunix_ttt.train import optimizers
from tunix_ttt.train import run_checkpoints

_ROLES = rl_cluster_lib.Role


class GameCluster(rl_cluster_lib.RLCluster):
  """An `RLCluster` that keeps no second copy of the model.

  There is no reference model; see `scorers.of_reference`.
  """

  def _init_cluster(self) -> None:
    super()._init_cluster()
    # The parent builds a trainer of its own kind and leaves no other way in.
    self._actor_trainer.__class__ = learner_lib.RecordingTrainer
    # A copy of the model, for algorithms that compare with an earlier state.
    self._anchor_policy_state = None

  def sync_weights(self) -> None:
    """Moves what is trained, and no more, to the sampler, if it has its own."""
    trainer: Any = self.actor_trainer
    if self.rollout.model() is trainer.model:
      return
    kind = nnx.LoRAParam if trainer._lora_enabled else nnx.Param
    self.rollout.update_params(nnx.state(trainer.model, kind))


def make(
  model: checkpoints.Model,
  config: config_lib.GRPOConfig,
  metrics: metrics_logger.MetricsLoggerOptions | None,
  prompts: Sequence[positions.Shown] = (),
) -> GameCluster:
  """Returns a cluster whose actor is the model, on the devices it is on.

  Args:
    model: what to train.
    config: the settings.
    metrics: where Tunix's own metrics go.
    prompts: positions to ask for moves on, where the config has them.
  """
  training, algorithm = config.training, config.grpo
  groups = training.batch_size // algorithm.num_generations
  parts = training.gradient_accumulation_steps
  # A mesh of one device would have Tunix compile its step twice.
  mesh = meshes.make(config.mesh) or Mesh(np.empty((), dtype=object), ())
  sampler_mesh = meshes.make_for_sampler(config.mesh) or mesh
  engine: Any = functools.partial(
    games_lib.GameRollout, model=model, config=config, prompts=prompts
  )
  return GameCluster(
    actor=model.module,
    tokenizer=model.tokenizer,
    cluster_config=rl_cluster_lib.ClusterConfig(
      role_to_mesh={
        _ROLES.ACTOR: mesh,
        _ROLES.REFERENCE: mesh,
        _ROLES.ROLLOUT: sampler_mesh,
      },
      rollout_engine=engine,
      training_config=rl_cluster_lib.RLTrainingConfig(
        actor_optimizer=optimizers.make(optimizers.in_updates(config)),
        eval_every_n_steps=training.max_steps + 1,
        max_steps=training.max_steps * algorithm.num_iterations,
        mini_batch_size=groups,
        # Given a size, Tunix accumulates gradients even over a single part.
        train_micro_batch_size=groups // parts if parts > 1 else None,
        rollout_micro_batch_size=groups,
        compute_logps_micro_batch_size=groups,
        metrics_logging_options=metrics,
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=config.play.max_new_tokens,
        temperature=config.rollout.temperature,
      ),
    ),
  )


def restore(
  cluster: GameCluster,
  manager: checkpoint_manager.CheckpointManager,
  config: config_lib.GRPOConfig,
) -> int:
  """Puts the latest checkpoint into a cluster; returns its step, 0 for none."""
  trainer: Any = cluster.actor_trainer
  step, _ = manager.maybe_restore(
    trainer.model,
    trainer.optimizer,
    restore_only_lora_params=trainer._lora_enabled,
  )
  trainer._train_steps = step * config.grpo.num_iterations
  trainer._iter_steps = (
    trainer._train_steps * config.training.gradient_accumulation_steps
  )
  cluster.sync_weights()
  # Tunix's progress bar would count optimizer steps beside the run's own.
  trainer.config.max_steps = None
  return step


def save(
  cluster: GameCluster,
  manager: checkpoint_manager.CheckpointManager,
  step: int,
) -> None:
  """Saves what was trained, and the optimizer, at the end of a step."""
  trainer: Any = cluster.actor_trainer
  jax.block_until_ready(jax.tree.leaves(trainer.optimizer))
  manager.save(
    step,
    trainer.model,
    trainer.optimizer,
    save_only_lora_params=trainer._lora_enabled,
    force=True,
  )


def checkpoints_of(
  directory: Any, config: config_lib.CheckpointConfig
) -> checkpoint_manager.CheckpointManager:
  """Returns Tunix's checkpoint manager for a directory."""
  return checkpoint_manager.CheckpointManager(
    str(directory), run_checkpoints.options(config)
  )
