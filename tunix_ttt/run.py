"""A run directory, as an object for notebooks and scripts."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.models import checkpoints
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import reference_log_probs


class Run:
  """A training run on disk.

  Attributes:
    path: Run directory.
    manifest: What made the run; see `RunManifest`.
  """

  def __init__(self, path: str | pathlib.Path):
    """Opens a run directory, finished or not.

    Raises:
      errors.UserError: if there is no readable manifest.
    """
    self.path = pathlib.Path(path)
    self.manifest = run_manifest.RunManifest.read(self.path)

  def __repr__(self) -> str:
    manifest = self.manifest
    return f"<Run {self.path}: {manifest.recipe}, {manifest.status}>"

  @functools.cached_property
  def config(self) -> config_lib.SFTConfig:
    """Settings that the run was started with."""
    return self.manifest.load_config(self.path)

  def model(
    self, name: str = run_directory.FINAL_CHECKPOINT
  ) -> checkpoints.Model:
    """Loads a model of the run: `checkpoint-final` or `checkpoint-best`.

    Raises:
      errors.UserError: if the run has no such model, or it is damaged.
    """
    return reference_log_probs.load(self.path / name, self.config)

  def metrics(self, split: str | None = None) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl` with a split, `train` or `eval`."""
    rows = run_directory.read_metrics(self.path)
    return [row for row in rows if split in (None, row["split"])]

  def games(self) -> Iterator[Any]:
    """Yields the games of the finished model: every line, or examples.

    They are played first, unless the run has them, and are records as
    `recorded_games.read_games` returns them.
    """
    recipes.play_finished(self.path, self.config)
    yield from recorded_games.read_games(self.path / run_directory.GAMES)

  def report(self) -> pathlib.Path | None:
    """Writes the page of the run, unless it is there; returns its path."""
    return recipes.report(self.path, self.config)
