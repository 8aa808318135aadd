"""Flags of the training scripts, and the runs that they ask for."""

import argparse
from collections.abc import Sequence
import contextlib
import functools
import pathlib
import re

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest


def parse(
  description: str,
  example: str,
  *,
  data: str,
  has_start: bool = True,
  backends: Sequence[str] = ("local", "tinker"),
) -> argparse.Namespace:
  """Parses the flags of a training script.

  Args:
    description: Description of the script.
    example: Command that the help ends with.
    data: Use of the data, which ends the help of --data.
    has_start: Whether a flag --model names the model to start from.
    backends: Where the model can be computed.
  """
  arguments = cli.parser(description, example)
  cli.add_config(arguments)
  if has_start:
    arguments.add_argument(
      "--model",
      default="base",
      help="checkpoint to start from, or base for the config's model.name",
    )
  arguments.add_argument(
    "--data", help=f"file, built dataset or hub id {data}; replaces data.path"
  )
  arguments.add_argument(
    "--max-samples", type=cli.positive, help="maximum number of rows"
  )
  cli.add_skip_bad_rows(arguments)
  arguments.add_argument(
    "--output",
    type=pathlib.Path,
    help="run directory to create (if not set: one under"
    " artifacts/training_runs)",
  )
  arguments.add_argument(
    "--dry-run",
    action="store_true",
    help="check config, data and model and describe the run; write nothing",
  )
  arguments.add_argument(
    "--resume",
    type=_resume,
    metavar="latest|auto|STEP",
    help="resume the run in --output from its latest or the given checkpoint;"
    " auto starts it if there is none, so that the same command does both",
  )
  cli.add_base(arguments)
  if len(backends) > 1:
    cli.add_backend(arguments)
  elif backends == ("tinker",):
    cli.add_base_url(arguments)
    arguments.add_argument(
      "--train-steps", type=cli.positive, help="replaces training.max_steps"
    )
    arguments.add_argument(
      "--wandb-name",
      type=_name,
      help="name of the run, logged to W&B, and of its directory under"
      " artifacts/training_runs",
    )
    arguments.set_defaults(backend="tinker")
  flags = arguments.parse_args()
  if getattr(flags, "wandb_name", None) and flags.output is None:
    flags.output = run_directory.RUNS_ROOT / flags.wandb_name
  if flags.resume is not None and flags.output is None:
    arguments.error("--resume needs --output, the run directory to resume")
  interrupts.resume_command = functools.partial(_resumed, flags)
  return flags


def _resumed(flags: argparse.Namespace, run: pathlib.Path | None) -> str:
  """Returns the command that resumes an interrupted run."""
  more = []
  if run is None and flags.output is not None:
    # The directory may exist although training has not begun.
    run = run_directory.of_model(flags.output)
  if run is not None:
    # The last of repeated flags counts.
    if flags.output is None:
      more += ["--output", str(run)]
    if flags.resume not in ("latest", "auto"):
      more += ["--resume", "latest"]
  return cli.same_command(*more)


def train(recipe: config_lib.Recipe, flags: argparse.Namespace) -> None:
  """Starts, resumes or only describes a run, depending on the flags."""
  model = getattr(flags, "model", "base")
  is_of_prompts = recipe == "grpo" and flags.data is not None
  settings = cli.overrides(
    flags.set,
    training__max_steps=getattr(flags, "train_steps", None),
    logging__wandb="true" if getattr(flags, "wandb_name", None) else None,
    model__name=None if model == "base" else model,
    model__base=flags.base,
    data__path=flags.data,
    data__max_samples=flags.max_samples,
    data__skip_bad_rows="true" if flags.skip_bad_rows else None,
    episodes__source="prompts" if is_of_prompts else None,
  )
  config = config_lib.load(config_lib.RECIPES[recipe], flags.config, settings)
  if hasattr(flags, "backend"):
    config = cli.on_backend(flags, config)
  cli.require_tunix()
  is_resumed = flags.resume is not None
  if flags.resume == "auto":
    is_resumed = (flags.output / run_directory.MANIFEST).is_file()
  if flags.dry_run:
    # Imported lazily: pulls in Tunix.
    from tunix_ttt import dry_run
    from tunix_ttt.train import resume_checks

    if is_resumed:
      manifest = run_manifest.RunManifest.read(flags.output)
      config = resume_checks.relocate(config, manifest, flags.output)
    elif flags.output is not None:
      files.check_output(flags.output)
    print(dry_run.describe(config))
    return
  if config.distributed is not None and flags.output is None:
    raise errors.UserError(
      "--output: several processes need it, the same directory on a disk that"
      " they share"
    )
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import recipes

  processes.start(config.distributed)
  if processes.largest(is_resumed):
    if not is_resumed:
      # A shared disk may show a new directory to some hosts later.
      processes.await_path(flags.output / run_directory.MANIFEST)
    step = flags.resume if isinstance(flags.resume, int) else None
    run = recipes.resume(flags.output, config, step=step)
  else:
    run = recipes.start(recipe, config, flags.output)
  print(f"trained model: {run / 'checkpoint-final'}", flush=True)
  page = recipes.report(run, config)
  if page is not None:
    print(f"report: {page}")


def _name(text: str) -> str:
  """Parses the name of a directory, for argparse."""
  if re.fullmatch(r"\w[\w.-]*", text):
    return text
  raise argparse.ArgumentTypeError(
    f"must be letters, digits, '.', '-' or '_', found {errors.quote(text)}"
  )


def _resume(text: str) -> int | str:
  if text in ("latest", "auto"):
    return text
  with contextlib.suppress(argparse.ArgumentTypeError):
    return cli.whole(text, 0)
  raise argparse.ArgumentTypeError(
    f"must be latest, auto or a step, found {errors.quote(text)}"
  )
