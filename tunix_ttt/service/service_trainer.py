"""Trainers whose model is on a service."""

import pathlib
import re
import secrets
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import metrics_logger

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.hub import client
from tunix_ttt.runs import integrity
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.service import connection
from tunix_ttt.service import service_models
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.train import optimizers
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import resume_checks

_EPS = 1e-8


class Trainer:
  """The adapter on the service, with the checkpoints of a run.

  Attributes:
    weights: The adapter.
    first_step: Number of steps that were trained before.
  """

  def __init__(
    self,
    config: config_lib.SFTConfig,
    model: service_models.ServiceModel,
    run: pathlib.Path,
  ):
    """Takes up the latest checkpoint of the run, if any.

    Raises:
      errors.UserError: if the service refuses, or has another tokenizer.
    """
    assert config.service is not None and config.lora is not None
    self._config, self._run = config, run
    # Names must be new on the service.
    self._nonce = secrets.token_hex(3)
    self.first_step = max(run_directory.checkpoint_steps(run), default=0)
    self._base, state = model.base, None
    if self.first_step:
      state = service_models.State.read(
        self._directory(self.first_step) / service_models.STATE
      ).state
    with progress.stage("opening the model on the service"):
      self.connection = connection.Connection(config.service)
      self.weights = connection.Weights(
        self.connection,
        model.base,
        rank=config.lora.rank,
        seed=config.seed,
        start=model.start,
        state=state,
      )
      name, rank = self.weights.stated()
      if rank not in (None, config.lora.rank):
        raise errors.UserError(
          f"lora.rank: {config.lora.rank}, but the adapter on the service has"
          f" {rank}; set it to this"
        )
      _check_tokenizer(name, model)
    options = recorder_lib.options(config.logging, run, "service")
    self._logger = metrics_logger.MetricsLogger(options)

  def _directory(self, step: int) -> pathlib.Path:
    return self._run / run_directory.CHECKPOINTS / str(step)

  def _name(self, what: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "-", self._run.resolve().name)[:80]
    return f"{name}-{what}-{self._nonce}"

  def adam(self, rate: float) -> dict[str, float]:
    """Returns the optimizer's settings at a learning rate."""
    training = self._config.training
    return {
      "learning_rate": rate,
      "beta1": training.b1,
      "beta2": training.b2,
      "eps": _EPS,
      "weight_decay": training.weight_decay,
      "grad_clip_norm": training.max_grad_norm,
    }

  def save(self, step: int) -> None:
    """Saves weights and optimizer on the service, and their path in the run."""
    final = self._directory(step)
    files.remove(final)
    with files.new_directory(final) as new:
      self._write_state(new, str(step))
      integrity.write(new, run=resume_checks.written_until(self._run, step))
    keep = self._config.checkpoint.max_to_keep
    steps = run_directory.checkpoint_steps(self._run)
    for old in steps[:-keep] if keep else []:
      files.remove(self._directory(old))

  def _write_state(self, directory: pathlib.Path, name: str) -> None:
    state = service_models.State(
      state=self.weights.save(self._name(name)),
      service=self.connection.address,
      model=self._base,
    )
    text = state.model_dump_json(indent=2) + "\n"
    files.write_text(directory / service_models.STATE, text)

  def save_model(self, directory: pathlib.Path) -> None:
    """Downloads the adapter into a new directory, in PEFT's format."""
    name = f"{directory.name.strip('.').split('.')[0]}-{secrets.token_hex(2)}"
    with files.new_directory(directory) as new:
      self._write_state(new, name)
      self.weights.download(self._name(f"{name}-peft"), new)
      integrity.write(new)

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Logs metrics to TensorBoard and W&B."""
    logger: Any = self._logger
    for name, value in metrics.items():
      logger.log("service", name, value, "train", step)

  def close(self) -> None:
    """Closes the logger."""
    self._logger.close()


def _check_tokenizer(
  name: str | None, model: service_models.ServiceModel
) -> None:
  """Raises a UserError if the service's model has another tokenizer."""
  if name is None or name == model.base:
    return
  directory = client.find(name, None, weights=False).directory
  size = model.tokenizer.vocab_size
  stated = hub_tokenizers.HuggingFaceTokenizer.load(directory, size)
  if stated.files() != model.tokenizer.files():
    raise errors.UserError(
      f"model.name: the service's model has the tokenizer {name}, which is not the"
      f" one of {model.base}; name the model that the service has"
    )


class GRPOTrainer(Trainer):
  """A trainer of batches of games, as `trainer.GRPOTrainer` is."""

  _config: config_lib.GRPOConfig

  def __init__(
    self,
    config: config_lib.GRPOConfig,
    model: service_models.ServiceModel,
    run: pathlib.Path,
  ):
    """Takes up the latest checkpoint of the run, if any."""
    super().__init__(config, model, run)
    self._updates = self.first_step * config.grpo.num_iterations
    self._rate = optimizers.learning_rate(optimizers.in_updates(config))
    self._algorithm = grpo_loss.algorithm_config(config)

  def update(self, batch: grpo_loss.GameExample) -> dict[str, float]:
    """Makes `grpo.num_iterations` updates on a batch; returns mean metrics.

    Loss and metrics are computed here, of the service's log-probabilities. The
    entropy is the one that sampled tokens estimate.
    """
    rows: Any = jax.tree.map(np.asarray, batch)
    tokens = np.concatenate([rows.prompt_ids, rows.completion_ids], axis=1)
    trained = rows.completion_mask
    used = np.flatnonzero(trained.any(axis=1))
    if not len(used):
      # Nothing is trained, but the schedule goes on.
      self._updates += self._config.grpo.num_iterations
      names = "loss", "kl", "entropy", "pg_clipfrac", "log_ratio", "grad_norm"
      counts = self.connection.counts.metrics()
      return {**dict.fromkeys(names, 0.0), **counts}
    # Nothing after a row's last trained token matters.
    ends = [int(np.flatnonzero(trained[n])[-1]) + 1 for n in used]
    scale = rows.advantages * loss_weights(trained, self._algorithm)
    assert self._config.service is not None
    data = []
    for n, end in zip(used, ends, strict=True):
      factor = end * len(used) if self._config.service.averages else 1
      data.append(
        self.weights.datum(
          tokens[n, : end + 1].tolist(),
          logprobs=rows.old_per_token_logps[n, :end] * trained[n, :end],
          advantages=scale[n, :end] * trained[n, :end] * factor,
        )
      )
    clip = {
      "clip_low_threshold": 1 - self._algorithm.epsilon,
      "clip_high_threshold": 1 + self._algorithm.epsilon_high,
    }
    results = []
    for _ in range(self._config.grpo.num_iterations):
      adam = self.adam(float(np.asarray(self._rate(self._updates))))
      scores, norm = self.weights.train(data, "ppo", adam, clip)
      self._updates += 1
      log_probs = np.zeros(trained.shape, np.float32)
      for n, end, values in zip(used, ends, scores, strict=True):
        log_probs[n, :end] = values[:end]
      results.append(_metrics(log_probs * trained, rows, self._algorithm, norm))
    means = {
      name: float(np.mean([result[name] for result in results]))
      for name in results[0]
    }
    counts = self.connection.counts.metrics()
    return means | {"log_ratio": results[0]["log_ratio"], **counts}


def loss_weights(trained: np.ndarray, algorithm: Any) -> np.ndarray:
  """Returns the weight of each token's loss in the loss of a batch, [N, L]."""

  def average(values: jax.Array) -> jax.Array:
    return grpo_loss.average(values, jnp.asarray(trained), algorithm)

  return np.asarray(jax.grad(average)(jnp.zeros(trained.shape, jnp.float32)))


def _metrics(
  log_probs: np.ndarray, rows: Any, algorithm: Any, norm: float | None
) -> dict[str, float]:
  scores = token_log_probs.TokenLogProbs(
    log_probs=jnp.asarray(log_probs),
    entropy=-jnp.asarray(log_probs),
    is_first_choice=jnp.zeros(log_probs.shape, bool),
  )
  loss, metrics = grpo_loss.loss_of_rows(scores, rows, algorithm)
  names = {
    "kl": "kl",
    "entropy": "entropy",
    "pg_clipfrac": "pg_clipfrac",
    "log_ratio": "log_ratio/abs_mean",
  }
  result = {"loss": float(loss)}
  result |= {name: float(metrics[key]) for name, key in names.items()}
  return result if norm is None else {**result, "grad_norm": float(norm)}
