"""Writes the metrics, evaluations and games of a GRPO run."""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any

import jax
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.rollout import trajectory
from tunix_ttt.runs import run_directory
from tunix_ttt.train import recorder as recorder_lib

# So many batches without a signal, one after the other, are worth a warning.
_IDLE_STEPS = 10


class GameRecorder(recorder_lib.Recorder):
  """Writes each batch's metrics once, in step order, and some of its games.

  Attributes:
    best: the best score of the evaluations so far, None before the first.
  """

  def __init__(
    self,
    run: pathlib.Path,
    config: config_lib.GRPOConfig,
    kept: list[dict[str, Any]],
    decode: Callable[[list[int]], str],
  ):
    """Opens a run's files.

    Args:
      run: the run directory.
      config: the settings.
      kept: the rows already in `metrics.jsonl`.
      decode: from ids to text.
    """
    super().__init__(
      run,
      "grpo",
      max_steps=config.training.max_steps,
      log_every_n_steps=config.logging.log_every_n_steps,
      steps_per_epoch=1.0,
      kept=kept,
    )
    self._config, self._decode = config, decode
    self._games = run_directory.open_to_append(run / run_directory.ROLLOUTS)
    scores = [row["score"] for row in kept if row["split"] == "eval"]
    self.best: float | None = max(scores, default=None)
    self._idle = 0

  def batch(
    self,
    step: int,
    games: trajectory.Trajectory,
    metrics: Mapping[str, float],
    learning_rate: float,
  ) -> None:
    """Records a batch of games that was trained on.

    Args:
      step: Number of the step, from 1.
      games: Games of the batch, on the host.
      metrics: Metrics of the games and of the loss.
      learning_rate: Learning rate of the step's first update.

    Raises:
      errors.UserError: if the loss is not a finite number.
    """
    metrics = dict(metrics)
    self._num_tokens += int(metrics.pop("tokens"))
    elapsed = self._elapsed()
    row = {
      "step": step,
      "split": "train",
      **metrics,
      "learning_rate": learning_rate,
      "num_tokens": self._num_tokens,
      "memory_bytes": _memory(),
      "seconds": round(elapsed, 3),
      "tokens_per_second": self._speed(elapsed),
    }
    self._write(row)
    text = (
      f"reward {row['reward']:.3f}  win {row['win_rate']:.1%}  loss"
      f" {row['loss_rate']:.1%}  optimal moves {row['optimal_move_rate']:.1%}"
    )
    self._bar.set_postfix_str(text, False)
    self._bar.update()
    if self._is_logged(step):
      self._write_games(step, games)
      self._say(row, f"{text}{recorder_lib.show_speed(row)}")
    self._warn_if_idle(row)

  def evaluation(self, step: int, metrics: Mapping[str, float]) -> bool:
    """Records an evaluation; returns whether its score is the best so far.

    The best of several scores of sampled games is biased upward, which the log
    says at the end. Exact scores have no such bias.
    """
    row = {"step": step, "split": "eval", **metrics}
    self._write(row)
    shown = "  ".join(
      f"{name} {value:.4g}"
      for name, value in metrics.items()
      if name.endswith(("lines_lost", "score", "/win_rate"))
    )
    self._say(row, f"evaluation  {shown}")
    if step == self._max_steps and not self._config.exhaustive_eval:
      self._warn(
        f"NOTE: {run_directory.BEST_CHECKPOINT} has the best score of several evaluations"
        " by sampled games, and that score is biased upward; judge it with"
        " training/eval_play.py, which plays other games"
      )
    self._window.clear()
    is_best = self.best is None or metrics["score"] > self.best
    if is_best:
      self.best = metrics["score"]
    return is_best

  def summary(self) -> dict[str, float]:
    """Returns the last metrics of games and of evaluation."""
    return {
      f"{split}/{name}": value
      for split, row in self._last.items()
      for name, value in row.items()
      if isinstance(value, float) and name not in recorder_lib.TIMES
    }

  def close(self) -> None:
    """Closes the files and the bar."""
    self._games.close()
    super().close()

  def _write_games(self, step: int, games: trajectory.Trajectory) -> None:
    count = self._config.rollouts_per_log
    first = jax.tree.map(lambda leaf: leaf[:count], games)
    for game in trajectory.describe(first, self._decode):
      self._games.write(json.dumps({"step": step, **game}) + "\n")
    self._games.flush()

  def _warn_if_idle(self, row: Mapping[str, Any]) -> None:
    training, group = self._config.training, self._config.grpo.num_generations
    groups = training.batch_size // group
    self._idle = self._idle + 1 if row["dropped_groups"] == groups else 0
    if self._idle and self._idle % _IDLE_STEPS == 0:
      self._warn(
        f"WARNING: in the last {self._idle} steps every group of games earned"
        " all the same, so nothing was learned; raise rollout.temperature or"
        " grpo.num_generations, or choose rewards that tell games apart"
      )


def _memory() -> int:
  """Returns the bytes in use on the first device, or of live arrays."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  return sum(array.nbytes for array in jax.live_arrays())


def game_metrics(
  games: trajectory.Trajectory, rewards: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Returns the metrics of a batch of games.

  Args:
    games: B games of at most T turns, on the host.
    rewards: float32 [B, T] by name.
  """
  played = np.asarray(games.turn_mask)
  total = rewards_lib.total(games, rewards).sum(axis=1)
  tokens = np.asarray(games.action_mask).sum(axis=2)
  is_optimal = rewards_lib.regret(games) == 0
  cut = {}
  if games.sampled_mass is not None:
    mass = np.asarray(games.sampled_mass)[np.asarray(games.action_mask)]
    cut["sampled_mass"] = float(mass.mean())
  return {
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
    "optimal_move_rate": float(is_optimal[played].mean()),
    "turns": float(played.sum(axis=1).mean()),
    "tokens_per_turn": float(tokens[played].mean()),
    "tokens": float(tokens.sum()),
    **cut,
  }
