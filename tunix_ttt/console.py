"""The command `ttt`: each script of `training/` by a short name."""

import argparse
import pathlib
import runpy
import sys

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors

# Command -> script and what it does.
COMMANDS = {
  "train": ("", "train a model: SFT, DPO or GRPO, as the config says"),
  "pipeline": ("pipeline", "train stage after stage: SFT, DPO, GRPO"),
  "play": ("play", "play against a model in the terminal"),
  "eval": ("eval_generate", "let a model answer an evalset"),
  "report": ("eval_report", "compare two files of answers, or write a page"),
  "judge": ("eval_play", "play a model on every line, or sampled games"),
  "data": ("generate_data", "generate rows of data"),
  "check": ("check_data", "describe a data file and judge its moves"),
  "dataset": ("build_dataset", "build a named, versioned dataset"),
  "evalset": ("evalset", "make or check an evalset"),
  "export": ("export", "export a model for PEFT and transformers"),
  "compare": ("compare", "compare runs side by side"),
}
_TRAINERS = {
  config_lib.SFTConfig: "train_sft_tunix",
  config_lib.DPOConfig: "train_dpo_tunix",
  config_lib.GRPOConfig: "train_grpo_tunix",
}


def scripts() -> pathlib.Path:
  """Returns the directory of the scripts, in a wheel or a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / "commands"
  return installed if installed.is_dir() else package.parent / "training"


def script_of(name: str) -> str:
  """Returns the script of a command; that of `train` by its flag --config.

  Raises:
    errors.UserError: if there is no such command, or no readable config.
  """
  if name not in COMMANDS:
    raise errors.UserError(
      f"there is no command {errors.quote(name)}; commands are"
      f" {', '.join(COMMANDS)}"
    )
  if name != "train":
    return COMMANDS[name][0]
  flags = argparse.ArgumentParser(add_help=False, exit_on_error=False)
  flags.add_argument("--config", type=pathlib.Path, nargs="?")
  path = flags.parse_known_args()[0].config
  # Without a config, the script says that it needs one, or shows its help.
  kind = (
    config_lib.SFTConfig if path is None else type(config_lib.load_any(path))
  )
  return _TRAINERS[kind]


def usage() -> str:
  """Returns the help of `ttt`: a line for each command."""
  lines = [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
  return "\n".join(
    ["usage: ttt COMMAND [FLAGS]", "", *lines, "", "ttt COMMAND --help"]
  )


def _main() -> None:
  arguments = sys.argv[1:]
  if not arguments or arguments[0] in ("-h", "--help"):
    print(usage())
    return
  name = arguments[0]
  path = scripts() / f"{script_of(name)}.py"
  cli.launcher = ["ttt", name]
  sys.argv = [str(path), *arguments[1:]]
  runpy.run_path(str(path))["main"]()


def main() -> None:
  """Runs a command; see `cli.run` for exit codes."""
  cli.run(_main)
