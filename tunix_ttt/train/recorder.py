"""Writes a run's metrics and games to files, the text log and the console."""

import collections
from collections.abc import Callable, Mapping
import contextlib
import importlib.util
import json
import pathlib
import sys
import time
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import tqdm
from tunix.sft import metrics_logger

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory


class FilteredBackend:
  """A logging backend that receives only one trainer's metrics, until closed.

  Tunix registers backends with `jax.monitoring`, which also sends them metrics
  of JAX and Orbax, even after they are closed.
  """

  def __init__(self, backend: metrics_logger.LoggingBackend, prefix: str):
    """Wraps `backend`, which receives events that start with `prefix/`."""
    self._backend, self._prefix = backend, prefix
    self._is_open = True

  def log_scalar(
    self, event: str, value: float | np.ndarray, **kwargs: str | int
  ) -> None:
    """Forwards an event to the backend."""
    if self._is_open and event.startswith(f"{self._prefix}/"):
      self._backend.log_scalar(event, value, **kwargs)

  def close(self) -> None:
    """Closes the backend."""
    if self._is_open:
      self._is_open = False
      self._backend.close()


def check(config: config_lib.LoggingConfig) -> None:
  """Raises a UserError if the config enables W&B, which is not installed."""
  if config.wandb and importlib.util.find_spec("wandb") is None:
    raise errors.UserError(
      "logging.wandb: Weights & Biases is not installed; run: pip install"
      " 'tunix_ttt[tracking]'"
    )


def options(
  config: config_lib.LoggingConfig, run: pathlib.Path, prefix: str
) -> metrics_logger.MetricsLoggerOptions:
  """Returns Tunix's options for TensorBoard and, if enabled, W&B.

  `prefix` is the `metrics_prefix` of the trainer.
  """
  directory = str(run / run_directory.TENSORBOARD)
  factories: list[metrics_logger.BackendFactory] = [
    lambda: FilteredBackend(
      metrics_logger.TensorboardBackend(log_dir=directory), prefix
    )
  ]
  if config.wandb:
    factories.append(lambda: FilteredBackend(_wandb(config, run), prefix))
  # Without explicit backends, Tunix adds W&B if it is installed.
  return metrics_logger.MetricsLoggerOptions(
    log_dir=directory, backend_kwargs={"custom_backend": factories}
  )


def wandb_url(run: pathlib.Path) -> str | None:
  """Returns the URL of a run on W&B; None offline or without W&B."""
  wandb: Any = sys.modules.get("wandb")
  wandb_run = wandb and wandb.run
  # A notebook may have another W&B run.
  if not wandb_run or wandb_run.id != run.name:
    return None
  return wandb_run.url or None


def _wandb(
  config: config_lib.LoggingConfig, run: pathlib.Path
) -> metrics_logger.LoggingBackend:
  import wandb  # pyright: ignore[reportMissingImports]

  try:
    # A resumed run continues its W&B run.
    return metrics_logger.WandbBackend(
      project=config.wandb_project,
      name=run.name,
      id=run.name,
      resume="allow",
      dir=str(run),
      settings=wandb.Settings(silent=progress.quiet),
    )
  except wandb.Error as error:
    raise errors.UserError(
      f"logging.wandb: {error} To resume without W&B:"
      f" --output {run} --resume latest --set logging.wandb=false"
    ) from None


# Fields of a metrics row that depend on the machine's speed.
TIMES = ("seconds", "seconds_checks", "tokens_per_second")
# Number of steps over which the speed is averaged.
_WINDOW = 20
# Number of consecutive batches without a signal that causes a warning.
_IDLE_STEPS = 10


def _show_speed(row: Mapping[str, Any]) -> str:
  """Formats a row's tokens per second; empty if unknown."""
  speed = row["tokens_per_second"]
  return f"  {speed:,.0f} tokens/s" if speed else ""


class Recorder:
  """Writes the metrics of each step once, in step order.

  A terminal shows a progress bar; other outputs get a line every
  `log_every_n_steps` steps.
  """

  def __init__(
    self,
    run: pathlib.Path,
    recipe: str,
    config: config_lib.SFTConfig,
    *,
    previous_rows: list[dict[str, Any]],
    steps_per_epoch: float = 1.0,
    names: Mapping[str, str] = MappingProxyType({}),
  ):
    """Opens a run's files.

    `previous_rows` are already in `metrics.jsonl`. `names` has the console
    names of the loss metrics, in the order of a row; metrics with the name ""
    are not printed.
    """
    self._names = names
    self._metrics = run_directory.open_to_append(run / run_directory.METRICS)
    self._log = run_directory.open_text_log(run, recipe)
    self._max_steps = config.training.max_steps
    self._log_every = config.logging.log_every_n_steps
    self._steps_per_epoch = steps_per_epoch
    train_rows = [row for row in previous_rows if row["split"] == "train"]
    self._num_tokens = train_rows[-1]["num_tokens"] if train_rows else 0
    self._last = {row["split"]: row for row in previous_rows}
    self._first_step = len(train_rows)
    self._started = time.perf_counter()
    # (time, tokens so far) of the last steps, since compilation.
    self._window = collections.deque(maxlen=_WINDOW)
    self._bar = progress.bar(
      total=self._max_steps,
      initial=self._first_step,
      desc=recipe,
      unit="step",
    )
    self._compiling = contextlib.ExitStack()
    self._compiling.enter_context(progress.stage("compiling the first step"))

  def train(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
    """Records an optimizer step, counted from 1.

    The metrics are those of the loss, `grad_norm` and `seconds_checks` if known,
    `learning_rate`, the number of `tokens` in the batch, and `clock`, the step's
    `time.perf_counter()`.

    Raises:
      errors.UserError: if the loss is not finite.
    """
    elapsed = metrics["clock"] - self._started
    values = {
      "loss": loss,
      **{name: metrics[name] for name in self._names},
      # Not every service states the norm, and checks may be off.
      **{
        name: metrics[name]
        for name in ("grad_norm", "seconds_checks")
        if name in metrics
      },
      "learning_rate": metrics["learning_rate"],
      "epoch": round(step / self._steps_per_epoch, 4),
      **{k: v for k, v in metrics.items() if k.startswith("service/")},
    }
    row = self._write_step(step, values, metrics["tokens"], elapsed)
    speed = _show_speed(row)
    self._advance(f"loss {loss:.4f}{speed}")
    if self._is_logged(step):
      # Unknown at the first step, whose time is mostly compilation.
      if speed:
        done = step - self._first_step
        seconds_left = elapsed / done * (self._max_steps - step)
        speed += f"  {tqdm.tqdm.format_interval(seconds_left)} left"
      self._log_row(
        row,
        f"loss {loss:.4f}  {self._loss_metrics(row)}  lr"
        f" {row['learning_rate']:.1e}{speed}",
      )

  def eval(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
    """Records an evaluation on the held-out rows.

    Raises:
      errors.UserError: if the loss is not finite.
    """
    row = {
      "step": step,
      "split": "eval",
      "loss": loss,
      **{name: metrics[name] for name in self._names},
    }
    self._write(row)
    self._log_row(row, f"eval loss {loss:.4f}  {self._loss_metrics(row)}")
    # The speed excludes evaluations.
    self._window.clear()

  def summary(self) -> dict[str, float]:
    """Returns the last loss and its metrics, of training and of evaluation."""
    return {
      f"{split}/{name}": row[name]
      for split, row in self._last.items()
      for name in ("loss", *self._names)
    }

  def close(self) -> None:
    """Closes the files and the progress bar."""
    self._compiling.close()
    self._bar.close()
    self._metrics.close()
    self._log.close()

  def _loss_metrics(self, row: dict[str, Any]) -> str:
    return "  ".join(
      f"{label} {row[name]:.3f}" for name, label in self._names.items() if label
    )

  def _is_logged(self, step: int) -> bool:
    return step % self._log_every == 0 or step in (1, self._max_steps)

  def warn(self, text: str) -> None:
    """Shows a warning, and writes it to the text log."""
    print(text, file=self._log)
    if not progress.is_hidden():
      self._bar.write(text, file=sys.stderr)

  def _write_step(
    self, step: int, values: dict[str, float], tokens: float, elapsed: float
  ) -> dict[str, Any]:
    """Writes and returns the row of a training step, with its speed."""
    self._num_tokens += int(tokens)
    self._window.append((elapsed, self._num_tokens))
    # The speed over the last steps, 0 while unknown.
    first_elapsed, first_tokens = self._window[0]
    seconds = elapsed - first_elapsed
    new_tokens = self._num_tokens - first_tokens
    row = {
      "step": step,
      "split": "train",
      **values,
      "num_tokens": self._num_tokens,
      "seconds": round(elapsed, 3),
      "tokens_per_second": round(new_tokens / seconds, 1) if seconds else 0.0,
    }
    self._write(row)
    return row

  def _advance(self, text: str) -> None:
    self._bar.set_postfix_str(text, False)
    self._bar.update()

  def _write(self, row: dict[str, Any]) -> None:
    if not abs(row.get("loss", 0.0)) < float("inf"):
      raise errors.UserError(
        f"step {row['step']}: the {row['split']} loss is {row['loss']}: the run"
        " has diverged; lower training.learning_rate, or raise"
        " training.warmup_steps"
      )
    print(json.dumps(row), file=self._metrics)
    if row["split"] == "train":
      self._compiling.close()
    self._last[row["split"]] = row

  def _log_row(self, row: dict[str, Any], text: str) -> None:
    print(f"Step {row['step']}: {json.dumps(row, indent=2)}", file=self._log)
    print("-" * 30, file=self._log)
    if self._bar.disable:
      progress.say(f"step {row['step']}/{self._max_steps}  {text}")
    elif row["split"] == "eval":
      self._bar.write(f"step {row['step']}  {text}")


class GameRecorder(Recorder):
  """Writes the metrics, evaluations and games of a GRPO run.

  Attributes:
    best: Best evaluation score so far; None before the first evaluation.
  """

  def __init__(
    self,
    run: pathlib.Path,
    config: config_lib.GRPOConfig,
    previous_rows: list[dict[str, Any]],
    decode: Callable[[list[int]], str],
  ):
    """Opens a run's files; `decode` turns token ids into text."""
    super().__init__(run, "grpo", config, previous_rows=previous_rows)
    self._config, self._decode = config, decode
    self._game = catalog.of(config)
    self._games = run_directory.open_to_append(run / run_directory.ROLLOUTS)
    self.best: float | None = max(
      (row["score"] for row in previous_rows if row["split"] == "eval"),
      default=None,
    )
    self._num_idle_steps = 0

  @property
  def last_evaluation(self) -> dict[str, Any]:
    """Row of the last evaluation, by name."""
    return self._last["eval"]

  def batch(
    self,
    step: int,
    games: trajectory.Trajectory,
    rewards: np.ndarray,
    metrics: Mapping[str, float],
    learning_rate: float,
  ) -> None:
    """Records a training step, counted from 1, on games on the host.

    `rewards` are the total rewards of turns, float32 [B, T]; `learning_rate` is
    the rate of the step's first update.

    Raises:
      errors.UserError: if the loss is not finite.
    """
    values = {
      **metrics,
      "learning_rate": learning_rate,
      "memory_bytes": _memory_bytes(),
    }
    elapsed = time.perf_counter() - self._started
    row = self._write_step(step, values, values.pop("tokens"), elapsed)
    text = (
      f"reward {row['reward']:.3f}  win {row['win_rate']:.1%}  loss"
      f" {row['loss_rate']:.1%}"
    )
    if "optimal_move_rate" in row:
      text += f"  optimal moves {row['optimal_move_rate']:.1%}"
    self._advance(text)
    if self._is_logged(step):
      self._write_games(step, games, rewards)
      self._log_row(row, f"{text}{_show_speed(row)}")
    self._warn_if_idle(row)

  def evaluation(self, step: int, metrics: Mapping[str, float]) -> bool:
    """Records an evaluation; returns whether its score is the best so far."""
    row = {"step": step, "split": "eval", **metrics}
    self._write(row)
    text = "  ".join(
      f"{name} {value:.4g}"
      for name, value in metrics.items()
      if name.endswith(("lines_lost", "score", "/win_rate", "nash_conv"))
    )
    self._log_row(row, f"evaluation  {text}")
    # Exact scores have no selection bias.
    if step == self._max_steps and not self._config.exhaustive_eval:
      self.warn(
        f"NOTE: {run_directory.BEST_CHECKPOINT} has the best of several scores"
        " of sampled games, which is biased upward; evaluate it on other games"
        " with training/eval_play.py"
      )
    self._window.clear()
    is_best = self.best is None or metrics["score"] > self.best
    if is_best:
      self.best = metrics["score"]
    return is_best

  def summary(self) -> dict[str, float]:
    """Returns the last metrics of training and of evaluation."""
    return {
      f"{split}/{name}": value
      for split, row in self._last.items()
      for name, value in row.items()
      if isinstance(value, float) and name not in TIMES
    }

  def close(self) -> None:
    """Closes the files and the progress bar."""
    self._games.close()
    super().close()

  def _write_games(
    self, step: int, games: trajectory.Trajectory, rewards: np.ndarray
  ) -> None:
    count = self._config.rollouts_per_log
    first = jax.tree.map(lambda leaf: leaf[:count], games)
    records = trajectory.describe(self._game, first, self._decode)
    for number, game in enumerate(records):
      earned = rewards[number][np.asarray(games.turn_mask[number])]
      for turn, reward in zip(game["turns"], earned.tolist(), strict=True):
        turn["reward"] = reward
      self._games.write(json.dumps({"step": step, **game}) + "\n")

  def _warn_if_idle(self, row: Mapping[str, Any]) -> None:
    group_size = self._config.grpo.num_generations
    num_groups = self._config.training.batch_size // group_size
    num_groups *= self._config.episodes.num_agents
    is_idle = row["dropped_groups"] == num_groups
    self._num_idle_steps = self._num_idle_steps + 1 if is_idle else 0
    if self._num_idle_steps and self._num_idle_steps % _IDLE_STEPS == 0:
      self.warn(
        f"WARNING: the last {self._num_idle_steps} steps trained nothing, because"
        " all games of a group earned the same; raise rollout.temperature or"
        " grpo.num_generations, or choose other rewards"
      )


def _memory_bytes() -> int:
  """Returns peak bytes on the first device, or bytes of all live arrays."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  return sum(array.nbytes for array in jax.live_arrays())


def game_metrics(
  game: definition.Definition,
  games: trajectory.Trajectory,
  rewards: Mapping[str, np.ndarray],
) -> dict[str, float]:
  """Returns the metrics of B games, given rewards float32 [B, T] by name."""
  played = np.asarray(games.turn_mask)
  total = rewards_lib.total(games, rewards).sum(axis=1)
  tokens = np.asarray(games.action_mask).sum(axis=2)
  returns = game.returns(games.state, np.asarray(games.ending))
  metrics = {
    "reward": float(total.mean()),
    "reward_std": float(total.std()),
    **{
      f"reward/{name}": float(values.sum(axis=1).mean())
      for name, values in rewards.items()
    },
    **{
      name: float((np.asarray(games.ending) == ending).mean())
      for name, ending in trajectory.RATES.items()
    },
    "mean_return": float(returns.mean()),
    "turns": float(played.sum(axis=1).mean()),
    "tokens_per_turn": float(tokens[played].mean()),
    "tokens": float(tokens.sum()),
  }
  if not game.unsolved:
    is_optimal = rewards_lib.regret(game, games) == 0
    sampled = played if games.tried is None else played & ~games.tried
    if sampled.any():
      metrics["optimal_move_rate"] = float(is_optimal[sampled].mean())
  if games.sampled_mass is not None:
    is_free = np.asarray(games.action_mask)
    if games.tried is not None:
      is_free = is_free & ~games.tried[..., None]
    mass = np.asarray(games.sampled_mass)[is_free]
    metrics["sampled_mass"] = float(mass.mean())
  return metrics
