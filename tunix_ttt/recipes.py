"""Trains, resumes, evaluates, reports and exports runs, each in one call."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import gc
import pathlib
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.evaluate import evalsets
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.models import sources
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import model_card
from tunix_ttt.report import run_page
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import dpo
from tunix_ttt.train import grpo
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import resume_checks
from tunix_ttt.train import run_loop
from tunix_ttt.train import sft

# A function, or `package.module:function`.
Function = Callable[..., Any] | str
MAX_SHARD_SIZE = 4 * 10**9

RECIPES: dict[config_lib.Recipe, run_loop.Recipe] = {
  "sft": sft.RECIPE,
  "dpo": dpo.RECIPE,
  "grpo": grpo.RECIPE,
}


def train_sft(
  config: config_lib.SFTConfig | config_lib.Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Fine-tunes a model on generated games or on a file of rows.

  Args:
    config: Config, or a YAML file or dictionary of its keys.
    output: New run directory; None creates one in `artifacts/training_runs`.

  Returns:
    The run directory. Its `checkpoint-final` holds the trained model.

  Raises:
    errors.UserError: If the input is wrong; nothing is written then.
  """
  return start("sft", config_lib.load(config_lib.SFTConfig, config), output)


def train_dpo(
  config: config_lib.DPOConfig | config_lib.Settings,
  output: pathlib.Path | str | None = None,
) -> pathlib.Path:
  """Trains a model on preference pairs, the file `data.path` of the config.

  The arguments, the result and the errors are as in `train_sft`.
  """
  return start("dpo", config_lib.load(config_lib.DPOConfig, config), output)


def train_grpo(
  config: config_lib.GRPOConfig | config_lib.Settings,
  output: pathlib.Path | str | None = None,
  *,
  rewards: rewards_lib.Rewards | None = None,
  advantage: Function | None = None,
  opponent: Function | None = None,
  text: Function | None = None,
) -> pathlib.Path:
  """Trains a model by reinforcement learning on whole games.

  `rewards` maps names to custom reward functions, which are added to the
  config's rewards and logged as `reward/name`. A function takes a `Trajectory`
  of B games as NumPy arrays and returns float [B, T], a reward for each turn,
  or float [B], a reward for each game. A pair `(function, weight)` scales a
  reward.

  `advantage` (an `algorithms.advantages.Estimator`), `opponent` (a player of the
  game, see `games.players.Player`) and `text` (makes a `TextFormat`: system
  prompt, observations, answers) are functions at the top level of a module or
  notebook, or `package.module:function`. They replace
  `grpo.advantage_estimator`, `opponents` and `play.format` of the config.

  The run's manifest names all functions and digests of their source. The other
  arguments, the result and the errors are as in `train_sft`.
  """
  config = config_lib.load(config_lib.GRPOConfig, config)
  for section, field, function in (
    ("grpo", "advantage_estimator", advantage),
    ("opponents", "custom", opponent),
    ("play", "format", text),
  ):
    if function is not None:
      name = custom.reference(function, f"{section}.{field}")
      changed = dataclasses.replace(getattr(config, section), **{field: name})
      config = dataclasses.replace(config, **{section: changed})
  return start("grpo", config, output, rewards)


def start(
  name: config_lib.Recipe,
  config: config_lib.SFTConfig,
  output: pathlib.Path | str | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Trains with a recipe and returns the run directory.

  Raises:
    errors.UserError: If the input is wrong; nothing is written then.
  """
  progress.hush()
  requirements.check()
  output = None if output is None else pathlib.Path(output)
  return run_loop.start(name, recipe_of(name, config), config, output, rewards)


def recipe_of(
  name: config_lib.Recipe, config: config_lib.SFTConfig
) -> run_loop.Recipe:
  """Returns the trainer of a config, on local devices or on its service.

  Raises:
    errors.UserError: If the service has no such trainer.
  """
  if config.service is None:
    return RECIPES[name]
  # Imported here: local runs have no use for it.
  from tunix_ttt.service import service_runs

  if name not in service_runs.RECIPES:
    raise errors.UserError(f"service: cannot train {name}; remove this section")
  return service_runs.RECIPES[name]


def resume(
  run: pathlib.Path | str,
  config: config_lib.SFTConfig | config_lib.Settings | None = None,
  *,
  step: int | None = None,
  base: pathlib.Path | str | None = None,
  rewards: rewards_lib.Rewards | None = None,
) -> pathlib.Path:
  """Resumes an interrupted run; the result equals an uninterrupted run's.

  Args:
    run: Run directory.
    config: Config, YAML file or dictionary of its keys; None reads it from the
      manifest. Settings of logging, of devices, of the number of checkpoints
      and games to keep, and of the paths of data and model may differ from the
      manifest's.
    step: Step of the checkpoint to resume from; None resumes from the latest
      checkpoint, or from the beginning if there is none. Later checkpoints are
      set aside.
    base: New directory of the initial model, if it was moved; its digest is
      checked.
    rewards: Custom reward functions that the GRPO run was started with.

  Returns:
    The run directory.

  Raises:
    errors.UserError: If the run or the checkpoint does not exist, or the
      config, the rewards, the data, the base or the code's results do not match
      the run.
  """
  run = pathlib.Path(run)
  progress.hush()
  requirements.check()
  manifest = run_manifest.RunManifest.read(run)
  if config is None:
    config = manifest.load_config(run)
  elif not isinstance(config, config_lib.SFTConfig):
    config = config_lib.load(config_lib.RECIPES[manifest.recipe], config)
  if base is not None:
    config = resume_checks.with_model(config, base=str(base))
  recipe = recipe_of(manifest.recipe, config)
  return run_loop.resume(recipe, manifest, config, run, step, rewards)


def open_model(
  name: str | pathlib.Path, config: config_lib.SFTConfig
) -> matches.Model:
  """Returns a model to evaluate, on the config's service if it has one.

  See `load` for the name.

  Raises:
    errors.UserError: If the model does not exist or does not match the config.
  """
  if config.service is None:
    return reference_log_probs.load(name, config)
  # Imported here: local models have no use for it.
  from tunix_ttt.service import service_games

  return service_games.load(name, config)


def answer_evalset(
  name: str | pathlib.Path,
  config: config_lib.SFTConfig | config_lib.Settings,
  items: Sequence[evalsets.Item],
  seed: int | None = None,
) -> Iterator[evalsets.Answer]:
  """Yields a model's scored answer to each item of an evalset.

  The name is a model or run directory, or `base` for the config's initial
  model. The `eval` settings configure sampling; the seed defaults to the
  config's.

  Raises:
    errors.UserError: If the model does not exist or does not match the config,
      or the answers do not fit in memory.
  """
  config = config_lib.load_any(config)
  model = open_model(name, config)
  yield from evalsets.generate(model, str(name), config, items, seed)


def play_finished(
  run: pathlib.Path, config: config_lib.SFTConfig
) -> game_files.Summary:
  """Plays every line with a finished run's greedy policy; returns a summary.

  A game that is not judged exactly is sampled against `play.opponent`. All
  processes of a run play; the first one writes.

  Writes the games and the summary, which includes sampled openings, to the run
  directory, and adds them to its manifest. Existing games are not replayed.

  Raises:
    errors.UserError: If the model cannot play with this config.
  """
  games, summary = run / run_directory.GAMES, run / run_directory.GAMES_SUMMARY
  played_before = processes.largest(games.exists() and summary.exists())
  if not played_before:
    greedy = dataclasses.replace(config.play, temperature=0.0)
    config = dataclasses.replace(config, play=greedy)
    name = str(run / run_directory.FINAL_CHECKPOINT)
    # A reference cycle of the trainer may keep a second copy of the model.
    gc.collect()
    model = open_model(name, config)
    play = matches.play_games
    if matches.can_play_all_lines(config):
      play = matches.play_all_lines
    played = list(play(model, config))
    openings = matches.sample_openings(model, config, config.seed)
    if processes.is_first():
      # An interrupted write leaves one file without the other.
      games.unlink(missing_ok=True)
      summary.unlink(missing_ok=True)
      matches.write(games, played, model, name, config, openings)
    processes.wait("written the games")
    print(matches.table(played), flush=True)
  names = games.name, summary.name
  manifest = run_manifest.RunManifest.read(run)
  if not played_before or not manifest.files.keys() >= {*names}:
    manifest.with_files(run, *names).write(run)
  return game_files.read_summary(summary)


def report(
  run: pathlib.Path | str, config: config_lib.SFTConfig | config_lib.Settings
) -> pathlib.Path | None:
  """Writes a finished run's HTML page and plots, unless they exist.

  Returns the path of the page; None if `logging.report` is false.
  """
  run, config = pathlib.Path(run), config_lib.load_any(config)
  output, plots = run / run_directory.PAGE, run / run_directory.PLOTS
  if not config.logging.report:
    return None
  if processes.largest(output.exists()):
    return output
  # What a signal says to do: to resume, which writes what is missing.
  with interrupts.working_on(run):
    try:
      play_finished(run, config)
    except errors.UserError as error:
      progress.say(f"note: the report has no games: {error}")
    if processes.is_first():
      with progress.stage("writing the report"):
        material = run_page.collect(run)
        run_page.write(material, output, None if plots.exists() else plots)
  return output


def prepare(
  name: str,
  title: str,
  *,
  base: str | None = None,
  merge: bool = False,
  max_shard_size: int = MAX_SHARD_SIZE,
  evaluation: pathlib.Path | None = None,
) -> export_lib.Export:
  """Reads a model and builds its model card; writes nothing.

  See `export_model`. The name may also be a hub id, and the title is the name
  on the model card: a repository or a directory. `max_shard_size` limits the
  bytes in a weight file of a whole model. The model card shows the summary of
  games `evaluation`, or the summaries in the run directory.

  Raises:
    errors.UserError: If the model does not exist or cannot be exported.
  """
  run = run_directory.of_model(name)
  summary = evaluation and game_files.read_summary(evaluation)
  model = sources.open_model(name, config_lib.ModelConfig(base=base))
  summaries = (
    [summary] if summary else model_card.find_summaries(model.revision, run)
  )
  export = export_lib.prepare(model, merge=merge, max_shard_size=max_shard_size)
  text = model_card.render(export, title, run, summaries)
  contents = export.contents | {model_card.README: text.encode()}
  return dataclasses.replace(export, contents=contents)


def export_model(
  name: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  base: str | pathlib.Path | None = None,
  merge: bool = False,
) -> pathlib.Path:
  """Writes a trained model for PEFT or transformers.

  Args:
    name: Run, checkpoint, or other model directory.
    output: Directory to create.
    base: New directory of an adapter's base model, if it was moved.
    merge: Whether to merge an adapter into its base model; PEFT loads an
      unmerged adapter.

  Returns:
    The created directory.

  Raises:
    errors.UserError: If the model does not exist or cannot be exported, or the
      directory exists.
  """
  output = pathlib.Path(output)
  files.check_absent(output)
  base = None if base is None else str(base)
  export = prepare(str(name), output.absolute().name, base=base, merge=merge)
  export_lib.write(export, output)
  return output
