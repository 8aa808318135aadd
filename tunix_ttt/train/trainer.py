"""Tunix's trainers, with exact metrics and resuming."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import pathlib
import time
from typing import Any, ClassVar, NoReturn

from flax import nnx
import jax
from jax.sharding import Mesh
import numpy as np
import orbax.checkpoint as ocp
from tunix.sft import metrics_logger
from tunix.sft import peft_trainer
from tunix.sft import sharding_utils
from tunix.sft.dpo import dpo_trainer

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.algorithms import losses
from tunix_ttt.models import meshes
from tunix_ttt.models.families import remat
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import run_directory
from tunix_ttt.train import optimizers
from tunix_ttt.train import products
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import resume_checks
from tunix_ttt.train import row_checks


class LeanSteps(peft_trainer.PeftTrainer):
  """A `PeftTrainer` whose compiled steps return only the trained parameters.

  The parent's step takes and returns the whole model, which doubles the memory
  for weights and replaces shared arrays of frozen weights. Train with
  `skip_jit=True`, because these steps are compiled already.
  """

  def __init__(self, *arguments: Any):
    with meshes.in_restore():
      super().__init__(*arguments)

  @functools.cached_property
  def mesh(self) -> Mesh | None:
    """The mesh of the model; None for a single device."""
    return meshes.of(self.model)

  def clear_jit_cache(self) -> None:
    """Discards the compiled steps."""
    super().clear_jit_cache()
    self.__dict__.pop("_steps", None)

  def create_train_step_fn(self) -> Callable[..., Any]:
    """Returns the step that updates the model and the optimizer in place."""
    return self._steps[0]

  def create_eval_step_fn(self) -> Callable[..., Any]:
    """Returns the step that only computes the loss."""
    return self._steps[1]

  def lower_train_step(self, inputs: Any) -> jax.stages.Lowered:
    """Lowers the train step, without running it."""
    return self._steps[2](inputs)

  @functools.cached_property
  def _steps(self) -> tuple[Callable[..., Any], ...]:
    trained = nnx.LoRAParam if self._lora_enabled else nnx.Param
    if not self._lora_enabled:
      products.use(self.model)
    # The first step's arguments must be committed to devices like its results,
    # or the second step is compiled again.
    meshes.place(self.optimizer, self.mesh)
    for node in (self.model, self.optimizer):
      committed = jax.tree.map(
        lambda value: jax.device_put(value, value.sharding), nnx.state(node)
      )
      nnx.update(node, committed)
    # These states hold the variables themselves: to split and update the modules
    # in each step would take a fifth of a small model's step.
    graph, values, frozen = nnx.split(self.model, trained, ...)
    optimizer_graph, moments = nnx.split(self.optimizer)
    shardings = tuple(
      jax.tree.map(lambda value: value.sharding, state)
      for state in (values, moments)
    )

    # Closures, because the graph of a model with adapters is not hashable.
    def update(values: Any, moments: Any, frozen: Any, inputs: Any) -> Any:
      model = nnx.merge(graph, values, frozen)
      optimizer = nnx.merge(optimizer_graph, moments)
      result = self._train_step(model, optimizer, inputs)
      return nnx.state(model, trained), nnx.state(optimizer), result

    def evaluate(values: Any, frozen: Any, inputs: Any) -> Any:
      return self._eval_step(nnx.merge(graph, values, frozen), inputs)

    # Each array keeps its sharding.
    jitted_update = jax.jit(
      update,
      donate_argnums=1,
      out_shardings=(*shardings, None),
      compiler_options=remat.compiler_options(self.model),
    )
    jitted_evaluate = jax.jit(evaluate)

    variables = [*map(_variables, (values, moments))]

    def train_step(inputs: Any) -> Any:
      *states, result = jitted_update(values, moments, frozen, inputs)
      for current, state in zip(variables, states, strict=True):
        for variable, after in zip(current, _variables(state), strict=True):
          variable.set_raw_value(after.get_raw_value())
      return result

    def eval_step(inputs: Any) -> Any:
      return jitted_evaluate(values, frozen, inputs)

    def lower(inputs: Any) -> jax.stages.Lowered:
      return jitted_update.lower(values, moments, frozen, inputs)

    return train_step, eval_step, lower


def _variables(state: Any) -> list[nnx.Variable]:
  return jax.tree.leaves(
    state, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )


class RecordedTrainer(LeanSteps):
  """A `PeftTrainer` that records every step.

  It differs from its parent in these ways:

  - Metrics are written before the checkpoint of their step, so a killed run
    resumes with a complete `metrics.jsonl`. The parent delays the metrics of a
    step to the next step.
  - Held-out rows are evaluated at fixed steps and after the last step, with or
    without an interruption.
  - The logged learning rate is the rate of the step itself.

  Attributes:
    names: Console names of the loss metrics, see `recorder.Recorder`.
  """

  names: ClassVar[Mapping[str, str]]

  def __init__(self, config: config_lib.SFTConfig, *parent_arguments: Any):
    super().__init__(*parent_arguments)
    steps, schedule = config.training.max_steps, optimizers.learning_rate
    rates = jax.vmap(schedule(config.training))(np.arange(steps))
    self._learning_rates = np.asarray(rates).tolist()
    self._max_steps = config.training.max_steps
    self._save_interval = config.checkpoint.save_interval_steps
    self._evaluated: set[int] = set()
    self._eval_batches: list[Any] = []
    self._recorder: recorder_lib.Recorder | None = None
    self._stop = interrupts.Stop()
    self._checks: row_checks.RowChecks | None = None
    self._seconds_checks = 0.0
    self._batch_tokens = 0

  def fit(
    self,
    train_batches: Iterable[Any],
    eval_batches: list[Any],
    recorder: recorder_lib.Recorder,
    stop: interrupts.Stop,
    checks: row_checks.RowChecks | None = None,
  ) -> None:
    """Trains from the latest checkpoint to the end of `train_batches`.

    `train_batches` has the micro-batches of the whole run; restored steps are
    skipped. `checks` warns of mistakes in batches and metrics.

    Raises:
      interrupts.Interrupted: if `stop` is set, after saving a checkpoint of the
        current step.
    """
    self._recorder, self._stop, self._checks = recorder, stop, checks
    self._eval_batches = eval_batches
    try:
      self.train(train_batches, eval_batches, skip_jit=True)
    except BaseException:
      if self.metrics_logger is not None:
        self.metrics_logger.close()
      raise

  def _prepare_inputs(self, *inputs: Any, **named: Any) -> Any:
    # The name of the argument depends on the parent.
    (batch,) = [*inputs, *named.values()]
    if self._checks is not None and self._mode == metrics_logger.Mode.TRAIN:
      started = time.perf_counter()
      self._checks.batch(self._train_steps + 1, batch)
      self._seconds_checks = time.perf_counter() - started
    self._batch_tokens = int(batch["input_mask"].sum())
    return meshes.feed(batch, self.mesh)

  def _is_eval_step(self, step: int) -> bool:
    every = self.config.eval_every_n_steps
    return step % every == 0 or step == self._max_steps

  def _post_process_train_step(self, aux: Any) -> None:
    self._add_metrics(self._buffered_train_metrics, aux)

  def _post_process_eval_step(self, aux: Any) -> None:
    self._add_metrics(self._buffered_eval_metrics, aux)

  def _add_metrics(self, buffer: Any, aux: Any) -> None:
    metrics = buffer.additional_metrics
    for name, value, reduce in (
      *((name, aux[name], np.mean) for name in self.names),
      ("tokens", self._batch_tokens, np.sum),
      # Time of the step, because its metrics may be written later.
      ("clock", time.perf_counter(), np.max),
      *self._cost_of_checks(),
    ):
      metrics.setdefault(name, ([], reduce))[0].append(value)

  def _cost_of_checks(self) -> Iterator[tuple[str, float, Callable[..., Any]]]:
    if self._checks is not None and self._mode == metrics_logger.Mode.TRAIN:
      yield "seconds_checks", self._seconds_checks, np.sum

  def _write_train_metrics(self) -> None:
    super()._write_train_metrics()
    step, is_asked = self._train_steps, self._stop.is_asked()
    is_saved = step % self._save_interval == 0
    if is_asked or is_saved or self._is_eval_step(step):
      # The second call writes the metrics that the first call delayed.
      super()._write_train_metrics()
    if is_asked:
      self._stop_run()

  def _stop_run(self) -> NoReturn:
    self._save_last_checkpoint()
    self.checkpoint_manager.close()
    raise self._stop.interrupted(self._train_steps)

  def _log_metrics(
    self,
    loss: Any,
    step: int | None = None,
    additional_metrics: Any = None,
  ) -> None:
    assert step is not None and self._recorder is not None
    metrics = {k: float(v) for k, v in (additional_metrics or {}).items()}
    if self._mode == metrics_logger.Mode.TRAIN:
      metrics["learning_rate"] = self._learning_rates[step - 1]
      self._recorder.train(step, float(loss), metrics)
      if self._checks is not None:
        self._checks.metrics(step, metrics)
    else:
      self._recorder.eval(step, float(loss), metrics)
    del metrics["clock"]
    super()._log_metrics(loss, step, {**metrics})

  def _run_eval(self, eval_ds: Any, eval_step_fn: Any) -> None:
    step = self._train_steps
    if self._is_eval_step(step) and step not in self._evaluated:
      self._evaluated.add(step)
      super()._run_eval(eval_ds, eval_step_fn)
      # An evaluation may take longer than many steps.
      if self._stop.has_begun and self._stop.is_asked():
        self._stop_run()

  def close(self) -> None:
    """Runs the last evaluation, saves the last checkpoint and closes."""
    self._write_train_metrics()
    if self._eval_batches:
      self._run_eval(self._eval_batches, self.create_eval_step_fn())
    super().close()


class SFTTrainer(RecordedTrainer):
  """A trainer for supervised fine-tuning."""

  names: ClassVar[Mapping[str, str]] = {"token_accuracy": "accuracy"}

  def __init__(
    self,
    model: nnx.Module,
    config: config_lib.SFTConfig,
    run: pathlib.Path,
    prefix: Sequence[int] = (),
  ):
    """Restores the latest checkpoint of the run directory, if any.

    All rows begin with the tokens of `prefix`, which are not supervised.
    """
    super().__init__(
      config,
      model,
      optimizers.make(config.training),
      peft_trainer.TrainingConfig(**training_settings(config, run, "sft")),
    )
    self.with_gen_model_input_fn(lambda batch: {"batch": batch})
    self.with_loss_fn(
      lambda model, batch: losses.supervised_loss(
        model, **losses.model_inputs(batch), prefix=prefix
      ),
      has_aux=True,
    )


class DPOTrainer(RecordedTrainer, dpo_trainer.DPOTrainer):
  """Tunix's `DPOTrainer`, without a reference model or the logits of all tokens.

  Batches contain the log-probabilities of the reference, which are computed
  before training.
  """

  names: ClassVar[Mapping[str, str]] = {
    "rewards/accuracy": "accuracy",
    "rewards/margin": "margin",
    "rewards/chosen": "",
    "rewards/rejected": "",
    "log_probs/chosen": "",
    "log_probs/rejected": "",
  }

  def __init__(
    self, model: nnx.Module, config: config_lib.DPOConfig, run: pathlib.Path
  ):
    """Restores the latest checkpoint of the run directory, if any."""
    algorithm = config.dpo
    super().__init__(
      config,
      model,
      None,
      optimizers.make(config.training),
      dpo_trainer.DPOTrainingConfig(
        algorithm=algorithm.algorithm,
        beta=algorithm.beta,
        lambda_orpo=algorithm.lambda_orpo,
        label_smoothing=algorithm.label_smoothing,
        **training_settings(config, run, "dpo"),
      ),
    )
    self.with_loss_fn(losses.preference_loss, has_aux=True)


# Names in `metrics.jsonl` of the logged metrics of Tunix's loss.
_GRPO_METRICS = {
  "kl": "kl",
  "entropy": "entropy",
  "pg_clipfrac": "pg_clipfrac",
  "log_ratio/abs_mean": "log_ratio",
}


class GRPOTrainer(LeanSteps):
  """A `PeftTrainer` for batches of games, called by the loop of `train.grpo`.

  Each step of a run makes `grpo.num_iterations` updates on a batch of games.
  """

  def __init__(
    self,
    model: nnx.Module,
    config: config_lib.GRPOConfig,
    run: pathlib.Path,
    prefix: Sequence[int] = (),
  ):
    """Restores the latest checkpoint of the run directory, if any.

    All rows begin with the tokens of `prefix`.
    """
    settings = training_settings(config, run, "grpo")
    settings["checkpointing_options"] = resume_checks.options(config.checkpoint)
    # The loss adds the gradients of micro-batches up.
    settings["gradient_accumulation_steps"] = None
    super().__init__(
      model,
      optimizers.make(optimizers.in_updates(config)),
      peft_trainer.TrainingConfig(**settings),
    )
    # Checkpoints are numbered by steps of the run, not by updates.
    self.first_step = self._train_steps
    self._iterations = config.grpo.num_iterations
    algorithm = grpo_loss.algorithm_config(config, prefix)
    self.with_loss_fn(
      lambda model, batch: grpo_loss.games_loss(model, batch, algorithm),
      has_aux=True,
    )
    self.with_gen_model_input_fn(lambda batch: {"batch": batch})

  def update(self, batch: grpo_loss.GameExample) -> dict[str, float]:
    """Makes `grpo.num_iterations` updates on a batch; returns mean metrics."""
    step, results = self.create_train_step_fn(), []
    with meshes.use(self.mesh):
      inputs = sharding_utils.shard_input(
        meshes.feed(batch, self.mesh), self.config.data_sharding_axis
      )
      for _ in range(self._iterations):
        loss, metrics, grad_norm = step(inputs)
        named = {name: metrics[key] for key, name in _GRPO_METRICS.items()}
        results.append({"loss": loss, "grad_norm": grad_norm, **named})
    fetched = meshes.fetch(results)
    means = {
      name: float(np.mean([result[name] for result in fetched]))
      for name in fetched[0]
    }
    # Before the first update, it measures the difference between sampler and
    # trainer.
    return means | {"log_ratio": float(fetched[0]["log_ratio"])}

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs metrics to TensorBoard and W&B."""
    logger: Any = self.metrics_logger
    for name, value in metrics.items():
      logger.log(self.metrics_prefix, name, value, "train", step)

  def save(self, step: int) -> None:
    """Saves the trained parameters and the optimizer at the end of a step."""
    jax.block_until_ready(jax.tree.leaves(self.optimizer))
    self.checkpoint_manager.save(
      step,
      self.model,
      self.optimizer,
      save_only_lora_params=self._lora_enabled,
      force=True,
    )

  def close(self) -> None:
    """Closes the checkpoint manager and the logger."""
    self.checkpoint_manager.close()
    if self.metrics_logger is not None:
      self.metrics_logger.close()


def training_settings(
  config: config_lib.SFTConfig, run: pathlib.Path, prefix: str
) -> dict[str, Any]:
  """Returns the fields of Tunix's `TrainingConfig`."""
  accumulation = config.training.gradient_accumulation_steps
  policy = ocp.checkpoint_managers.FixedIntervalPolicy(
    config.checkpoint.save_interval_steps
  )
  return {
    "eval_every_n_steps": config.training.eval_every_n_steps,
    # The data ends after `max_steps`; setting it here would start Tunix's
    # progress bar.
    "max_steps": None,
    "gradient_accumulation_steps": accumulation if accumulation > 1 else None,
    "checkpoint_root_directory": str(
      (run / run_directory.CHECKPOINTS).absolute()
    ),
    "checkpointing_options": resume_checks.options(
      config.checkpoint, save_decision_policy=policy
    ),
    "metrics_prefix": prefix,
    "metrics_logging_options": recorder_lib.options(
      config.logging, run, prefix
    ),
  }
