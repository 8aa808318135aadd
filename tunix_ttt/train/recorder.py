"""Writes a run's metrics to `metrics.jsonl`, the text log and the console."""

import collections
from collections.abc import Mapping
import contextlib
import json
import pathlib
import sys
import time
from types import MappingProxyType
from typing import Any

import tqdm

from tunix_ttt import errors
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

# Fields of a metrics row that depend on the machine's speed.
TIMES = ("seconds", "tokens_per_second")

# Steps that the speed is averaged over.
_WINDOW = 20


def show_speed(row: Mapping[str, Any]) -> str:
  """Returns a row's tokens per second for the console, nothing if unknown."""
  speed = row["tokens_per_second"]
  return f"  {speed:,.0f} tokens/s" if speed else ""


class Recorder:
  """Writes each step's metrics once, in step order.

  On a terminal there is a progress bar; elsewhere a line every so many steps.
  """

  def __init__(
    self,
    run: pathlib.Path,
    recipe: str,
    *,
    max_steps: int,
    log_every_n_steps: int,
    steps_per_epoch: float,
    kept: list[dict[str, Any]],
    names: Mapping[str, str] = MappingProxyType({}),
  ):
    """Opens a run's files.

    Args:
      run: the run directory.
      recipe: names the text log.
      max_steps: the run's last step.
      log_every_n_steps: steps between lines of the text log.
      steps_per_epoch: optimizer steps that see the data once.
      kept: the rows already in `metrics.jsonl`.
      names: the metrics of a loss, in the order of a row, and what those that
        the console shows are called there; others have the name "".
    """
    self._names = names
    self._metrics = run_directory.MetricsFile(run)
    self._log = run_directory.TextLog(run, recipe)
    self._max_steps = max_steps
    self._log_every = log_every_n_steps
    self._steps_per_epoch = steps_per_epoch
    trained = [row for row in kept if row["split"] == "train"]
    self._num_tokens = trained[-1]["num_tokens"] if trained else 0
    self._last = {row["split"]: row for row in kept}
    self._first_step = len(trained)
    self._started = time.perf_counter()
    # (time, tokens so far) of the last steps; none from before compilation.
    self._window = collections.deque(maxlen=_WINDOW)
    self._bar = progress.bar(
      total=max_steps, initial=len(trained), desc=recipe, unit="step"
    )
    self._compiling = contextlib.ExitStack()
    self._compiling.enter_context(progress.stage("compiling the first step"))

  def train(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
    """Records an optimizer step.

    Args:
      step: its number, from 1.
      loss: Loss of the step.
      metrics: those of the loss, `grad_norm`, `learning_rate`, `tokens` of the
        batch, and `clock`, the `time.perf_counter()` of the step.

    Raises:
      errors.UserError: if the loss is not a finite number.
    """
    self._num_tokens += int(metrics["tokens"])
    elapsed = metrics["clock"] - self._started
    row = {
      "step": step,
      "split": "train",
      "loss": loss,
      **{name: metrics[name] for name in self._names},
      "grad_norm": metrics["grad_norm"],
      "learning_rate": metrics["learning_rate"],
      "epoch": round(step / self._steps_per_epoch, 4),
      "num_tokens": self._num_tokens,
      "seconds": round(elapsed, 3),
      "tokens_per_second": self._speed(elapsed),
    }
    self._write(row)
    self._bar.set_postfix_str(f"loss {loss:.4f}{show_speed(row)}", False)
    self._bar.update()
    if self._is_logged(step):
      done = step - self._first_step
      left = elapsed / done * (self._max_steps - step)
      speed = show_speed(row)
      # What the first step takes is compilation.
      speed += speed and f"  {tqdm.tqdm.format_interval(left)} left"
      self._say(
        row,
        f"loss {loss:.4f}  {self._shown(row)}  lr {row['learning_rate']:.1e}"
        f"{speed}",
      )

  def eval(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
    """Records an evaluation on the held-out rows.

    Raises:
      errors.UserError: if the loss is not a finite number.
    """
    row = {
      "step": step,
      "split": "eval",
      "loss": loss,
      **{name: metrics[name] for name in self._names},
    }
    self._write(row)
    self._say(row, f"eval loss {loss:.4f}  {self._shown(row)}")
    # What an evaluation takes is not the next steps' time.
    self._window.clear()

  def _shown(self, row: dict[str, Any]) -> str:
    return "  ".join(
      f"{called} {row[name]:.3f}"
      for name, called in self._names.items()
      if called
    )

  def _is_logged(self, step: int) -> bool:
    return step % self._log_every == 0 or step in (1, self._max_steps)

  def _elapsed(self) -> float:
    return time.perf_counter() - self._started

  def _warn(self, text: str) -> None:
    self._log.write(text)
    if not progress.is_hidden():
      self._bar.write(text, file=sys.stderr)

  def _speed(self, elapsed: float) -> float:
    """Returns tokens per second over the last steps, 0 while unknown."""
    self._window.append((elapsed, self._num_tokens))
    then, tokens = self._window[0]
    if elapsed == then:
      return 0.0
    return round((self._num_tokens - tokens) / (elapsed - then), 1)

  def summary(self) -> dict[str, float]:
    """Returns the last loss and its metrics, of training and of evaluation."""
    return {
      f"{split}/{name}": row[name]
      for split, row in self._last.items()
      for name in ("loss", *self._names)
    }

  def close(self) -> None:
    """Closes the files and the bar."""
    self._compiling.close()
    self._bar.close()
    self._metrics.close()
    self._log.close()

  def _write(self, row: dict[str, Any]) -> None:
    if not abs(row.get("loss", 0.0)) < float("inf"):
      raise errors.UserError(
        f"step {row['step']}: the {row['split']} loss is {row['loss']}: the run"
        " has diverged; lower training.learning_rate, or raise"
        " training.warmup_steps"
      )
    self._metrics.write(row)
    if row["split"] == "train":
      self._compiling.close()
    self._last[row["split"]] = row

  def _say(self, row: dict[str, Any], text: str) -> None:
    self._log.write(f"Step {row['step']}: {json.dumps(row, indent=2)}")
    self._log.write("-" * 30)
    if self._bar.disable:
      progress.say(f"step {row['step']}/{self._max_steps}  {text}")
    elif row["split"] == "eval":
      self._bar.write(f"step {row['step']}  {text}")
