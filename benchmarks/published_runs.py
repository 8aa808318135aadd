"""Whole runs of a published model's shape: SFT, GRPO, export, with random values.

Each stage is the command that users call, in a process of its own. Weights are
random and the vocabulary is synthetic, so that nothing is downloaded; a model
that has learned nothing plays whole games because `rollout.constrained` keeps
its moves legal. With `--repeat` GRPO is run twice, and once more killed at its
checkpoint and resumed, and the digests of the three models are compared.
"""

import argparse
from collections.abc import Sequence
import json
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import record

from tunix_ttt import cli

ROOT = pathlib.Path(__file__).parents[1]
FINAL = "checkpoint-final"


def write_base(name: str, num_layers: int | None, output: pathlib.Path) -> None:
  """Writes a model with random values as a Hugging Face directory."""
  # Imported here: this is run in a process that gives its memory back.
  import dataclasses

  import game_tables

  from tunix_ttt import errors
  from tunix_ttt.games import catalog
  from tunix_ttt.models import checkpoints
  from tunix_ttt.models import speeds
  from tunix_ttt.models.families import specs
  from tunix_ttt.models.hub import hub_export

  spec = specs.published(name, "bfloat16")
  if spec is None:
    raise errors.UserError(f"--model: {name} is not known to Tunix")
  if num_layers is not None:
    spec = dataclasses.replace(spec, num_layers=num_layers, layer_types=None)
  games = [catalog.load("tictactoe", thoughts=False)]
  model = checkpoints.Model(
    module=speeds.random_model(spec),
    spec=spec,
    tokenizer=game_tables.make_tokenizer(games, spec.vocab_size),
    revision="",
  )
  export = hub_export.prepare(model, merge=False, max_shard_size=4 * 10**9)
  hub_export.write(export, output)


def start(script: str, *arguments: Any) -> subprocess.Popen[str]:
  """Starts one of the library's commands."""
  command = [sys.executable, ROOT / "training" / script, "--quiet", *arguments]
  return subprocess.Popen(
    list(map(str, command)), stdout=subprocess.PIPE, text=True
  )


def call(script: str, *arguments: Any) -> dict[str, Any]:
  """Runs a command to its end; returns its seconds, memory and output."""
  began = time.perf_counter()
  process = start(script, *arguments)
  assert process.stdout
  try:
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
  except BaseException:
    # Interrupted alone, it would leave the accelerator to a child.
    process.kill()
    raise
  if code := os.waitstatus_to_exitcode(status):
    sys.exit(code)
  return {
    "seconds": round(time.perf_counter() - began, 1),
    "host_peak_bytes": usage.ru_maxrss * 1024,
    "output": output,
  }


def metrics(run: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of training steps that a run has written so far."""
  path = run / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  rows = map(json.loads, lines)
  return [row for row in rows if row["split"] == "train"]


def median(rows: Sequence[dict[str, Any]], name: str) -> float:
  """Returns the median of a metric over all steps but the first, which compiles."""
  values = sorted(row[name] for row in rows[1:] or rows)
  return values[len(values) // 2]


def measure(script: str, run: pathlib.Path, *arguments: Any) -> dict[str, Any]:
  """Trains; returns times and peaks beside the estimate of the dry run."""
  plan = call(script, *arguments, "--dry-run")["output"]
  (size, unit), *_ = re.findall(r"in all +([\d.]+) (GiB|MiB)", plan)
  row = call(script, *arguments, "--output", run)
  row.pop("output")
  rows = metrics(run)
  row |= {
    "estimated_bytes": round(float(size) * {"GiB": 2**30, "MiB": 2**20}[unit]),
    "tokens_per_second": round(median(rows, "tokens_per_second"), 1),
    "until_first_step": rows[0]["seconds"],
  }
  if "memory_bytes" in rows[0]:
    row["device_peak_bytes"] = max(step["memory_bytes"] for step in rows)
    for name in ("seconds_sampling", "seconds_training"):
      row[name] = round(median(rows, name), 4)
  return row


def digest(run: pathlib.Path) -> str:
  """Returns the digest of a run's final weights."""
  return json.loads((run / FINAL / "model.json").read_text())["params"]


def kill_and_resume(
  script: str, run: pathlib.Path, step: int, *arguments: Any
) -> int:
  """Kills a run after a checkpoint, resumes it; returns steps at the kill."""
  process = start(script, *arguments, "--output", run)
  while process.poll() is None:
    if (run / "checkpoints" / str(step)).exists():
      process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
  steps = len(metrics(run))
  call(script, *arguments, "--output", run, "--resume", "latest")
  return steps


def main() -> None:
  """Trains, compares, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/published_runs.py --runs runs --output runs.json",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
  parser.add_argument(
    "--num-layers",
    type=cli.positive,
    help="fewer, to try it on a small machine",
  )
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory for the runs"
  )
  parser.add_argument("--steps", type=cli.positive, default=10)
  parser.add_argument("--games", type=cli.positive, default=128)
  parser.add_argument(
    "--evaluate-on-games",
    type=cli.positive,
    metavar="GAMES",
    help="evaluate on sampled games; exactly takes hours on a processor",
  )
  parser.add_argument(
    "--whole", action="store_true", help="train all weights, without LoRA"
  )
  parser.add_argument(
    "--repeat", action="store_true", help="compare runs of the same config"
  )
  parser.add_argument(
    "--set",
    nargs="+",
    default=[],
    metavar="KEY=VALUE",
    help="replace settings of both configs, as in --set model.remat=none",
  )
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  base: pathlib.Path = flags.runs / "base"
  if not base.exists():
    spawn = multiprocessing.get_context("spawn")
    maker = spawn.Process(
      target=write_base, args=(flags.model, flags.num_layers, base)
    )
    maker.start()
    maker.join()
    if maker.exitcode:
      sys.exit(maker.exitcode)
  common = [
    f"training.max_steps={flags.steps}",
    "training.warmup_steps=0",
    f"training.eval_every_n_steps={flags.steps}",
    f"checkpoint.save_interval_steps={-(-flags.steps // 2)}",
    "logging.report=false",
    *(["lora=null"] if flags.whole else []),
  ]
  configs = ROOT / "configs"
  results: dict[str, Any] = {}

  def report(name: str, row: dict[str, Any]) -> None:
    results[name] = row
    print(
      name, *(f"{key} {value}" for key, value in row.items()), sep="  ",
      flush=True,
    )  # fmt: skip

  sft = flags.runs / "sft"
  settings = [f"model.name={base}", f"data.games.num_games={8 * flags.games}"]
  supervised = ["--config", configs / "sft_qwen2.5_0.5b.yaml"]
  supervised += ["--set", *settings, *common, *flags.set]
  report("SFT", measure("train_sft_tunix.py", sft, *supervised))
  settings = [f"training.batch_size={flags.games}", "rollout.constrained=legal"]
  if games := flags.evaluate_on_games:
    settings += ["exhaustive_eval=false", f"play.num_games={games}"]
  arguments = ["--config", configs / "grpo_qwen2.5_0.5b.yaml"]
  arguments += ["--model", sft / FINAL]
  arguments += ["--set", *settings, *common, *flags.set]
  script, run = "train_grpo_tunix.py", flags.runs / "grpo"
  report("GRPO", measure(script, run, *arguments))
  exported = call(
    "export.py", "--model", run / FINAL, "--output", flags.runs / "export"
  )
  exported.pop("output")
  report("export", exported)
  if flags.repeat:
    again, resumed = flags.runs / "again", flags.runs / "resumed"
    call(script, *arguments, "--output", again)
    killed = kill_and_resume(script, resumed, -(-flags.steps // 2), *arguments)
    report(
      "repeat",
      {
        "equal_again": digest(again) == digest(run),
        "killed_after_step": killed,
        "equal_resumed": digest(resumed) == digest(run),
        "first_step_that_differs": next(
          (
            number
            for number, rows in enumerate(
              zip(metrics(run), metrics(again), strict=True), 1
            )
            if rows[0]["loss"] != rows[1]["loss"]
          ),
          None,
        ),
      },
    )
  record.write(
    flags.output,
    {
      "xla_flags": os.environ.get("XLA_FLAGS", ""),
      "settings": {
        name: str(value) for name, value in vars(flags).items()
        if name != "output"
      },
      **results,
    },
  )  # fmt: skip


if __name__ == "__main__":
  cli.run(main)
