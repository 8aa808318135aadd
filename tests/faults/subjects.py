"""Tiny runs to attack, and the commands that go on with a run or read it."""

from collections.abc import Mapping
import dataclasses
import pathlib
import socket
from typing import Any

import yaml

from tunix_ttt.data import generate
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

RUN = "run"
MADE = "made"
CONFIG = "config.yaml"
# A run's working directory is one below the files that all runs read.
_PAIRS = "pairs.jsonl"

_SFT: dict[str, Any] = {
  "model": {
    "num_layers": 1,
    "embed_dim": 32,
    "hidden_dim": 64,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
  },
  "data": {"games": {"num_games": 60}, "eval_fraction": 0.1},
  "training": {
    "max_steps": 5,
    "batch_size": 3,
    "learning_rate": 3e-3,
    "warmup_steps": 1,
    "eval_every_n_steps": 3,
  },
  "checkpoint": {"save_interval_steps": 2},
  "play": {"max_new_tokens": 12, "num_games": 3, "batch_size": 3},
  "logging": {"log_every_n_steps": 2, "report": False},
}


def _with(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
  """Returns settings with sections changed key by key."""
  merged = {
    k: {**base.get(k, {}), **v} if isinstance(v, dict) else v
    for k, v in changes.items()
  }
  return {**base, **merged}


def _continued(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
  """Returns settings of a pipeline's stage, whose model is the last stage's."""
  settings = _with(base, play={"constrained": True}, **changes)
  del settings["model"]
  return settings


_DPO = _with(_SFT, data={"path": f"../{_PAIRS}", "games": {}})
_GRPO = _with(
  _SFT,
  data={"eval_fraction": 0.0},
  training={"batch_size": 4},
  rollout={"constrained": True},
  play={"constrained": True},
  grpo={"num_generations": 2},
  opponents={"past_selves": [0.5, 0.5], "add_every_n_steps": 2},
  exhaustive_eval=False,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """A kind of run to attack.

  Attributes:
    script: name of the script that makes the run and goes on with it.
    files: settings by file name; `config.yaml` is what the script is given.
    processes: number of processes that work together.
    devices: virtual devices of each process.
  """

  script: str
  files: Mapping[str, Any]
  processes: int = 1
  devices: int = 1

  def prepare(self, directory: pathlib.Path) -> None:
    """Makes the working directory of a run."""
    directory.mkdir(parents=True)
    for name, settings in self.files.items():
      (directory / name).write_text(yaml.safe_dump(settings))

  def commands(self, is_resumed: bool) -> list[list[str]]:
    """Returns the arguments of each process, relative to the run's parent."""
    common = [self.script, "--config", CONFIG, "--output", RUN]
    if is_resumed and self.script != "pipeline.py":
      common += ["--resume", "latest"]
    if self.processes == 1:
      return [common]
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    settings = [
      f"distributed.coordinator=localhost:{port}",
      f"distributed.num_processes={self.processes}",
      "distributed.initialization_timeout_seconds=30",
      "distributed.heartbeat_timeout_seconds=10",
    ]
    return [
      [*common, "--set", *settings, f"distributed.process_id={number}"]
      for number in range(self.processes)
    ]


SUBJECTS = {
  "sft": Subject(script="train_sft_tunix.py", files={CONFIG: _SFT}),
  "lora": Subject(
    script="train_sft_tunix.py",
    files={CONFIG: _with(_SFT, lora={"rank": 2})},
  ),
  # With games on every line, figures and a page.
  "reported": Subject(
    script="train_sft_tunix.py",
    files={
      CONFIG: _with(_SFT, play={"constrained": True}, logging={"report": True})
    },
  ),
  "dpo": Subject(script="train_dpo_tunix.py", files={CONFIG: _DPO}),
  "grpo": Subject(script="train_grpo_tunix.py", files={CONFIG: _GRPO}),
  "grpo_stale": Subject(
    script="train_grpo_tunix.py",
    files={
      CONFIG: _with(
        _GRPO, rollout={"max_staleness": 1}, mesh={"layout": "split"}
      )
    },
    devices=2,
  ),
  "pipeline": Subject(
    script="pipeline.py",
    files={
      CONFIG: {
        "pairs": {"count": 20},
        "sft": {"config": "sft.yaml"},
        "dpo": {"config": "dpo.yaml"},
        "grpo": {"config": "grpo.yaml"},
      },
      "sft.yaml": _with(_SFT, play={"constrained": True}),
      "dpo.yaml": _continued(_SFT, data={"games": {}}),
      "grpo.yaml": _continued(_GRPO),
    },
  ),
  "two_processes": Subject(
    script="train_sft_tunix.py",
    files={
      CONFIG: _with(
        _SFT,
        mesh={"fsdp": 2},
        training={"batch_size": 4},
        play={"batch_size": 4},
      )
    },
    processes=2,
  ),
}

# They are several runs, or several commands.
KILLED_ONLY = ("pipeline", "two_processes")


def write_data(directory: pathlib.Path) -> None:
  """Writes the files that runs read, in the parent of working directories."""
  generate.write(directory / _PAIRS, "dpo", board_kinds.Pairs(), 40, 0)


@dataclasses.dataclass(frozen=True)
class Action:
  """A command that reads a run.

  Attributes:
    name: its name in reports.
    arguments: name of the script and its flags.
    reads: names in the run's directory that it depends on.
    goes_on: whether it goes on with the run; else it writes into `made`.
    writes: whether it writes anything.
  """

  name: str
  arguments: list[str]
  reads: tuple[str, ...]
  goes_on: bool = False
  writes: bool = True


def actions(
  case: pathlib.Path,
  original: pathlib.Path,
  manifest: run_manifest.RunManifest,
  steps: list[int],
) -> list[Action]:
  """Lists the commands to attack a run with.

  Args:
    case: directory that holds `run`, its config, and `made`.
    original: the run that is never damaged.
    manifest: manifest of the run.
    steps: steps of which there are checkpoints.
  """
  run, made = case / RUN, case / MADE
  final = run_directory.FINAL_CHECKPOINT
  script = f"train_{manifest.recipe}_tunix.py"
  train = [script, "--config", str(case / CONFIG), "--output", str(run)]
  state = (
    run_directory.MANIFEST,
    run_directory.METRICS,
    run_directory.TOKENIZER,
  )
  state += (
    run_directory.ROLLOUTS,
    run_directory.OPPONENTS,
    run_directory.BEST_CHECKPOINT,
  )
  is_finished = manifest.status == "finished"
  latest = (
    (run_directory.MANIFEST, final)
    if is_finished
    else (*state, run_directory.CHECKPOINTS)
  )
  resume = [*train, "--resume", "latest"]
  found = [Action("resume", resume, latest, True, not is_finished)]
  if len(steps) > 1:
    back = [*train, "--resume", str(steps[-2])]
    reads = (*state, f"{run_directory.CHECKPOINTS}/{steps[-2]}")
    found.append(Action("back", back, reads, True))
  if is_finished:
    model = ["--model", str(run / final)]
    play = ["eval_play.py", *model, "--episodes", "2"]
    play += ["--output", str(made / "games.jsonl")]
    export = ["export.py", *model, "--output", str(made / "export")]
    if manifest.config["lora"] is not None:
      # PEFT needs a base of Hugging Face's.
      export.append("--merge")
    page = ["--output", str(made / "page.html")]
    report = ["eval_report.py", "--run", str(run), *page]
    compared = ["compare.py", str(run), str(original), *page]
    of_model = (run_directory.MANIFEST, final)
    of_page = (
      run_directory.MANIFEST,
      run_directory.METRICS,
      run_directory.GAMES_SUMMARY,
    )
    shown = (*of_page, run_directory.GAMES, run_directory.ROLLOUTS, final)
    found += [
      Action("play", play, of_model),
      # The card of a model without its run says less.
      Action("export", export, (final,)),
      Action("report", report, shown),
      Action("compare", compared, of_page),
    ]
  return found
