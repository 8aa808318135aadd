"""Flags, errors and exit codes of all scripts, and the command `ttt`."""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import importlib
import pathlib
import re
import runpy
import shlex
import sys
from typing import Any, NoReturn

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.runs import freed_memory
from tunix_ttt.runs import integrity
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import program_cache
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest

_EXAMPLE = "example:\n  "
# Commands of `ttt`: script and description.
COMMANDS = {
  "doctor": ("doctor", "describe this machine: what fits, and what to set"),
  "train": ("", "train a model: SFT, DPO or GRPO, as the config says"),
  "pipeline": ("pipeline", "train stage after stage: SFT, DPO, GRPO"),
  "play": ("play", "play against a model in the terminal"),
  "eval": ("eval_generate", "let a model answer an evalset"),
  "report": ("eval_report", "compare two files of answers, or write a page"),
  "judge": ("judge", "judge any model exactly, also behind an endpoint"),
  "games": ("eval_play", "play a model on every line, or sampled games"),
  "data": ("generate_data", "generate rows of data"),
  "check": ("check_data", "describe a data file and judge its moves"),
  "dataset": ("build_dataset", "build a named, versioned dataset"),
  "evalset": ("evalset", "make or check an evalset"),
  "export": ("export", "export a model for PEFT and transformers"),
  "compare": ("compare", "compare runs side by side"),
}
# Command that started the script, such as `ttt train`; set by `main`.
_launcher: list[str] = []


def main() -> None:
  """Runs `ttt`; see `run` for exit codes."""
  run(_run_command)


def _run_command() -> None:
  global _launcher
  name, *flags = sys.argv[1:] or ["--help"]
  if name in ("-h", "--help"):
    print("usage: ttt COMMAND [FLAGS]\n")
    for command_name, (_, text) in COMMANDS.items():
      print(f"  {command_name:10} {text}")
    print("\nttt COMMAND --help")
    return
  if name not in COMMANDS:
    raise errors.UserError(
      f"there is no command {errors.quote(name)}; commands are"
      f" {', '.join(COMMANDS)}"
    )
  package = pathlib.Path(__file__).parent
  folder = package / "commands"
  if not folder.is_dir():
    folder = package.parent / "training"
  path = folder / f"{COMMANDS[name][0] or _trainer(flags)}.py"
  _launcher = ["ttt", name]
  sys.argv = [str(path), *flags]
  runpy.run_path(str(path))["main"]()


def _trainer(flags: list[str]) -> str:
  """Returns the training script of the recipe that --config is for."""
  arguments = argparse.ArgumentParser(add_help=False, exit_on_error=False)
  arguments.add_argument("--config", type=pathlib.Path, nargs="?")
  path = arguments.parse_known_args(flags)[0].config
  # Without a config, the script says that it needs one, or shows its help.
  config = config_lib.SFTConfig() if path is None else config_lib.load_any(path)
  return f"train_{config_lib.recipe_of(config)}_tunix"


def run(main: Callable[[], None]) -> None:
  """Runs a script and turns exceptions into messages and exit codes.

  The exit code is 2 for a mistake in the input, 130 for Ctrl-C and 143 for
  SIGTERM.
  """
  freed_memory.keep()
  try:
    with interrupts.in_script(), integrity.silence_consequences():
      main()
  except errors.UserError as error:
    _exit(2, f"error: {error}")
  except interrupts.Interrupted as interrupted:
    message, code = str(interrupted), interrupted.exit_code
  except Exception as error:
    if fault := integrity.describe(error):
      _exit(2, f"error: {fault}")
    if not processes.joined():
      raise
    _exit(1, processes.explain(error))
  else:
    return
  # Outside the `except` block, so that context managers which the exception
  # keeps alive are freed and clean up before the process ends.
  interrupts.say(message)
  # A normal exit would wait for JAX's compilation threads.
  processes.leave(code)


def _exit(code: int, message: str) -> NoReturn:
  print(message, file=sys.stderr)
  if processes.joined():
    processes.leave(code)
  sys.exit(code)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
  """Shows informative defaults, and the example without line breaks."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    if action.default is None or isinstance(action.default, (bool, list)):
      return action.help
    return super()._get_help_string(action)

  def _fill_text(self, text: str, width: int, indent: str) -> str:
    if text.startswith(_EXAMPLE):
      return text
    return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
  """A parser with --quiet and --log-level, also for the commands of a script."""

  def __init__(self, **settings: Any):
    super().__init__(**settings, formatter_class=_Help)
    # A default of a command's parser would replace the script's value.
    group = self.add_argument_group("output to the terminal")
    group.add_argument(
      "--quiet",
      action="store_true",
      default=argparse.SUPPRESS,
      help="print results and errors only; files stay the same",
    )
    group.add_argument(
      "--log-level",
      choices=progress.LEVELS,
      default=argparse.SUPPRESS,
      help="least severe log messages to show from this library, JAX, Orbax and"
      " Tunix; other libraries show only errors if not set",
    )

  def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, args: Any = None, namespace: Any = None
  ) -> argparse.Namespace:
    """Parses the flags and sets up progress and logging."""
    flags = vars(super().parse_args(args, namespace))
    progress.set_up(flags.pop("quiet", False), flags.pop("log_level", None))
    return argparse.Namespace(**flags)

  def error(self, message: str) -> NoReturn:
    """Prints an error about the flags and exits."""
    self.exit(2, f"error: {errors.UserError(message)}; see --help\n")


def parser(description: str, example: str) -> argparse.ArgumentParser:
  """Returns a parser whose help ends with an example."""
  program = " ".join(_launcher) or None
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
  """Adds --config and --set; `otherwise` ends the help of --config."""
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
    help="settings to replace, as in --set seed=1 training.max_steps=50",
  )


def add_model(arguments: argparse.ArgumentParser) -> None:
  """Adds --model, --config, --set and --base; `config_of_model` reads them."""
  arguments.add_argument(
    "--model",
    required=True,
    help="checkpoint such as RUN/checkpoint-final, or base for the config's"
    " model.name",
  )
  add_config(
    arguments,
    required=False,
    otherwise=" (if not set: the settings of the model's run)",
  )
  add_base(arguments)


def add_base(arguments: argparse.ArgumentParser) -> None:
  """Adds --base."""
  arguments.add_argument(
    "--base",
    metavar="DIR",
    help="directory of an adapter's base model or, with --resume, of the model"
    " that the run started from, if it has moved; its digest is checked",
  )


def config_of_model(
  flags: argparse.Namespace, settings: Sequence[str]
) -> config_lib.SFTConfig:
  """Returns the config for the flags of `add_model`.

  It is the one of --config or else of the model's run, with the `settings`
  replaced, a list of `a.b=value` assignments.

  Raises:
    errors.UserError: if neither config exists, or settings are wrong.
  """
  settings = overrides(settings, model__base=flags.base)
  if flags.config is not None:
    config = config_lib.load_any(flags.config, settings)
  else:
    config = run_manifest.config_of_model(flags.model, settings)
  if config is None:
    raise errors.UserError(
      f"--model {flags.model}: belongs to no run whose settings could be used;"
      " give --config"
    )
  return on_backend(flags, config) if hasattr(flags, "backend") else config


def add_backend(arguments: argparse.ArgumentParser) -> None:
  """Adds --backend and --base-url, which `on_backend` reads."""
  arguments.add_argument(
    "--backend",
    choices=("local", "tinker"),
    help="where the model is computed: local devices, or a Tinker-compatible"
    " service (if not set: the service of the config, if any)",
  )
  add_base_url(arguments)


def add_base_url(arguments: argparse.ArgumentParser) -> None:
  """Adds --base-url."""
  arguments.add_argument(
    "--base-url",
    metavar="URL",
    help="address of the service; replaces service.base_url",
  )


def on_backend(
  flags: argparse.Namespace, config: config_lib.SFTConfig
) -> config_lib.SFTConfig:
  """Returns a config with the service that --backend and --base-url ask for.

  Raises:
    errors.UserError: if they contradict each other.
  """
  service = config.service
  if flags.backend == "local":
    if flags.base_url:
      raise errors.UserError("--base-url is of --backend tinker")
    service = None
  elif flags.backend == "tinker" or flags.base_url:
    service = service or config_lib.ServiceConfig()
  if service is not None and flags.base_url:
    service = dataclasses.replace(service, base_url=flags.base_url)
  return dataclasses.replace(config, service=service)


def add_play(arguments: argparse.ArgumentParser) -> None:
  """Adds --context, --temperature and --seed of played games."""
  arguments.add_argument("--context", help="replaces play.context")
  arguments.add_argument("--temperature", help="replaces play.temperature")
  arguments.add_argument(
    "--seed", type=seed, help="random seed of the games; replaces seed"
  )


def add_game(arguments: argparse.ArgumentParser) -> None:
  """Adds --game."""
  arguments.add_argument(
    "--game",
    default=config_lib.GameConfig().name,
    help="game, if no config says it: name or package.module:function",
  )


def add_skip_bad_rows(arguments: argparse.ArgumentParser) -> None:
  """Adds --skip-bad-rows."""
  arguments.add_argument(
    "--skip-bad-rows",
    action="store_true",
    help="skip and record unreadable rows instead of stopping",
  )


def same_command(*more: str) -> str:
  """Returns the command that started this script, with more flags."""
  start = _launcher or [_python(), sys.argv[0]]
  return shlex.join([*start, *sys.argv[1:], *more])


def command(script: str, *flags: str) -> str:
  """Returns the command that starts another script of the same directory."""
  path = pathlib.Path(sys.argv[0]).with_name(script)
  start = [_python(), str(path)]
  if _launcher:
    names = {script: name for name, (script, _) in COMMANDS.items()}
    start = ["ttt", names[path.stem]]
  return shlex.join([*start, *flags])


def _python() -> str:
  """Returns the path of the interpreter, relative or as `python`."""
  path = pathlib.Path(sys.executable)
  if path.is_relative_to(pathlib.Path.cwd()):
    return str(path.relative_to(pathlib.Path.cwd()))
  return "python"


def whole(text: str, least: int, most: int | None = None) -> int:
  """Parses a whole number from `least` to `most`, for argparse."""
  try:
    value = int(text)
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"must be a whole number, found {errors.quote(text)}"
    ) from None
  if value < least or (most is not None and value > most):
    bounds = f"at least {least}" if most is None else f"from {least} to {most}"
    raise argparse.ArgumentTypeError(
      f"must be {bounds}, found {errors.quote(value)}"
    )
  return value


# Parsers of a whole number of at least 1, and of a random seed.
positive = functools.partial(whole, least=1)
seed = functools.partial(whole, least=0, most=streams.MAX_SEED)


def fraction(text: str) -> float:
  """Parses a number from 0 to 1, for argparse."""
  with contextlib.suppress(ValueError):
    if 0 <= float(text) <= 1:
      return float(text)
  raise argparse.ArgumentTypeError(
    f"must be a number from 0 to 1, found {errors.quote(text)}"
  )


def require_tunix() -> None:
  """Checks the versions of required packages, then imports JAX and Tunix.

  Raises:
    errors.UserError: if a package is missing or out of bounds.
  """
  requirements.check()
  # The import takes seconds.
  with progress.stage("starting JAX and Tunix"):
    importlib.import_module("tunix_ttt.train.run_loop")
    program_cache.use()


def overrides(assignments: Sequence[str], **values: object) -> list[str]:
  """Returns assignments, extended by `a__b=value` arguments that are not None."""
  return [*assignments] + [
    f"{key.replace('__', '.')}={value}"
    for key, value in values.items()
    if value is not None
  ]
