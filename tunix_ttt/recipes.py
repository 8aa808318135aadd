"""Whole runs, each one call: what training scripts and notebooks are made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import gc
import pathlib
from typing import Any, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.evaluate import answers
from tunix_ttt.evaluate import evalsets
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.models import sources
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import model_card
from tunix_ttt.report import run_page
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import base_model
from tunix_ttt.train import dpo
from tunix_ttt.train import grpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import resume_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft

ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A way to train: its settings, how a run is prepared, and how it runs.

  Attributes:
    config: Class of the settings.
    plan: Checks the settings and makes the model; writes nothing.
    run: Trains from the latest checkpoint to the end.
  """

  config: type[config_lib.SFTConfig]
  plan: Callable[..., Any]
  run: run_loop.Train[Any]


RECIPES: dict[run_manifest.Recipe, Recipe] = {
  "sft": Recipe(config_lib.SFTConfig, sft.plan, sft.run),
  "dpo": Recipe(config_lib.DPOConfig, dpo.plan, dpo.run),
  "grpo": Recipe(config_lib.GRPOConfig, grpo_plan.plan, grpo.run),
}
# Where no config is given, what `load_config` makes one of.
Settings = pathlib.Path | str | Mapping[str, Any]


def train_sft(
  config: config_lib.SFTConfig | Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Fine-tunes a model on games or on a file of rows.

  Args:
    config: the settings, or a YAML file or dictionary of them.
    output: the run directory, which must not exist; None makes one under
      `artifacts/training_runs`.

  Returns:
    The run directory; the model is in its `checkpoint-final`.

  Raises:
    errors.UserError: if the input is wrong, before anything is written.
  """
  return start("sft", _config(config_lib.SFTConfig, config), output)


def train_dpo(
  config: config_lib.DPOConfig | Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Trains a model on pairs of answers, of which one is preferred.

  Args:
    config: see `train_sft`; `data.path` names the pairs.
    output: see `train_sft`, also for what is returned and raised.
  """
  return start("dpo", _config(config_lib.DPOConfig, config), output)


def train_grpo(
  config: config_lib.GRPOConfig | Settings,
  output: pathlib.Path | str | None = None,
  *,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Improves a model by playing whole games.

  Args:
    config: see `train_sft`.
    output: see `train_sft`, also for what is returned and raised.
    rewards: functions of games that are added to the config's rewards, by the
      name that they have in metrics (`reward/name`). A function is given B
      games as a `Trajectory` of NumPy arrays, and returns float [B, T], what
      each turn earned, or [B], what each game is worth. `(function, weight)`
      stands for one times a weight. Their sources are in the run's manifest.
  """
  return start("grpo", _config(config_lib.GRPOConfig, config), output, rewards)


def start(
  name: run_manifest.Recipe,
  config: config_lib.SFTConfig,
  output: pathlib.Path | str | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Trains by a recipe of `RECIPES`; see `train_sft` and `train_grpo`."""
  recipe = RECIPES[name]
  options, records = _options(config, rewards)
  return run_loop.start(
    name,
    config,
    _path(output),
    lambda: recipe.plan(config, **options),
    recipe.run,
    records,
  )


def _options(
  config: config_lib.SFTConfig, rewards: rewards_lib.Rewards | None
) -> tuple[dict[str, Any], resume_checks.Rewards]:
  """Returns options of a recipe's plan, and the manifest's records of them.

  Raises:
    errors.UserError: if a reward is wrong, or the recipe takes none.
  """
  if isinstance(config, config_lib.GRPOConfig):
    custom = rewards_lib.custom_rewards(rewards, config.rewards)
    return {"rewards": custom}, rewards_lib.records(custom)
  if rewards:
    raise errors.UserError("rewards are for GRPO, which this run is not")
  return {}, {}


def resume(
  run: pathlib.Path | str,
  config: config_lib.SFTConfig | None = None,
  *,
  step: int | None = None,
  base: pathlib.Path | str | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    run: its directory.
    config: the settings it was started with; None takes them from its
      manifest. Those of logging, of devices, of how many checkpoints and games
      are kept, and of where data and model are now may differ.
    step: which of its checkpoints to go on from; None for the latest, or the
      beginning where there is none yet. Later checkpoints are set aside.
    base: directory of the model that the run started from, where it is no
      longer the recorded one; its digest is checked.
    rewards: the functions that a GRPO run was started with.

  Returns:
    The run directory.

  Raises:
    errors.UserError: if there is no such run or checkpoint, or the config, the
      rewards, the data, the base or the code's results are not the run's.
  """
  run = pathlib.Path(run)
  progress.hush()
  if config is None:
    manifest = run_manifest.RunManifest.read(run)
    kind = RECIPES[manifest.recipe].config
    config = resume_checks.config_of(kind, manifest, run)
  if base is not None:
    config = resume_checks.with_model(config, base=str(base))
  recipe = next(r for r in RECIPES.values() if r.config is type(config))
  options, records = _options(config, rewards)
  return run_loop.resume(
    config,
    run,
    step,
    lambda config, path: recipe.plan(config, path, **options),
    recipe.run,
    records,
  )


def answer_evalset(
  name: str | pathlib.Path,
  config: config_lib.SFTConfig,
  items: Sequence[evalsets.Item],
  seed: int | None = None,
) -> Iterator[answers.Answer]:
  """Yields a model's answer to each item; see `answers.generate`.

  Args:
    name: `base` for the model that the config starts from, or a model or run
      directory.
    config: Settings.
    items: Questions.
    seed: Random seed for sampling; None for the config's.

  Raises:
    errors.UserError: if there is no such model, it is another than the
      config's, or answers need far more memory than there is.
  """
  model = base_model.load(name, config)
  yield from answers.generate(model, str(name), config, items, seed)


def _path(output: pathlib.Path | str | None) -> pathlib.Path | None:
  return None if output is None else pathlib.Path(output)


def _config(kind: type[ConfigT], config: ConfigT | Settings) -> ConfigT:
  """Returns the config that a run was asked for with, checked."""
  progress.hush()
  if isinstance(config, pathlib.Path | str | Mapping):
    return config_lib.load(kind, config)
  if not isinstance(config, kind):
    raise errors.UserError(
      f"config: expected a {kind.__name__}, a YAML file or a dictionary of its"
      f" keys, found a {type(config).__name__}"
    )
  return config


def play_finished(
  run: pathlib.Path, config: config_lib.SFTConfig
) -> game_files.Summary:
  """Plays a run's model on every line, greedily, unless that has been done.

  Games, summary and a sample of its openings are in the run's directory then.

  Args:
    run: the run's directory.
    config: its settings; the temperature of play is of no account.

  Raises:
    errors.UserError: if the model cannot play as the config says.
  """
  games, summary = run / run_directory.GAMES, run / run_directory.GAMES_SUMMARY
  played_before = games.exists() and summary.exists()
  if not played_before:
    greedy = dataclasses.replace(config.play, temperature=0.0)
    config = dataclasses.replace(config, play=greedy)
    name = str(run / run_directory.FINAL_CHECKPOINT)
    # What trained it may hold a second copy of the model, in a cycle.
    gc.collect()
    model = base_model.load(name, config)
    played = list(matches.play_all_lines(model, config))
    first = matches.sample(model, config, config.seed)
    # One of them alone is left where writing them was interrupted.
    games.unlink(missing_ok=True)
    summary.unlink(missing_ok=True)
    matches.write(games, played, model, name, config, first)
    print(matches.table(played), flush=True)
  names = (run_directory.GAMES, run_directory.GAMES_SUMMARY)
  manifest = run_manifest.RunManifest.read(run)
  if not played_before or not manifest.files.keys() >= {*names}:
    manifest.with_files(run, *names).write(run)
  return game_files.read_summary(summary)


def report(
  run: pathlib.Path | str, config: config_lib.SFTConfig
) -> pathlib.Path | None:
  """Writes a finished run's page and figures, unless they are there.

  Several processes play no games: theirs are for `eval_play.py`.

  Args:
    run: the run's directory.
    config: its settings.

  Returns:
    The page; None where `logging.report` is false, and in all processes but the
    first.
  """
  run = pathlib.Path(run)
  output = run / run_directory.PAGE
  if not (config.logging.report and processes.is_first()):
    return None
  if not output.exists():
    try:
      if processes.several():
        raise errors.UserError("one process plays them; see eval_play.py")
      play_finished(run, config)
    except errors.UserError as error:
      progress.say(f"note: the report has no games: {error}")
    plots = (
      None
      if (run / run_directory.PLOTS).exists()
      else run / run_directory.PLOTS
    )
    with progress.stage("writing the report"):
      run_page.write(run_page.collect(run), output, plots)
  return output


MAX_SHARD_SIZE = 4 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
  """The contents of an exported directory.

  Attributes:
    model: weights, settings and tokenizer.
    model_card: the model card.
  """

  model: export_lib.Export
  model_card: bytes

  def sizes(self) -> dict[str, int]:
    """Returns the bytes of each file; of weights, without their headers."""
    return self.model.sizes() | {model_card.README: len(self.model_card)}

  def write(self, output: pathlib.Path) -> None:
    """Writes the directory, which must not exist, whole or not at all."""
    export_lib.write(self.model, output, {model_card.README: self.model_card})


def prepare(
  name: str,
  title: str,
  *,
  base: str | None = None,
  merge: bool = False,
  max_shard_size: int = MAX_SHARD_SIZE,
  evaluation: pathlib.Path | None = None,
) -> Export:
  """Reads a model and what is known of it; writes nothing.

  Args:
    name: a checkpoint, any model directory, or a hub id.
    title: what it is to be called: a repository or a directory.
    base: directory of an adapter's base, where it is no longer the recorded
      one.
    merge: write adapters and their base as one; else they are alone, for PEFT.
    max_shard_size: bytes of a weight file of a whole model at the most.
    evaluation: a summary of games for the card, in place of those beside the
      run.

  Raises:
    errors.UserError: if there is no such model, or it cannot be written so.
  """
  run = model_card.find_run(name)
  given = None if evaluation is None else game_files.read_summary(evaluation)
  model = sources.open_model(name, config_lib.ModelConfig(base=base))
  if given is None:
    summaries = model_card.find_summaries(model.revision, run)
  else:
    summaries = [given]
  export = export_lib.prepare(model, merge=merge, max_shard_size=max_shard_size)
  text = model_card.render(export, title, run, summaries)
  return Export(model=export, model_card=text.encode())


def export_model(
  name: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  base: str | pathlib.Path | None = None,
  merge: bool = False,
) -> pathlib.Path:
  """Writes a trained model as PEFT or transformers read it.

  Args:
    name: a run, a checkpoint, or any model directory.
    output: directory to make.
    base: see `prepare`.
    merge: write adapters and their base as one model; else they are alone, for
      PEFT. A model that was trained whole is always written whole.

  Returns:
    The directory.

  Raises:
    errors.UserError: if there is no such model, it cannot be written so, or the
      directory exists.
  """
  output = pathlib.Path(output)
  files.check_absent(output)
  base = None if base is None else str(base)
  export = prepare(str(name), output.absolute().name, base=base, merge=merge)
  export.write(output)
  return output
