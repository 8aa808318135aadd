"""Tunix's `GRPOLearner` on whole games."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import time
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from tunix.rl import function_registry
from tunix.rl import rl_cluster as rl_cluster_lib
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import grpo_learner

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.models import meshes
from tunix_ttt.rollout import sequences as sequences_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.train import game_rollout as games_lib
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import trainer as trainer_lib

# Lengths of sequences are rounded up to this, so that few are compiled.
_MULTIPLE = 16
# Fewer rows than this are not worth a compilation.
_MIN_ROWS = 64

# Of Tunix's loss metrics, those that are logged, by the names they get.
_LOSS_METRICS = {
  "kl": "kl",
  "entropy": "entropy",
  "pg_clipfrac": "pg_clipfrac",
  "log_ratio/abs_mean": "log_ratio",
}


@dataclasses.dataclass(kw_only=True)
class AlgorithmConfig(grpo_learner.GRPOConfig):
  """Tunix's `GRPOConfig` with the fields that losses look for besides.

  Attributes:
    policy_loss_fn: see Tunix's.
    epsilon_high: see `config.AlgorithmConfig`.
    epsilon_c: see `config.AlgorithmConfig`.
    max_sequence_tokens: the most tokens that are sampled in a sequence, by
      which `sequence-mean-token-scale` divides.
  """

  policy_loss_fn: str = grpo_loss.NAME
  epsilon_high: float = 0.2
  epsilon_c: float | None = None
  max_sequence_tokens: int


class RecordingTrainer(trainer_lib.LeanSteps, rl_trainer.Trainer):
  """Tunix's trainer of the cluster, its metrics and checkpoints left to others.

  Attributes:
    results: Results of each step since they were last taken.
  """

  results: list[dict[str, Any]]

  def _prepare_inputs(self, input_data: Any) -> Any:
    inputs = super()._prepare_inputs(input_data)
    return meshes.feed(inputs, self.mesh)

  def _buffer_metrics(
    self,
    metrics_buffer: Any,
    loss: Any,
    step: int,
    additional_metrics: Any = None,
  ) -> Any:
    grad_norm = additional_metrics["grad_norm"][0]
    self.results.append({"loss": loss, "grad_norm": grad_norm})
    return super()._buffer_metrics(
      metrics_buffer, loss, step, additional_metrics
    )

  def _post_process_train_step(self, aux: Any) -> None:
    row = {name: aux[key] for key, name in _LOSS_METRICS.items()}
    self.results[-1].update(row)

  def _write_train_metrics(self) -> None:
    self._buffered_train_metrics = None

  def _save_last_checkpoint(self) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Step:
  """A batch of games, trained on.

  Attributes:
    number: from 1.
    games: what was played, on the host.
    metrics: by name.
  """

  number: int
  games: trajectory_lib.Trajectory
  metrics: dict[str, float]


class GameLearner(grpo_learner.GRPOLearner):
  """A `GRPOLearner` whose generation step plays whole games.

  Prompts are numbers of groups. The sampler's log-probabilities are the old
  ones of the loss, so that several iterations on a batch clip as they should.
  """

  def __init__(
    self,
    cluster: rl_cluster_lib.RLCluster,
    config: config_lib.GRPOConfig,
    reference: reference_log_probs.Scorer | None,
    given: Mapping[str, rewards_lib.Given] = MappingProxyType({}),
  ):
    """Takes a cluster whose rollout engine is a `GameRollout`.

    Args:
      cluster: with the model as its actor.
      config: the settings.
      reference: Scores games by the reference of the KL divergence; None
        without one.
      given: rewards that were given in Python.
    """
    algorithm = config.grpo
    high = algorithm.epsilon_high
    super().__init__(
      cluster,
      AlgorithmConfig(
        num_generations=algorithm.num_generations,
        num_iterations=algorithm.num_iterations,
        loss_algo=algorithm.loss_algo,
        advantage_estimator=algorithm.advantage_estimator,
        loss_agg_mode=algorithm.loss_agg_mode,
        beta=algorithm.beta,
        kl_loss_mode=algorithm.kl_loss_mode,
        epsilon=algorithm.epsilon,
        epsilon_high=algorithm.epsilon if high is None else high,
        epsilon_c=algorithm.epsilon_c,
        max_sequence_tokens=config.max_sequence_tokens,
      ),
      reward_fns=[_rewards_of_texts],
    )
    self._config, self._given = config, given
    engine = cluster.rollout
    assert isinstance(engine, games_lib.GameRollout)
    self._engine = engine
    trainer = cluster.actor_trainer
    assert isinstance(trainer, RecordingTrainer)
    self._trainer = trainer
    trainer.results = []
    # Data begins where the checkpoint ended; there is nothing to skip.
    self._iter_steps = self._last_iter_step = trainer.iter_steps
    self._sequences = jax.jit(
      lambda games, tables: sequences_lib.sequences(
        games, tables, config.play.context
      )
    )
    self._reference = reference
    self._corrected: reference_log_probs.Scorer | None = None
    if config.mesh.layout == "split" or config.rollout.max_staleness:
      self._corrected = reference_log_probs.of_policy(trainer.model, config)
    # Done below, since nobody sees a step before the sampler has its weights.
    self.should_sync_weights = False
    # What is ahead is known here; Tunix's queues hold no more than a batch.
    self.can_enable_async_rollout = False
    self._begun: dict[int, tuple[trajectory_lib.Trajectory, Any]] = {}
    self._on_step: Callable[[Step], None] = lambda step: None
    self._played: tuple[trajectory_lib.Trajectory, dict[str, float]]

  @property
  def step(self) -> int:
    """Number of batches of games trained on so far."""
    return self._trainer.train_steps // self._config.grpo.num_iterations

  def fit(self, on_step: Callable[[Step], None]) -> None:
    """Trains to `training.max_steps`, from where the checkpoint was.

    Args:
      on_step: called after each batch of games.
    """
    self._on_step = on_step
    if self.step < self._config.training.max_steps:
      # The trainer's steps are compiled already.
      self.train(self._groups(), skip_jit=True)
    else:
      self.rl_cluster.close()

  def _groups(self) -> Iterator[Any]:
    config = self._config
    count = config.training.batch_size // config.grpo.num_generations
    for step in range(self.step, config.training.max_steps):
      yield {"prompts": np.arange(step * count, (step + 1) * count)}

  def _begin(self, step: int) -> tuple[trajectory_lib.Trajectory, Any]:
    """Has the sampler's devices play a step's games; does not wait for them."""
    size = self._config.training.batch_size
    games = np.arange(step * size, (step + 1) * size)
    played = self._engine.play(games // self._config.grpo.num_generations, step)
    return played, self._sequences(played, self._engine.tables)

  def _play(self, step: int) -> tuple[Any, Any]:
    """Returns a step's games and sequences, on the host.

    Games that need not wait for the step's update are begun besides.
    """
    config = self._config
    last = min(
      step + config.rollout.max_staleness, config.training.max_steps - 1
    )
    for number in range(step, last + 1):
      if number not in self._begun and self._weights_of(number) <= step:
        self._begun[number] = self._begin(number)
    return meshes.fetch(self._begun.pop(step))

  def _weights_of(self, step: int) -> int:
    """Returns after how many steps the weights are that play a step's games."""
    every = self._config.checkpoint.save_interval_steps
    oldest = step - self._config.rollout.max_staleness
    # A run that goes on from a checkpoint has no older ones.
    return max(oldest, step - step % every)

  def _generate_and_compute_advantage(
    self, training_input: Any, mode: Any = rl_cluster_lib.Mode.TRAIN
  ) -> grpo_loss.GameExample:
    del training_input, mode
    config, started = self._config, time.perf_counter()
    games, batch = self._play(self.step)
    seconds = time.perf_counter() - started
    parts = rewards_lib.components(
      games, config.rewards, config.play.max_new_tokens, self._given
    )
    total = sum(parts.values(), np.zeros(games.turn_mask.shape, np.float32))
    advantages, counts = self._advantages(total, games.turn_mask, games.boards)
    groups = counts.any(axis=1).reshape(-1, config.grpo.num_generations)
    example, corrections = self._example(batch, advantages, counts)
    self._played = (
      games,
      _summary(games, parts, total)
      | corrections
      | {
        "dropped_groups": float((~groups.any(axis=1)).sum()),
        "seconds_sampling": seconds,
      },
    )
    return example

  def _advantages(
    self, rewards: np.ndarray, played: np.ndarray, boards: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each turn is weighted with and whether it is trained.

    Turns are left out of the loss where all that they are compared with earned
    the same.

    Args:
      rewards: float32 [B, T].
      played: bool [B, T].
      boards: int32 [B, T].

    Returns:
      float32 [B, T] and bool [B, T].
    """
    config = self._config.grpo
    size, estimator = config.num_generations, config.advantage_estimator
    if config.advantage_level == "turn":
      worth = rewards_lib.returns(rewards, config.discount)
      found, counts = rewards_lib.turn_advantages(
        worth, played, boards, size, estimator, config.turn_baseline
      )
    else:
      worth = rewards.sum(axis=1, keepdims=True)
      estimate = function_registry.get_advantage_estimator(estimator)
      games = np.asarray(estimate(worth[:, 0], size))[:, None]
      found = np.where(played, games, 0).astype(np.float32)
      counts = rewards_lib.with_signal(worth, size) & played
    return np.maximum(found, 0) if config.positive_only else found, counts

  def _example(
    self, batch: Any, advantages: np.ndarray, counts: np.ndarray
  ) -> tuple[grpo_loss.GameExample, dict[str, float]]:
    """Puts games together as a trainer reads them.

    Args:
      batch: their sequences.
      advantages: float32 [B, T].
      counts: bool [B, T], which turns are trained.

    Returns:
      The trainer's input, and metrics of how the sampler's weights differ from
      the trainer's, where they do.
    """
    game = np.repeat(np.arange(len(counts)), len(batch.tokens) // len(counts))
    of_token = np.take_along_axis(advantages[game], batch.turns, axis=1)
    counted = np.take_along_axis(counts[game], batch.turns, axis=1)
    trained = batch.action_mask & counted
    rows = _pack(
      {
        "tokens": batch.tokens,
        "mask": batch.mask,
        "trained": trained,
        "advantages": np.where(trained, of_token, 0),
        "log_probs": batch.log_probs,
      },
      len(counts),
      self._config.training.gradient_accumulation_steps,
      meshes.sizes(self._config.mesh)[meshes.FSDP],
    )
    reference = None
    if self._reference is not None:
      reference = self._reference(rows["tokens"], rows["mask"])[..., 1:]
    old, weights, metrics = rows["log_probs"], None, {}
    if self._corrected is not None:
      sampled, old = old, self._corrected(rows["tokens"], rows["mask"])
      threshold = self._config.grpo.sampler_is_threshold
      weights, metrics = reference_log_probs.importance_weights(
        old, sampled, rows["trained"], threshold
      )
      weights = weights[..., 1:]
    parts = self._config.training.gradient_accumulation_steps
    mode = self._config.grpo.loss_agg_mode
    # Its fields are its parent's too, which type checkers do not see.
    make: Any = grpo_loss.GameExample
    example = make(
      prompt_ids=rows["tokens"][..., :1],
      prompt_mask=rows["mask"][..., :1],
      completion_ids=rows["tokens"][..., 1:],
      completion_mask=rows["trained"][..., 1:],
      advantages=rows["advantages"][..., 1:],
      ref_per_token_logps=reference,
      old_per_token_logps=old[..., 1:],
      sampler_is_weights=weights,
      mask=rows["mask"],
      weight=micro_batch_weights(rows["trained"], parts, mode),
      token_weight=micro_batch_weights(rows["trained"], parts, "token-mean"),
    )
    return example, metrics

  def _run_global_step(self, *arguments: Any, **settings: Any) -> None:
    started = time.perf_counter()
    super()._run_global_step(*arguments, **settings)
    games, metrics = self._played
    results = meshes.fetch(self._trainer.results)
    self._trainer.results = []
    means = {
      name: float(np.mean([result[name] for result in results]))
      for name in results[0]
    }
    # The model before its first update agrees with the sampler; how closely
    # says whether both compute the same.
    parts = self._config.training.gradient_accumulation_steps
    first = [result["log_ratio"] for result in results[:parts]]
    means["log_ratio"] = float(np.mean(first))
    seconds = time.perf_counter() - started - metrics["seconds_sampling"]
    metrics = {**means, **metrics, "seconds_training": seconds}
    self.rl_cluster.sync_weights()
    self._on_step(Step(self.step, games, metrics))


def micro_batch_weights(
  trained: np.ndarray, parts: int, loss_agg_mode: str
) -> np.ndarray:
  """Returns each micro-batch's part of what is averaged over: float32 [B].

  Tunix averages the losses of micro-batches, which are averages themselves;
  with these weights the result is the average over the batch.

  Args:
    trained: bool [B, R, L].
    parts: micro-batches of a batch; divides B.
    loss_agg_mode: Tunix's.
  """
  counts = trained.sum(axis=-1)
  if loss_agg_mode != "token-mean":
    counts = counts > 0
  sums = counts.reshape(parts, -1).sum(axis=1)
  weights = sums * parts / max(sums.sum(), 1)
  return np.repeat(weights, len(trained) // parts).astype(np.float32)


def _rewards_of_texts(prompts: Any, completions: Any, **kwargs: Any) -> Any:
  """Tunix asks for such a function; rewards are of trajectories here."""
  raise NotImplementedError


def _pack(
  rows: dict[str, np.ndarray], num_games: int, parts: int, divisor: int = 1
) -> dict[str, np.ndarray]:
  """Leaves out rows and columns in which nothing is trained.

  Args:
    rows: [N, L] each; `trained` and `mask` say which tokens matter.
    num_games: Number of games in the batch.
    parts: micro-batches of the batch.
    divisor: A number that must divide the number of rows.

  Returns:
    [B, R, L'] each, of few different shapes, since each is compiled. B is the
    number of games, by which Tunix cuts micro-batches; a batch that is not cut
    may be smaller.
  """
  used = np.flatnonzero(rows["trained"].any(axis=1))
  size, per_game = num_games, 1
  while size * per_game < len(used):
    per_game *= 2
  least = max(len(used), _MIN_ROWS)
  while parts == 1 and size % (2 * divisor) == 0 and size // 2 >= least:
    size //= 2
  longest = rows["mask"][used].sum(axis=1).max(initial=1)
  length = min(-(-longest // _MULTIPLE) * _MULTIPLE, rows["mask"].shape[1])

  def pack(values: np.ndarray) -> np.ndarray:
    packed = np.zeros((size * per_game, length), values.dtype)
    packed[: len(used)] = values[used, :length]
    return packed.reshape(size, per_game, length)

  return {name: pack(values) for name, values in rows.items()}


def _summary(
  games: trajectory_lib.Trajectory,
  parts: dict[str, np.ndarray],
  total: np.ndarray,
) -> dict[str, float]:
  """Returns what there is to know of a batch of games."""
  played = np.asarray(games.turn_mask)
  tokens = np.asarray(games.action_mask).sum(axis=2)
  is_optimal = rewards_lib.regret(games) == 0
  cut = {}
  if games.sampled_mass is not None:
    mass = np.asarray(games.sampled_mass)[np.asarray(games.action_mask)]
    cut["sampled_mass"] = float(mass.mean())
  return {
    "reward": float(total.sum(axis=1).mean()),
    "reward_std": float(total.sum(axis=1).std()),
    **{
      f"reward/{name}": float(values.sum(axis=1).mean())
      for name, values in parts.items()
    },
    **{
      name: float((np.asarray(games.ending) == ending).mean())
      for name, ending in trajectory_lib.RATES.items()
    },
    "optimal_move_rate": float(is_optimal[played].mean()),
    "turns": float(played.sum(axis=1).mean()),
    "tokens_per_turn": float(tokens[played].mean()),
    "tokens": float(tokens.sum()),
    **cut,
  }
