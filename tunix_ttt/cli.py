"""Flags and error reporting shared by the scripts."""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import functools
import importlib
import json
import pathlib
import platform
import re
import shlex
import sys
from typing import Any, NoReturn, TypeVar

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.runs import disk_faults
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

ConfigT = TypeVar("ConfigT", bound=config_lib.SFTConfig)
_EXAMPLE = "example:\n  "
# Words that start the script, where the command `ttt` does; see `console`.
launcher: list[str] = []


def run(main: Callable[[], None]) -> None:
  """Runs a script: how it ends is a message and an exit code.

  A mistake in the input is 2, Ctrl-C 130 and SIGTERM 143.
  """
  try:
    with interrupts.in_script(), disk_faults.silence_consequences():
      main()
  except errors.UserError as error:
    _exit(2, f"error: {error}")
  except interrupts.Interrupted as interrupted:
    message, code = str(interrupted), interrupted.exit_code
  except Exception as error:
    if fault := disk_faults.describe(error):
      _exit(2, f"error: {fault}")
    if not processes.joined():
      raise
    _exit(1, processes.explain(error))
  else:
    return
  # Without the exception, context managers that it found half entered are freed,
  # and clean up, before the process ends.
  interrupts.say(message)
  # An ordinary exit would wait for what JAX compiles in other threads.
  processes.leave(code)


def _exit(code: int, message: str) -> NoReturn:
  print(message, file=sys.stderr)
  if processes.joined():
    processes.leave(code)
  sys.exit(code)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
  """Shows defaults that say something, and an example as it can be copied."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    if action.default is None or isinstance(action.default, (bool, list)):
      return action.help
    return super()._get_help_string(action)

  def _fill_text(self, text: str, width: int, indent: str) -> str:
    if text.startswith(_EXAMPLE):
      return text
    return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
  """A parser of what every script has besides its own: what it tells.

  Commands of a script have parsers of this kind, and so the same flags.
  """

  def __init__(self, **settings: Any):
    super().__init__(**settings, formatter_class=_Help)
    # Without defaults, or those of a command's parser would win.
    told = self.add_argument_group("what is told")
    told.add_argument(
      "--quiet",
      action="store_true",
      default=argparse.SUPPRESS,
      help="print results and errors only; what is written is the same",
    )
    told.add_argument(
      "--log-level",
      choices=progress.LEVELS,
      default=argparse.SUPPRESS,
      help="log messages to show of this library, JAX, Orbax and Tunix; without,"
      " errors alone are shown of the others",
    )

  def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, args: Any = None, namespace: Any = None
  ) -> argparse.Namespace:
    """Parses, and sets up what is told."""
    flags = vars(super().parse_args(args, namespace))
    progress.set_up(flags.pop("quiet", False), flags.pop("log_level", None))
    return argparse.Namespace(**flags)

  def error(self, message: str) -> NoReturn:
    """Prints what is wrong with the flags, and exits."""
    self.exit(2, f"error: {errors.UserError(message)}; see --help\n")


def parser(description: str, example: str) -> argparse.ArgumentParser:
  """Returns a parser whose help ends with an example."""
  program = " ".join(launcher) or None
  if program:
    example = re.sub(r"^python \S+", program, example)
  return _Parser(
    prog=program, description=description, epilog=f"{_EXAMPLE}{example}"
  )


def add_config(
  arguments: argparse.ArgumentParser,
  *,
  required: bool = True,
  otherwise: str = "",
) -> None:
  """Adds `--config` and `--set`; `otherwise` says what stands in for it."""
  arguments.add_argument(
    "--config",
    type=pathlib.Path,
    required=required,
    help=f"YAML file of settings{otherwise}",
  )
  arguments.add_argument(
    "--set",
    action="extend",
    nargs="+",
    default=[],
    metavar="KEY=VALUE",
    help="replace settings, as in --set seed=1 training.max_steps=50",
  )


def add_model(arguments: argparse.ArgumentParser) -> None:
  """Adds --model, as `train.base_model.load` takes it, --config and --set."""
  arguments.add_argument(
    "--model",
    required=True,
    help="base, for the model that the config starts from, or a checkpoint"
    " such as RUN/checkpoint-final",
  )
  add_config(
    arguments,
    required=False,
    otherwise="; without, those of the run that the model is of",
  )
  add_base(arguments)


def add_base(arguments: argparse.ArgumentParser) -> None:
  """Adds --base."""
  arguments.add_argument(
    "--base",
    metavar="DIR",
    help="where the base of an adapter is, or, with --resume, the model that the"
    " run started from, if it is no longer in the recorded place; its digest is"
    " checked",
  )


def config_of_model(
  flags: argparse.Namespace, settings: Sequence[str]
) -> config_lib.SFTConfig:
  """Returns the config that a model is used with.

  Args:
    flags: those of `add_model`.
    settings: assignments that replace what the config says.

  Raises:
    errors.UserError: if there is none, or it is wrong.
  """
  settings = overrides(settings, model__base=flags.base)
  if flags.config is not None:
    return config_lib.load_any(flags.config, settings)
  config = run_manifest.config_of_model(flags.model, settings)
  if config is None:
    raise errors.UserError(
      f"--model {flags.model}: belongs to no run, whose settings say how it"
      " plays; give --config"
    )
  return config


def add_play(arguments: argparse.ArgumentParser) -> None:
  """Adds what says how a model plays: --context, --temperature and --seed."""
  arguments.add_argument("--context", help="in place of play.context")
  arguments.add_argument("--temperature", help="in place of play.temperature")
  arguments.add_argument(
    "--seed", type=seed, help="of the games, in place of the config's"
  )


def add_skip_bad_rows(arguments: argparse.ArgumentParser) -> None:
  """Adds `--skip-bad-rows`."""
  arguments.add_argument(
    "--skip-bad-rows",
    action="store_true",
    help="go on without rows that cannot be read, and record them",
  )


def add_start(arguments: argparse.ArgumentParser) -> None:
  """Adds --model, where a run starts from."""
  arguments.add_argument(
    "--model",
    default="base",
    help="checkpoint to start from, or base for the config's model.name",
  )


def add_data(arguments: argparse.ArgumentParser, use: str) -> None:
  """Adds --data, --max-samples and --skip-bad-rows."""
  arguments.add_argument(
    "--data", help=f"file, built dataset or hub id {use}, in place of data.path"
  )
  arguments.add_argument(
    "--max-samples", type=positive, help="use this many rows at the most"
  )
  add_skip_bad_rows(arguments)


def settings_of_run(flags: argparse.Namespace, **values: object) -> list[str]:
  """Returns the assignments that a training script's flags stand for.

  Args:
    flags: those of `add_config`, `add_data` and `add_run`, and maybe of
      `add_start`.
    **values: more of them; see `overrides`.
  """
  model = getattr(flags, "model", "base")
  return overrides(
    flags.set,
    model__name=None if model == "base" else model,
    model__base=flags.base,
    data__path=flags.data,
    data__max_samples=flags.max_samples,
    data__skip_bad_rows="true" if flags.skip_bad_rows else None,
    **values,
  )


def add_run(arguments: argparse.ArgumentParser) -> None:
  """Adds what every training script has; see `parse_run`."""
  arguments.add_argument(
    "--output",
    type=pathlib.Path,
    help="run directory to make; one under artifacts/training_runs if not given",
  )
  arguments.add_argument(
    "--dry-run",
    action="store_true",
    help="check config, data and model, say what would be run, write nothing",
  )
  arguments.add_argument(
    "--resume",
    type=_resume,
    metavar="latest|STEP",
    help="go on with the run in --output from its latest or this checkpoint",
  )
  add_base(arguments)


def parse_run(arguments: argparse.ArgumentParser) -> argparse.Namespace:
  """Parses the flags of a training script."""
  flags = arguments.parse_args()
  if flags.resume is not None and flags.output is None:
    arguments.error("--resume needs --output, the run directory to go on with")
  interrupts.resume_command = functools.partial(_resumed, flags)
  return flags


def _resumed(flags: argparse.Namespace, run: pathlib.Path | None) -> str:
  """Returns the command that goes on with an interrupted run."""
  more = []
  if run is None and flags.output is not None:
    # It may have been made and not been begun.
    run = run_directory.of_model(flags.output)
  if run is not None:
    # What is given twice counts as it is given last.
    if flags.output is None:
      more += ["--output", str(run)]
    if flags.resume != "latest":
      more += ["--resume", "latest"]
  return same_command(*more)


def same_command(*more: str) -> str:
  """Returns the command that started this script, with more flags."""
  start = launcher or [_python(), sys.argv[0]]
  return shlex.join([*start, *sys.argv[1:], *more])


def command(script: str, *flags: str) -> str:
  """Returns the command that starts another script of the same directory."""
  path = pathlib.Path(sys.argv[0]).with_name(script)
  start = [_python(), str(path)]
  if launcher:
    # Imported lazily: the console imports this module.
    from tunix_ttt import console

    names = {script: name for name, (script, _) in console.COMMANDS.items()}
    start = ["ttt", names[path.stem]]
  return shlex.join([*start, *flags])


def _python() -> str:
  """Returns the interpreter as a user would type it."""
  path = pathlib.Path(sys.executable)
  if path.is_relative_to(pathlib.Path.cwd()):
    return str(path.relative_to(pathlib.Path.cwd()))
  return "python"


def described(flags: argparse.Namespace, config: Any) -> bool:
  """Says what a training script would run, if it is asked for a dry run.

  Args:
    flags: as `parse_run` returns them.
    config: the run's.

  Returns:
    Whether that was all that is asked for.
  """
  if not flags.dry_run:
    return False
  if flags.output is not None and flags.resume is None:
    files.check_output(flags.output)
  # Here, because it needs Tunix.
  from tunix_ttt.train import dry_run
  from tunix_ttt.train import resume_checks

  if flags.resume is not None and flags.output is not None:
    run = run_manifest.RunManifest.read(flags.output)
    config = resume_checks.relocate(config, run, flags.output)
  print(dry_run.describe(config))
  return True


def train(
  flags: argparse.Namespace,
  config: ConfigT,
  start: Callable[[ConfigT, pathlib.Path | None], pathlib.Path],
) -> None:
  """Starts a run or goes on with one, as the flags ask.

  Args:
    flags: as `parse_run` returns them.
    config: the run's.
    start: given the config and the run directory to make; returns that.
  """
  if config.distributed is not None and flags.output is None:
    raise errors.UserError(
      "--output: several processes need it, the same directory on a disk that"
      " they share"
    )
  # Here, because it needs Tunix.
  from tunix_ttt import recipes

  processes.start(config.distributed)
  if flags.resume is None:
    run = start(config, flags.output)
  else:
    step = None if flags.resume == "latest" else flags.resume
    run = recipes.resume(flags.output, config, step=step)
  print(f"trained model: {run / 'checkpoint-final'}", flush=True)
  page = recipes.report(run, config)
  if page is not None:
    print(f"report: {page}")


def _resume(text: str) -> int | str:
  if text == "latest":
    return text
  with contextlib.suppress(argparse.ArgumentTypeError):
    return count(text)
  raise argparse.ArgumentTypeError(
    f"must be latest or a step, found {errors.quote(text)}"
  )


def positive(text: str) -> int:
  """Parses a whole number of at least 1, for argparse."""
  value = _whole(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
  return value


def _whole(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"must be a whole number, found {errors.quote(text)}"
    ) from None


def count(text: str) -> int:
  """Parses a whole number of at least 0, for argparse."""
  value = _whole(text)
  if value < 0:
    raise argparse.ArgumentTypeError(f"must be at least 0, found {value}")
  return value


def seed(text: str) -> int:
  """Parses a random seed, for argparse."""
  value = _whole(text)
  if not 0 <= value <= streams.MAX_SEED:
    raise argparse.ArgumentTypeError(
      f"must be from 0 to {streams.MAX_SEED}, found {errors.quote(value)}"
    )
  return value


def byte_size(text: str) -> int:
  """Parses a size such as 4GB or 500MB into bytes, for argparse."""
  units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
  number, unit = text[:-2], text[-2:].upper()
  if unit not in units or not number.isdecimal() or int(number) < 1:
    raise argparse.ArgumentTypeError(
      f"expected a size such as 4GB or 500MB, found {text}"
    )
  return int(number) * units[unit]


def fraction(text: str) -> float:
  """Parses a number from 0 to 1, for argparse."""
  with contextlib.suppress(ValueError):
    if 0 <= float(text) <= 1:
      return float(text)
  raise argparse.ArgumentTypeError(
    f"must be a number from 0 to 1, found {errors.quote(text)}"
  )


def machine() -> dict[str, Any]:
  """Returns what the results of a benchmark are of."""
  # Here, because most scripts need no JAX before their flags are checked.
  import jax

  return {
    "platform": platform.platform(),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }


def write_results(output: pathlib.Path | None, results: Any) -> None:
  """Writes the results of a benchmark as JSON, where a file is given."""
  if output is not None:
    files.write_text(output, json.dumps(results, indent=2) + "\n")


def require_tunix() -> None:
  """Imports JAX and Tunix, of versions that this package allows.

  Raises:
    errors.UserError: if a package is missing or out of bounds.
  """
  requirements.check()
  # Which takes seconds, and is not thought of as work.
  with progress.stage("starting JAX and Tunix"):
    importlib.import_module("tunix_ttt.train.run_loop")


def overrides(assignments: Sequence[str], **values: object) -> list[str]:
  """Returns `--set` assignments, with those that other flags stand for."""
  keys = {key.replace("__", "."): value for key, value in values.items()}
  return [
    *assignments,
    *(f"{key}={value}" for key, value in keys.items() if value is not None),
  ]
