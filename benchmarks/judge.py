"""Seconds of exact judgement, and conclusions from a hundred sampled games.

A tiny model is trained from scratch twice by `configs/sft_cold_start.yaml`, with
thoughts and without, and judged in each mode. The model without thoughts goes on
by `configs/grpo_plain.yaml`, twice with the same seed: evaluated exactly, and on
a hundred games. With `--published` a published shape with random values answers
a few observations, of all that a game has.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from typing import Any

import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import evaluator
from tunix_ttt.games import catalog
from tunix_ttt.runs import run_directory
from tunix_ttt.train import reference_log_probs

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
GRPO = CONFIGS / "grpo_plain.yaml"
BARE = "data.games.thoughts=none"
# Settings of each mode, and whether its answers have thoughts.
MODES = {
  "greedy, every line": (["play.temperature=0"], True),
  "sampled, 32 answers": (["play.temperature=1"], True),
  "greedy, every line, no thoughts": (["play.temperature=0", BARE], False),
  "sampled, computed, no thoughts": (
    ["play.temperature=1", "play.num_answers=0", BARE],
    False,
  ),
  "sampled, 32 answers, no thoughts": (
    ["play.temperature=1", "play.num_answers=32", BARE],
    False,
  ),
}


def train(run: pathlib.Path, settings: list[str]) -> str:
  """Trains a cold start unless the run exists; returns its model."""
  if not run.exists():
    path = CONFIGS / "sft_cold_start.yaml"
    settings = [*settings, "logging.report=false"]
    recipes.train_sft(
      config_lib.load(config_lib.SFTConfig, path, settings), run
    )
  return str(run / run_directory.FINAL_CHECKPOINT)


def seconds(model: str, settings: list[str]) -> dict[str, float]:
  """Returns the seconds of two evaluations, the first of which compiles."""
  config = config_lib.load(config_lib.GRPOConfig, GRPO, settings)
  evaluate = evaluator.Evaluator(
    reference_log_probs.load(model, config), config
  )
  params, row = evaluate.params, {}
  for name in ("compiling", "evaluation"):
    began = time.perf_counter(), time.process_time()
    row["score"] = round(evaluate(params)["score"], 4)
    row[f"{name}, seconds"] = round(time.perf_counter() - began[0], 2)
    row[f"{name}, CPU seconds"] = round(time.process_time() - began[1], 2)
  return row


def checkpoints(run: pathlib.Path, settings: list[str]) -> list[dict[str, Any]]:
  """Trains by GRPO; returns the evaluations at each step."""
  config = config_lib.load(config_lib.GRPOConfig, GRPO, settings)
  recipes.train_grpo(config, run)
  lines = (run / run_directory.METRICS).read_text().splitlines()
  rows = map(json.loads, lines)
  return [row for row in rows if row["split"] == "eval"]


def compare(
  model: str, runs: pathlib.Path, settings: list[str], num_games: int
) -> list[dict[str, Any]]:
  """Returns sampled and exact shares of points at the steps of a run."""
  common = [BARE, f"model.name={model}", "logging.report=false"]
  common += ["play.temperature=1", "play.opponent=random", *settings]
  exact = checkpoints(runs / "exact", [*common, "play.num_answers=0"])
  games = ["exhaustive_eval=false", f"play.num_games={num_games}"]
  sampled = checkpoints(runs / "sampled", [*common, *games])
  table = []
  for truth, estimate in zip(exact, sampled, strict=True):
    row = {"step": truth["step"]}
    for seat in "XO":
      rate = f"{seat}/random/win_rate"
      row[f"{seat} wins, {num_games} games"] = round(estimate[rate], 4)
      row[f"{seat} wins"] = round(truth[rate], 4)
      row[f"{seat} optimal draws"] = round(
        truth[f"{seat}/optimal/draw_rate"], 4
      )
      row[f"{seat} worst return"] = round(truth[f"{seat}/return/worst"], 4)
    table.append(row)
  return table


def published(
  name: str, base: pathlib.Path, num_layers: int | None, count: int
) -> dict[str, Any]:
  """Returns the seconds in which a large model answers observations."""
  # Imported here: it is a script beside this one.
  import jax
  import jax.numpy as jnp
  import published_runs

  from tunix_ttt.evaluate import decisions
  from tunix_ttt.evaluate import model_player
  from tunix_ttt.evaluate import move_probabilities
  from tunix_ttt.evaluate import state_judge
  from tunix_ttt.rollout import sampler
  from tunix_ttt.rollout import sampling

  if not base.exists():
    published_runs.write_base(name, num_layers, base)
  settings = [BARE, f"model.name={base}", "model.dtype=float32"]
  path = CONFIGS / "sft_qwen2.5_0.5b.yaml"
  settings += ["lora=null", "play.constrained=legal", "play.max_new_tokens=12"]
  config = config_lib.load(config_lib.SFTConfig, path, settings)
  model = reference_log_probs.load("base", config)
  exact = state_judge.exact_play_of(config)
  play = dataclasses.replace(config.play, max_turns=1)
  game_states = exact.decisions[0].states
  env = catalog.of(config).environment()
  player = model_player.Player(model, config, decisions.SingleTurn(env), play)
  states = player.game.agent_states(
    jax.tree.map(lambda leaf: leaf[:count], game_states), 0
  )
  score = move_probabilities.MoveProbabilities(
    model,
    player.game,
    sampler.make_tables(config, model.tokenizer),
    sampling.Sampling(),
    max_new_tokens=play.max_new_tokens,
    batch_size=count,
  )
  keys = jax.random.split(jax.random.key(0), count)
  row: dict[str, Any] = {
    "model": name,
    "observations": count,
    "of": sum(map(len, exact.decisions)),
  }
  for way, call in (
    ("computed", lambda: score(states)),
    (
      "one answer each",
      lambda: player(keys, jax.tree.map(jnp.asarray, states)),
    ),
  ):
    call()
    began = time.perf_counter(), time.process_time()
    call()
    row[f"{way}, seconds"] = round(time.perf_counter() - began[0], 2)
    row[f"{way}, CPU seconds"] = round(time.process_time() - began[1], 2)
  return row


def main() -> None:
  """Trains, judges, compares, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/judge.py --runs runs --output judge.json"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "--runs", type=pathlib.Path, required=True, help="directory of the runs"
  )
  parser.add_argument("--games", type=cli.positive, default=100)
  parser.add_argument(
    "--set", nargs="+", default=[], help="settings of both recipes"
  )
  parser.add_argument(
    "--set-grpo", nargs="+", default=[], help="settings of GRPO alone"
  )
  parser.add_argument("--published", help="a published shape to time as well")
  parser.add_argument("--num-layers", type=cli.positive, help="fewer layers")
  parser.add_argument("--observations", type=cli.positive, default=8)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  results: dict[str, Any] = {}
  models = {
    True: train(flags.runs / "thoughts", flags.set),
    False: train(flags.runs / "moves", [*flags.set, BARE]),
  }
  results["modes"] = {}
  for name, (settings, has_thoughts) in MODES.items():
    row = seconds(models[has_thoughts], [*flags.set, *settings])
    results["modes"][name] = row
    print(name, row, flush=True)
  settings = [*flags.set, *flags.set_grpo]
  table = compare(models[False], flags.runs, settings, flags.games)
  results["checkpoints"] = table
  for row in table:
    print(row, flush=True)
  if flags.published:
    results["published"] = published(
      flags.published,
      flags.runs / "base",
      flags.num_layers,
      flags.observations,
    )
    print(results["published"])
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
