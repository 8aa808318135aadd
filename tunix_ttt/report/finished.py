"""Writes the games, figures and page of a finished run."""

import dataclasses
import gc
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import openings
from tunix_ttt.report import run_page
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.train import base_model


def play(run: pathlib.Path, config: config_lib.SFTConfig) -> game_files.Summary:
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
    first = openings.sample(model, config, config.seed)
    # One of them alone is left where writing them was interrupted.
    games.unlink(missing_ok=True)
    summary.unlink(missing_ok=True)
    matches.write(games, played, model, name, config, first)
    print(matches.table(played), flush=True)
  names = (run_directory.GAMES, run_directory.GAMES_SUMMARY)
  manifest = run_directory.RunManifest.read(run)
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
      play(run, config)
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
